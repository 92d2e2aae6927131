"""Everything there is to report of a lab at once: totals, lineage, candidates with reasons, ideas, slots, events.

Only the totals are public as JSON. The rest keeps the domain's own text: whoever draws it cleans it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scheduler.domain.candidate import Candidate, CandidateState
from scheduler.domain.decision import Claim, Promotion
from scheduler.domain.lab import Event
from scheduler.domain.run import Finished, MachineReadings, RunKind
from scheduler.domain.search import Proposal, ProposalState
from scheduler.domain.text import id_order, one_line
from scheduler.ledger.runs import AttemptRow
from scheduler.policy.stats import effect_of
from scheduler.views import View, utc
from scheduler.views.candidate import describe_gates, diff_of, explain_candidate
from scheduler.views.candidates import NEAR_MISS, MergeRow, Row, candidate_row, leaderboard, made_by, merge_rows
from scheduler.views.facts import LabFacts, NoiseParts
from scheduler.views.search import SearchView, Theme, read_search, read_themes
from scheduler.views.slots import Efficiency, SlotTime

EVENTS = 80  # of interest, the last ones
PAUSE_S = 600.0
CUT_S = 30.0  # what is left of a pause


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

    Counts leave the first baseline out of the candidates. `shelved` are near-misses, `shelved_lower` others on the
    shelf, `in_baseline` those whose patch a merge has carried into the baseline since.
    """

    tag: str
    contract: str
    candidates: int
    promoted: int
    shelved: int
    shelved_lower: int
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
    noise_parts: NoiseParts | None
    undecided_below_bpb: float | None
    baseline: Row | None
    gain: Gain | None
    claim: Claim | None
    claim_is_current: bool
    search: SearchView | None
    slot_time: SlotTime
    efficiency: Efficiency


@dataclass(frozen=True, slots=True)
class LineageStep:
    """One baseline: `row` holds what all runs until now say, `promotion` what was claimed when it was promoted.

    `promotion` is None for the first baseline. `diff` is against the baseline it was made from.
    """

    row: Row
    hypothesis: str
    commit: str
    promotion: Promotion | None
    merge: MergeRow | None
    diff: str


@dataclass(frozen=True, slots=True)
class CandidateLine:
    """A candidate with why it is what it is."""

    row: Row
    reason: str
    note: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One attempt on its slot. `outcome` is a result's status, lost, stopped or cancelled; "" while it goes on.

    `machine` is of the attempt that gave the run's result.
    """

    slot: str
    run: str
    candidate: str
    kind: str
    outcome: str
    start_s: float
    end_s: float
    machine: MachineReadings | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """So much was cut out at this place."""

    at_s: float
    skipped_s: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """Times are seconds since the first attempt began, less the pauses before.

    Where no slot was held for longer than PAUSE_S the queue was not run, and days of that would squeeze the runs to
    nothing.
    """

    tag: str
    began_at: str | None
    length_s: float
    slots: tuple[str, ...]
    bars: tuple[Bar, ...]
    pauses: tuple[Pause, ...]

    @property
    def is_measured(self) -> bool:
        """Whether the machine's pace is known of a run."""
        return any(bar.machine and (bar.machine.speed is not None or bar.machine.gpu) for bar in self.bars)


@dataclass(frozen=True, slots=True)
class ReportData:
    """`as_of` is when the ledger was last changed; `names` are of all candidates by id."""

    as_of: str
    branch: str
    device: str
    rule: str
    summary: Summary
    names: dict[str, str]
    lineage: tuple[LineageStep, ...]
    candidates: tuple[CandidateLine, ...]
    merges: tuple[MergeRow, ...]
    themes: tuple[Theme, ...]
    searches: tuple[SearchView, ...]
    proposals: tuple[Proposal, ...]
    timeline: Timeline
    events: tuple[Event, ...]

    @property
    def near_misses(self) -> tuple[CandidateLine, ...]:
        """The most promising first."""
        shelf = [line for line in self.candidates if line.row.detail == NEAR_MISS]
        return tuple(sorted(shelf, key=lambda line: (-(line.row.p_better or 0.0), id_order(line.row.candidate))))

    @property
    def failures(self) -> tuple[CandidateLine, ...]:
        """Candidates that ran and gave no score."""
        return tuple(line for line in self.candidates if line.row.status == "failed")

    @property
    def failed_ideas(self) -> tuple[Proposal, ...]:
        return tuple(one for one in self.proposals if one.state is ProposalState.FAILED)

    @property
    def known_ideas(self) -> tuple[Proposal, ...]:
        """Those that brought the program of an earlier candidate."""
        return tuple(one for one in self.proposals if one.state is ProposalState.KNOWN)

    @property
    def odd_ideas(self) -> tuple[Proposal, ...]:
        """New candidates whose authors did something wrong on the way."""
        return tuple(one for one in self.proposals if one.state is ProposalState.QUEUED and one.reason)


def read_report(facts: LabFacts) -> ReportData:
    last = facts.ledger.events.last(facts.lab.tag)
    now = last.at if last else facts.lab.created_at
    searches = (read_search(facts, one) for one in facts.ledger.searches.list(facts.lab.tag))
    return ReportData(
        as_of=utc(now),
        branch=facts.lab.branch,
        device=facts.lab.device,
        rule=describe_gates(facts.lab.gates),
        summary=summary(facts),
        names={candidate.id: candidate.name for candidate in facts.candidates},
        lineage=read_lineage(facts),
        candidates=tuple(_line(facts, row) for row in leaderboard(facts).candidates),
        merges=merge_rows(facts),
        themes=read_themes(facts),
        searches=tuple(search for search in searches if search is not None),
        proposals=facts.proposals,
        timeline=timeline(facts.lab.tag, facts.attempts, now, _machines(facts)),
        events=facts.ledger.events.of_interest(facts.lab.tag, EVENTS),
    )


def summary(facts: LabFacts) -> Summary:
    proposed = [candidate for candidate in facts.candidates if candidate.base_id is not None]
    states = Counter(candidate.state for candidate in proposed)
    finished = [row for row in facts.run_counts if row.state == "finished"]
    runs, scored = facts.count_runs("finished"), sum(row.runs for row in finished if row.family == "scored")
    baseline = facts.baseline
    return Summary(
        tag=facts.lab.tag,
        contract=facts.lab.contract_words,
        candidates=len(proposed),
        promoted=len(facts.promotions),
        shelved=len(facts.near_misses),
        shelved_lower=len(facts.shelf) - len(facts.near_misses),
        in_baseline=states[CandidateState.SHELVED] - len(facts.shelf),
        discarded=states[CandidateState.DISCARDED],
        failed=states[CandidateState.FAILED],
        cancelled=states[CandidateState.CANCELLED],
        undecided=states[CandidateState.OPEN] + states[CandidateState.CONTENDER],
        merged=sum(candidate.origin.merged for candidate in proposed),
        runs=runs,
        scored_runs=scored,
        failed_runs=runs - scored,
        repeat_runs=sum(row.runs for row in finished if row.kind == RunKind.REPEAT),
        claim_runs=sum(row.runs for row in finished if row.kind == RunKind.CLAIM),
        noise_sd_bpb=facts.noise.sigma if facts.noise else None,
        noise_repeats=facts.noise.df if facts.noise else 0,
        noise_parts=facts.noise_parts,
        undecided_below_bpb=facts.undecided_below_bpb,
        baseline=candidate_row(facts, baseline) if baseline else None,
        gain=total_gain(facts),
        claim=facts.claim,
        claim_is_current=facts.claim is not None and baseline is not None and facts.claim.final_id == baseline.id,
        search=read_search(facts),
        slot_time=facts.slot_time,
        efficiency=facts.efficiency,
    )


def total_gain(facts: LabFacts) -> Gain | None:
    """None before the first promotion."""
    if facts.board is None or facts.noise is None or not facts.promotions:
        return None
    first, now = facts.standings.get(facts.promotions[0].base_id), facts.board.baseline
    if first is None or not first.n or not now.n:
        return None
    effect = effect_of(now, first, facts.noise)
    ids = (first.candidate_id, first.mean, now.candidate_id, now.mean)
    return Gain(*ids, effect.diff, effect.se, first.n, now.n)


def read_lineage(facts: LabFacts) -> tuple[LineageStep, ...]:
    """Every baseline there was, the first one first; () while there is none."""
    first = facts.ledger.candidates.first(facts.lab.tag)
    if first is None:
        return ()
    promoted = (_step(facts, facts.by_id[made.candidate_id], made.commit, made) for made in facts.promotions)
    return (_step(facts, first, first.commit, None), *promoted)


def _step(facts: LabFacts, candidate: Candidate, commit: str, promotion: Promotion | None) -> LineageStep:
    return LineageStep(
        row=candidate_row(facts, candidate),
        hypothesis=candidate.hypothesis,
        commit=commit,
        promotion=promotion,
        merge=made_by(facts, candidate),
        diff=diff_of(facts.ledger, candidate),
    )


def _line(facts: LabFacts, row: Row) -> CandidateLine:
    """What an undecided candidate waits for is `explain`'s: it depends on who runs the queue."""
    candidate = facts.by_id[row.candidate]
    if candidate.state.undecided:
        return CandidateLine(row, "", "")
    about = explain_candidate(facts, candidate, None)
    return CandidateLine(row, about.answer, about.note)


def _machines(facts: LabFacts) -> dict[str, MachineReadings]:
    """Run id -> the machine during it."""
    return {run.id: run.state.result.measured.machine for run in facts.runs if isinstance(run.state, Finished)}


def timeline(
    tag: str, attempts: Iterable[AttemptRow], until: float, machines: Mapping[str, MachineReadings] | None = None
) -> Timeline:
    """`until` is where attempts that still go on end, in seconds since the epoch; `machines` are by run id."""
    ordered = sorted(attempts, key=lambda row: (row.started_at, row.run, row.number))
    spans = [(row.started_at, max(row.started_at, until if row.ended_at is None else row.ended_at)) for row in ordered]
    if not spans:
        return Timeline(tag, None, 0.0, (), (), ())
    cuts = _cuts(spans)
    began = spans[0][0]

    def place(at: float) -> float:
        return at - began - sum(skipped for where, skipped in cuts if where < at)

    return Timeline(
        tag=tag,
        began_at=utc(began),
        length_s=place(max(end for _, end in spans)),
        slots=tuple(sorted({one_line(row.slot_id) for row in ordered})),
        bars=tuple(
            Bar(
                slot=one_line(row.slot_id),
                run=row.run_id,
                candidate=row.candidate_id,
                kind=row.kind,
                outcome=one_line(row.outcome),
                start_s=place(start),
                end_s=place(end),
                machine=machines.get(row.run_id) if machines and row.has_result else None,
            )
            for row, (start, end) in zip(ordered, spans, strict=True)
        ),
        pauses=tuple(Pause(place(where), skipped) for where, skipped in cuts),
    )


def _cuts(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where each long pause begins, and how much of it is left out. `spans` by their start."""
    found, busy_until = [], spans[0][1]
    for start, end in spans[1:]:
        if start - busy_until > PAUSE_S:
            found.append((busy_until, start - busy_until - CUT_S))
        busy_until = max(busy_until, end)
    return found
