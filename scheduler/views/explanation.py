"""Why a candidate was promoted, repeated, merged, kept or dropped, and why a run is not running: an answer in one
sentence, and the decisions it rests on. Explains what was decided; decides nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scheduler.domain.candidate import Candidate, CandidateState
from scheduler.domain.decision import DecisionRecord, GateSettings
from scheduler.domain.result import Scored
from scheduler.domain.run import Cancelled, Finished, Queued, Run, Running
from scheduler.domain.text import clean, one_line
from scheduler.policy.dispatch import explain_waiting
from scheduler.policy.explain import describe_effect, signed
from scheduler.views.candidate_details import DecisionView, decision_view
from scheduler.views.facts import LabFacts
from scheduler.views.leaderboard import last_failure
from scheduler.views.merging import MergeRow, made_by, merged_into
from scheduler.views.plain import View

NOBODY = "nobody runs the queue: start it with `arsched submit`"


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
    decisions: tuple[DecisionView, ...]
    waiting: tuple[Waiting, ...]


def explain_candidate(facts: LabFacts, candidate: Candidate, slots: int | None) -> Explanation:
    """`slots`: how many the running scheduler has, None when nobody runs the queue."""
    decisions = facts.decisions_of[candidate.id]
    waiting = tuple(_waiting(facts, run, slots) for run in facts.runs_of[candidate.id] if _is_pending(run))
    return Explanation(
        subject=candidate.id,
        candidate=candidate.id,
        name=one_line(candidate.name),
        status=candidate.state.value,
        answer=_answer(facts, candidate, waiting),
        note="; ".join(filter(None, _notes(facts, candidate))),
        rule=describe_gates(decisions[-1].gates if decisions else facts.lab.gates),
        decisions=tuple(map(decision_view, decisions)),
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
        waiting=(waiting,) if _is_pending(run) else (),
    )


def waiting_for(facts: LabFacts, run: Run, slots: int | None) -> str:
    """Why a queued run is not running, in one sentence."""
    return NOBODY if slots is None else explain_waiting(run, facts.queued, facts.running, slots, facts.board)


def describe_gates(gates: GateSettings) -> str:
    """The promotion rule in one sentence with its numbers."""
    return (
        f"gates {gates.name!r}: one run promotes at P ≥ {gates.promote_now:.2f}, "
        f"P ≥ {gates.repeat_from:.2f} earns a repeat, then P ≥ {gates.promote:.2f} promotes; "
        f"below {gates.drop:.2f} or after {gates.max_runs} runs it is dropped"
        + (
            f", after {gates.shelve_runs} runs with P ≥ {gates.shelve_from:.2f} it is kept as a near-miss"
            if gates.combine
            else ""
        )
    )


def _answer(facts: LabFacts, candidate: Candidate, waiting: tuple[Waiting, ...]) -> str:
    said = facts.decisions_of[candidate.id]
    match candidate.state:
        case CandidateState.BASELINE | CandidateState.PROMOTED:
            return _why_promoted(facts, candidate)
        case CandidateState.DISCARDED if said:
            return one_line(said[-1].decision.reason)
        case CandidateState.SHELVED if said:
            return _why_shelved(said)
        case CandidateState.FAILED:
            return _why_failed(facts, candidate)
        case CandidateState.CANCELLED:
            reasons = [run.state.reason for run in facts.runs_of[candidate.id] if isinstance(run.state, Cancelled)]
            return f"cancelled: {one_line(reasons[-1]) if reasons else 'by hand'}"
    if waiting:
        return f"undecided: {waiting[0].run} {waiting[0].sentence}"
    return _why_undecided(facts)


def _notes(facts: LabFacts, candidate: Candidate) -> Iterator[str]:
    """What is to be known beside the decision on it alone."""
    made = made_by(facts, candidate)
    if made is not None:
        yield describe_merge(made)
    yield _moved_base(facts, candidate, facts.decisions_of[candidate.id])
    for union in merged_into(facts, candidate):
        yield f"its patch went into {union.candidate} {union.name} ({union.status})"


def describe_merge(row: MergeRow) -> str:
    """`union of c0004 a + c0007 b on c0003: predicted −0.0120, measured −0.0101 ± 0.0040`"""
    what = f"{row.kind} of {row.patches} on {row.base}: predicted {signed(row.predicted_bpb)}"
    if row.measured_bpb is None or row.measured_se_bpb is None:
        return f"{what}, {row.problem or 'not measured yet'}"
    return f"{what}, measured {signed(row.measured_bpb)} ± {row.measured_se_bpb:.4f}"


def _moved_base(facts: LabFacts, candidate: Candidate, said: Sequence[DecisionRecord]) -> str:
    """Settled against a later baseline than it was made from: what the idea did to its own."""
    base, effect = candidate.base_id, facts.effect(candidate)
    settled = candidate.state in (CandidateState.DISCARDED, CandidateState.SHELVED)
    if not settled or not said or base is None or effect is None:
        return ""
    judged_by = said[-1].base.candidate_id
    if judged_by == base:
        return ""
    by, own = (f"{ref} {one_line(facts.name(ref))}" for ref in (judged_by, base))
    return f"the baseline had moved to {by}; on {own}, which it was made from, it did {describe_effect(effect)}"


def _why_promoted(facts: LabFacts, candidate: Candidate) -> str:
    promotion = next((p for p in reversed(facts.promotions) if p.candidate_id == candidate.id), None)
    if promotion is None:
        return "it is what the lab began with: the first baseline"
    over = f"{promotion.base_id} {one_line(facts.name(promotion.base_id))}"
    said = [record for record in facts.decisions_of[candidate.id] if record.kind == "promote"]
    return f"promoted over {over}: {one_line(said[-1].decision.reason) if said else 'by hand'}"


def _why_shelved(said: Sequence[DecisionRecord]) -> str:
    """On its own account, or because a merge took its patch before its runs were over."""
    shelved = next((record for record in reversed(said) if record.kind == "shelve"), None)
    if shelved is not None:
        return f"kept as a near-miss: {one_line(shelved.decision.reason)}"
    return f"kept, its patch was to be merged: {one_line(said[-1].decision.reason)}"


def _why_failed(facts: LabFacts, candidate: Candidate) -> str:
    runs = facts.runs_of[candidate.id]
    return f"no score ({last_failure(runs) or 'no run'}): {_last_reason(runs)}"


def _last_reason(runs: tuple[Run, ...]) -> str:
    verdicts = [run.state.result.verdict for run in runs if isinstance(run.state, Finished)]
    reasons = [one_line(v.reason) for v in verdicts if not isinstance(v, Scored)]
    return reasons[-1] if reasons and reasons[-1] else "see `arsched logs`"


def _why_undecided(facts: LabFacts) -> str:
    board = facts.board
    if board and board.first_baseline and board.baseline.n < board.gates.first_baseline_runs:
        return f"undecided: the first baseline has {board.baseline.n} of {board.gates.first_baseline_runs} runs"
    return f"undecided: its runs are over; {NOBODY}"


def _waiting(facts: LabFacts, run: Run, slots: int | None) -> Waiting:
    state = type(run.state).__name__.lower()
    return Waiting(run.id, state, _state_of(facts, run, slots))


def _state_of(facts: LabFacts, run: Run, slots: int | None) -> str:
    match run.state:
        case Queued(last_problem=problem):
            why = waiting_for(facts, run, slots)
            again = f" (an earlier attempt did not count: {one_line(problem)})" if problem else ""
            return f"waits: {why}{again}"
        case Running(attempt=attempt, slot_id=slot):
            return f"runs on {slot}, attempt {attempt}"
        case Cancelled(reason=reason):
            return f"was cancelled: {one_line(reason)}"
        case Finished(result=result):
            if isinstance(result.verdict, Scored):
                return f"ended {result.verdict.status}: val_bpb {result.verdict.val_bpb:.6f}"
            return clean(f"ended {result.verdict.status}: {result.verdict.reason}")


def _is_pending(run: Run) -> bool:
    return isinstance(run.state, Queued | Running)
