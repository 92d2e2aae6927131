"""The lab in totals: how many candidates and runs, what was gained, where the slots' time went, what is claimed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from scheduler.domain.candidate import CandidateState
from scheduler.domain.result import Scored
from scheduler.domain.run import RunKind
from scheduler.ledger import Ledger
from scheduler.policy.gates import effect_of
from scheduler.views.efficiency import Efficiency, efficiency
from scheduler.views.facts import LabFacts
from scheduler.views.leaderboard import Row, candidate_row
from scheduler.views.plain import View
from scheduler.views.search import ClaimView, SearchView, claim_view, read_search
from scheduler.views.slot_time import SlotTime, slot_time
from scheduler.views.stays import read_stays


@dataclass(frozen=True, slots=True)
class Gain(View):
    """First baseline against the current one, from the runs that also decided the promotions.

    A promotion favours lucky runs, so the running total over-claims; only fresh runs of both are a claim, and where
    there is one no screen shows this.
    """

    first: str
    first_val_bpb: float
    now: str
    now_val_bpb: float
    diff_bpb: float
    se_bpb: float
    first_runs: int
    now_runs: int


@dataclass(frozen=True, slots=True)
class Summary(View):
    """`claim` is the last one there is; `claim_is_current` that it is of today's baseline. `search` is the last.

    `shelved` are near-misses, `in_baseline` those whose patch a merge has carried into the baseline since.
    """

    tag: str
    contract: str
    candidates: int
    promoted: int
    shelved: int
    in_baseline: int
    discarded: int
    failed: int
    cancelled: int
    undecided: int
    merged: int
    runs: int
    scored_runs: int
    failed_runs: int
    repeat_runs: int
    claim_runs: int
    noise_sd_bpb: float | None
    noise_repeats: int
    baseline: Row | None
    gain: Gain | None
    claim: ClaimView | None
    claim_is_current: bool
    search: SearchView | None
    slot_time: SlotTime
    efficiency: Efficiency


def summary(ledger: Ledger, facts: LabFacts) -> Summary:
    """Counts leave the first baseline out of the candidates: nobody proposed it."""
    proposed = [candidate for candidate in facts.candidates if candidate.base_id is not None]
    states = Counter(candidate.state for candidate in proposed)
    verdicts = [run.state.result.verdict for run in facts.finished if hasattr(run.state, "result")]
    scored = sum(isinstance(verdict, Scored) for verdict in verdicts)
    baseline = facts.by_id.get(facts.board.baseline_id) if facts.board else None
    stays = read_stays(ledger, facts)
    time = slot_time(stays)
    claim = last_claim(ledger, facts)
    return Summary(
        tag=facts.lab.tag,
        contract=facts.lab.contract_name,
        candidates=len(proposed),
        promoted=len(facts.promotions),
        shelved=len(facts.near_misses),
        in_baseline=states[CandidateState.SHELVED] - len(facts.near_misses),
        discarded=states[CandidateState.DISCARDED],
        failed=states[CandidateState.FAILED],
        cancelled=states[CandidateState.CANCELLED],
        undecided=states[CandidateState.OPEN] + states[CandidateState.CONTENDER],
        merged=sum(candidate.origin.merged for candidate in proposed),
        runs=len(verdicts),
        scored_runs=scored,
        failed_runs=len(verdicts) - scored,
        repeat_runs=sum(run.kind is RunKind.REPEAT for run in facts.finished),
        claim_runs=sum(run.kind is RunKind.CLAIM for run in facts.finished),
        noise_sd_bpb=facts.noise.sigma if facts.noise else None,
        noise_repeats=facts.noise.df if facts.noise else 0,
        baseline=candidate_row(facts, baseline) if baseline else None,
        gain=total_gain(facts),
        claim=claim,
        claim_is_current=claim is not None and baseline is not None and claim.final == baseline.id,
        search=read_search(ledger, facts),
        slot_time=time,
        efficiency=efficiency(facts, stays, time),
    )


def last_claim(ledger: Ledger, facts: LabFacts) -> ClaimView | None:
    """Of any search; None before the first."""
    claims = ledger.claims.list(facts.lab.tag)
    return claim_view(facts, claims[-1]) if claims else None


def total_gain(facts: LabFacts) -> Gain | None:
    """None before the first promotion."""
    if facts.board is None or facts.noise is None or not facts.promotions:
        return None
    first = facts.standings.get(facts.promotions[0].base_id)
    now = facts.board.baseline
    if first is None or not first.n or not now.n:
        return None
    effect = effect_of(now, first, facts.noise)
    ids = (first.candidate_id, first.mean, now.candidate_id, now.mean)
    return Gain(*ids, effect.diff, effect.se, first.n, now.n)
