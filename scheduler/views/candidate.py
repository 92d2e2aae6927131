"""One candidate with everything the ledger knows of it, and why it or a run of it is where it is.

The explanation is an answer in one sentence and the decisions it rests on. It explains what was decided; it decides
nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scheduler.domain.candidate import Candidate, CandidateState, CandidateStats
from scheduler.domain.decision import (
    Combine,
    Decision,
    DecisionRecord,
    Effect,
    GateSettings,
    MeasureBaseline,
    Retry,
)
from scheduler.domain.run import Cancelled, Finished, Queued, Run, Running, Scored
from scheduler.domain.text import clean, count, flat, one_line
from scheduler.ledger import Ledger
from scheduler.policy.decide import awaited_control
from scheduler.policy.dispatch import explain_waiting
from scheduler.policy.explain import describe_effect
from scheduler.policy.siblings import round_goes_on
from scheduler.policy.source_notes import compressed_bytes, read_notes
from scheduler.views import View, jsonable, utc
from scheduler.views.candidates import MergeRow, Row, candidate_row, describe_merge, made_by, merged_into
from scheduler.views.facts import LabFacts, noise_parts
from scheduler.views.runs import RunView, is_pending, last_failure, run_view, state_word


@dataclass(frozen=True, slots=True)
class CandidateView(View):
    """`diff` is a unified diff of train.py against the baseline it was made from, "" for the first baseline.

    `source_notes` are what a reader of its train.py should look at; they decide nothing.
    `merge` is what the scheduler made it of, None for the ideas of others; `merged_into` are unions with its patch.
    """

    standing: Row
    author: str
    hypothesis: str
    commit: str
    made_from: str | None
    train_sha256: str
    fingerprint: str
    sandbox: str
    compressed_bytes: int
    source_notes: tuple[str, ...]
    submitted_at: str
    runs: tuple[RunView, ...]
    decisions: tuple[DecisionRecord, ...]
    merge: MergeRow | None
    merged_into: tuple[MergeRow, ...]
    diff: str


@dataclass(frozen=True, slots=True)
class Waiting(View):
    """A run that is not over, and what it is waiting for."""

    run: str
    state: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Explanation(View):
    """`answer` is the sentence; `note` what is needed to read it right, "" when nothing is.

    `decisions` are all that were taken on the candidate, oldest first.
    """

    subject: str
    candidate: str
    name: str
    status: str
    answer: str
    note: str
    rule: str
    decisions: tuple[DecisionRecord, ...]
    waiting: tuple[Waiting, ...]


def candidate_view(facts: LabFacts, candidate: Candidate) -> CandidateView:
    source = facts.ledger.candidates.train_py(candidate.id)
    return CandidateView(
        standing=candidate_row(facts, candidate),
        author=one_line(candidate.author),
        hypothesis=one_line(candidate.hypothesis),
        commit=candidate.commit,
        made_from=candidate.base_id,
        train_sha256=candidate.train_sha256,
        fingerprint=candidate.fingerprint,
        sandbox=facts.lab.sandbox,
        compressed_bytes=compressed_bytes(source),
        source_notes=read_notes(source),
        submitted_at=utc(candidate.submitted_at),
        runs=tuple(run_view(facts, run) for run in facts.runs_of[candidate.id]),
        decisions=facts.decisions_of[candidate.id],
        merge=made_by(facts, candidate),
        merged_into=merged_into(facts, candidate),
        diff=diff_of(facts.ledger, candidate),
    )


@jsonable.register
def _(record: DecisionRecord) -> dict[str, object]:
    """`base` is what the effect is against; `parts` and `predicted_bpb` are a merge's."""
    base, effect = compared_with(record), effect_in(record.decision)
    merge = record.decision if isinstance(record.decision, Combine) else None
    return {
        "decided_at": utc(record.decided_at),
        "kind": record.kind,
        "sentence": flat(record.sentence),
        "reason": one_line(record.decision.reason),
        "base": base.candidate_id,
        "effect_bpb": jsonable(effect.diff if effect else None),
        "effect_se_bpb": jsonable(effect.se if effect else None),
        "effect_shrunken_bpb": jsonable(effect.shrunken if effect else None),
        "p_better": jsonable(effect.p_better if effect else None),
        "candidate_runs": record.candidate.n,
        "base_runs": base.n,
        "noise_sd_bpb": jsonable(record.noise.sigma),
        "noise_repeats": record.noise.df,
        "noise_parts": jsonable(noise_parts(record.noise)),
        "gates": record.gates.name,
        "parts": list(merge.parts) if merge else [],
        "predicted_bpb": jsonable(merge.predicted if merge else None),
    }


def effect_in(decision: Decision) -> Effect | None:
    """None where no scores were compared."""
    return None if isinstance(decision, MeasureBaseline | Retry | Combine) else decision.effect


def compared_with(record: DecisionRecord) -> CandidateStats:
    """The baseline of that time, or the older one that the candidate was made from."""
    base_id = None if isinstance(record.decision, Retry) else record.decision.base_id
    own = record.own_base
    return own if own is not None and own.candidate_id == base_id else record.base


def diff_of(ledger: Ledger, candidate: Candidate) -> str:
    """Unified diff of train.py against the baseline it was made from, cleaned; "" for the first baseline."""
    if candidate.base_id is None:
        return ""
    refs = (candidate.base_id, candidate.id)
    before, after = (clean(ledger.candidates.train_py(ref).decode("utf-8", "replace")).splitlines() for ref in refs)
    old, new = (f"{ref}/train.py" for ref in refs)
    return "\n".join(difflib.unified_diff(before, after, old, new, lineterm=""))


def explain_candidate(facts: LabFacts, candidate: Candidate, slots: int | None) -> Explanation:
    """`slots`: how many the running scheduler has, None when there is none."""
    decisions = facts.decisions_of[candidate.id]
    waiting = tuple(_waiting(facts, run, slots) for run in facts.runs_of[candidate.id] if is_pending(run))
    return Explanation(
        subject=candidate.id,
        candidate=candidate.id,
        name=one_line(candidate.name),
        status=candidate.state.value,
        answer=_answer(facts, candidate, decisions, waiting, slots),
        note="; ".join(filter(None, _notes(facts, candidate, decisions))),
        rule=describe_gates(decisions[-1].gates if decisions else facts.lab.gates),
        decisions=decisions,
        waiting=waiting,
    )


def explain_run(facts: LabFacts, run: Run, slots: int | None) -> Explanation:
    """About this run alone; the decisions shown are its candidate's."""
    about = explain_candidate(facts, facts.by_id[run.candidate_id], slots)
    waiting = _waiting(facts, run, slots)
    return Explanation(
        subject=run.id,
        candidate=about.candidate,
        name=about.name,
        status=waiting.state,
        answer=waiting.sentence,
        note="",
        rule=about.rule,
        decisions=about.decisions,
        waiting=(waiting,) if is_pending(run) else (),
    )


def not_running(ledger: Ledger, tag: str) -> str:
    """What to say where no process runs the lab's queue: a search that is not over goes on as one."""
    verb = "search" if ledger.searches.current(tag) else "submit"
    return f"no process runs the queue: start it with `arsched {verb}`"


def waiting_for(facts: LabFacts, run: Run, slots: int | None) -> str:
    """Why a queued run is not running, in one sentence."""
    if slots is None:
        return not_running(facts.ledger, facts.lab.tag)
    return explain_waiting(run, facts.queued, facts.running, slots, facts.board)


def describe_gates(gates: GateSettings) -> str:
    """The promotion rule in one sentence with its numbers."""
    if gates.max_runs == 1:
        return f"gates {gates.name!r}: one run promotes at P ≥ {gates.promote_now:.2f}, else it is dropped"
    bars = f" (both allow half the doubt after {gates.halve_after} candidates)" if gates.halve_after else ""
    if gates.drift_promote > gates.promote_now:
        bars += f", both at least {gates.drift_promote:g} where the machine may drift or was not alike for both"
        bars += f" and {gates.unsteady_promote:g} where scores have shown a drift"
    last = f"after {gates.max_runs} runs"
    if gates.drift_runs:
        last += f", or {gates.max_runs + gates.drift_runs} where only that keeps it out,"
    near_miss = f", after {gates.shelve_runs} runs with P ≥ {gates.shelve_from:.2f} it is kept as a near-miss"
    return (
        f"gates {gates.name!r}: one run promotes at P ≥ {gates.promote_now:.2f}, "
        f"P ≥ {gates.repeat_from:.2f} earns a repeat, then P ≥ {gates.promote:.2f} promotes{bars}; "
        f"below {gates.drop:.2f} or {last} it is dropped{near_miss if gates.combine else ''}"
        f"{', decided in rounds' if gates.rounds else ''}"
    )


def _answer(
    facts: LabFacts,
    candidate: Candidate,
    decisions: Sequence[DecisionRecord],
    waiting: Sequence[Waiting],
    slots: int | None,
) -> str:
    match candidate.state:
        case CandidateState.BASELINE | CandidateState.PROMOTED:
            return _why_promoted(facts, candidate, decisions)
        case CandidateState.DISCARDED if decisions:
            return one_line(decisions[-1].decision.reason)
        case CandidateState.SHELVED if decisions:
            return _why_shelved(decisions)
        case CandidateState.FAILED:
            failure = last_failure(facts.runs_of[candidate.id])
            status, reason = (one_line(failure.status), one_line(failure.reason)) if failure else ("no run", "")
            return f"no score ({status}): {reason or 'see `arsched logs`'}"
        case CandidateState.CANCELLED:
            reasons = [run.state.reason for run in facts.runs_of[candidate.id] if isinstance(run.state, Cancelled)]
            return f"cancelled: {one_line(reasons[-1]) if reasons else 'by hand'}"
    if waiting:
        return f"undecided: {waiting[0].run} {waiting[0].sentence}"
    board = facts.board
    if board and board.first_baseline and board.baseline.n < board.gates.first_baseline_runs:
        return (
            f"undecided: the first baseline has {board.baseline.n} of {count(board.gates.first_baseline_runs, 'run')}"
        )
    if board and round_goes_on(board):
        return "undecided: its runs are over, and its round has others that run"
    if board and slots is not None and (control := awaited_control(board, candidate.id)):
        return f"undecided: its runs are over; it waits for {control.reason}"
    return f"undecided: its runs are over; {_why_none_yet(facts, slots)}"


def _why_none_yet(facts: LabFacts, slots: int | None) -> str:
    return not_running(facts.ledger, facts.lab.tag) if slots is None else "the decision on it is due"


def _why_promoted(facts: LabFacts, candidate: Candidate, decisions: Sequence[DecisionRecord]) -> str:
    promotion = next((p for p in reversed(facts.promotions) if p.candidate_id == candidate.id), None)
    if promotion is None:
        return "it is what the lab began with: the first baseline"
    over = f"{promotion.base_id} {one_line(facts.name(promotion.base_id))}"
    reasons = [record.decision.reason for record in decisions if record.kind == "promote"]
    return f"promoted over {over}: {one_line(reasons[-1]) if reasons else 'by hand'}"


def _why_shelved(decisions: Sequence[DecisionRecord]) -> str:
    """On its own account, or because a merge took its patch before its runs were over."""
    shelved = next((record for record in reversed(decisions) if record.kind == "shelve"), None)
    if shelved is not None:
        return f"kept as a near-miss: {one_line(shelved.decision.reason)}"
    return f"kept, its patch was to be merged: {one_line(decisions[-1].decision.reason)}"


def _notes(facts: LabFacts, candidate: Candidate, decisions: Sequence[DecisionRecord]) -> Iterator[str]:
    """What is to be known besides the decision on it alone."""
    made = made_by(facts, candidate)
    if made is not None:
        yield describe_merge(made)
    yield _moved_base(facts, candidate, decisions)
    for union in merged_into(facts, candidate):
        yield f"its patch went into {union.candidate} {union.name} ({union.status})"


def _moved_base(facts: LabFacts, candidate: Candidate, decisions: Sequence[DecisionRecord]) -> str:
    """Settled against a later baseline than it was made from: what the idea did to its own."""
    base, effect = candidate.base_id, facts.effect(candidate)
    settled = candidate.state in (CandidateState.DISCARDED, CandidateState.SHELVED)
    if not settled or not decisions or base is None or effect is None:
        return ""
    judged_by = decisions[-1].base.candidate_id
    if judged_by == base:
        return ""
    by, own = (f"{ref} {one_line(facts.name(ref))}" for ref in (judged_by, base))
    return f"the baseline had moved to {by}; on {own}, which it was made from, it did {describe_effect(effect)}"


def _waiting(facts: LabFacts, run: Run, slots: int | None) -> Waiting:
    return Waiting(run.id, state_word(run), _sentence(facts, run, slots))


def _sentence(facts: LabFacts, run: Run, slots: int | None) -> str:
    match run.state:
        case Queued(last_problem=problem):
            again = f" (an earlier attempt did not count: {one_line(problem)})" if problem else ""
            return f"waits: {waiting_for(facts, run, slots)}{again}"
        case Running(attempt=attempt, slot_id=slot):
            return f"runs on {slot}, attempt {attempt}"
        case Cancelled(reason=reason):
            return f"was cancelled: {one_line(reason)}"
        case Finished(result=result):
            if isinstance(result.verdict, Scored):
                return f"ended {result.verdict.status}: val_bpb {result.verdict.val_bpb:.6f}"
            return clean(f"ended {result.verdict.status}: {result.verdict.reason}")
