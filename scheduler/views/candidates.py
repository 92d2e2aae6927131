"""All candidates of a lab: the leaderboard, the merges, the course of the scores over the runs, and results.tsv.

Effects are from all runs there are now, so one may have shrunk since its promotion; a decision compares with the
baseline of its own time, which may be a later one, and is views.candidate's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.domain.candidate import Candidate, CandidateState
from scheduler.domain.decision import Merge
from scheduler.domain.run import Finished, Run, Running, Scored
from scheduler.domain.text import id_order, one_line, signed
from scheduler.views import View
from scheduler.views.facts import LabFacts, NoiseParts

NEAR_MISS = "near-miss"  # on the shelf, and a union would take it today
MERGED = "merged"  # a near-miss by itself; a union or port has carried its patch into the baseline

# results.tsv: https://github.com/karpathy/autoresearch/blob/master/program.md
HEADER = "commit\tval_bpb\tmemory_gb\tstatus\tdescription"
COMMIT_CHARACTERS = 7
MB_PER_GB = 1024
RESULT_STATUS = {
    CandidateState.BASELINE: "keep",
    CandidateState.PROMOTED: "keep",
    CandidateState.DISCARDED: "discard",
    CandidateState.SHELVED: "discard",
    CandidateState.FAILED: "crash",
}


@dataclass(frozen=True, slots=True)
class Row(View):
    """One candidate. `status` is its state in the ledger, `detail` what that means ("running", "crash", "near-miss").

    `origin` says who made it; `proposer` and `theme` are "" where none was named.
    """

    rank: int | None
    candidate: str
    name: str
    title: str
    status: str
    detail: str
    is_baseline: bool
    val_bpb: float | None
    val_bpb_se: float | None
    runs: int
    effect_bpb: float | None
    effect_se_bpb: float | None
    effect_shrunken_bpb: float | None
    p_better: float | None
    base: str | None
    suspect_runs: int
    origin: str
    proposer: str
    theme: str


@dataclass(frozen=True, slots=True)
class PoolRow(View):
    """Scores on slots of one device model, driver, contract and cache. Of several, one is `compared`."""

    pool: str
    runs: int
    candidates: int
    compared: bool


@dataclass(frozen=True, slots=True)
class Leaderboard(View):
    """Candidates with a score by their mean, then the others, without a rank, in the order of their submission.

    `pools`: where there are several, scores of all but one are left out.
    """

    tag: str
    contract: str
    baseline: str | None
    noise_sd_bpb: float | None
    noise_repeats: int
    noise_parts: NoiseParts | None
    candidates: tuple[Row, ...]
    pools: tuple[PoolRow, ...] = ()


@dataclass(frozen=True, slots=True)
class PartRow(View):
    """One candidate whose patch was to go in. `merged` is False when it conflicted or changed nothing more."""

    candidate: str
    name: str
    merged: bool


@dataclass(frozen=True, slots=True)
class MergeRow(View):
    """A union or port: predicted is the sum of its parts' shrunken effects on the baselines they were made from.

    Measured is the merged program's effect on the baseline it was merged onto, from all runs there are now, None
    without a score. `candidate` is None when nothing came of it, and `problem` says why.
    """

    number: int
    kind: str
    base: str
    parts: tuple[PartRow, ...]
    candidate: str | None
    name: str
    status: str
    halving: int
    predicted_bpb: float
    measured_bpb: float | None
    measured_se_bpb: float | None
    runs: int
    problem: str

    @property
    def patches(self) -> str:
        """`c0004 warmup + c0007 wider`, of what went in; of what should have where nothing did."""
        inside = [part for part in self.parts if part.merged] or list(self.parts)
        return " + ".join(f"{part.candidate} {part.name}" for part in inside)


@dataclass(frozen=True, slots=True)
class RunPoint(View):
    """One finished run. `val_bpb` is None when it gave no score; a `claim` run belongs to no candidate's mean."""

    number: int
    run: str
    candidate: str
    val_bpb: float | None
    claim: bool = False


@dataclass(frozen=True, slots=True)
class CandidatePoint(View):
    """A candidate at the number of a run; `val_bpb` and its error are of the mean over all its scored runs.

    `merged`: it is a union or a port.
    """

    number: int
    candidate: str
    name: str
    status: str
    detail: str
    val_bpb: float | None
    val_bpb_se: float | None
    runs: int
    merged: bool = False


@dataclass(frozen=True, slots=True)
class Step(View):
    """A baseline: in force from run `number` on."""

    number: int
    candidate: str
    name: str
    val_bpb: float
    val_bpb_se: float


@dataclass(frozen=True, slots=True)
class History(View):
    """Runs are numbered in the order in which they ended (1, 2, 3, …).

    A candidate stands where its last run ended, one that became the baseline where it was promoted.
    """

    tag: str
    contract: str
    noise_sd_bpb: float | None
    runs: tuple[RunPoint, ...]
    candidates: tuple[CandidatePoint, ...]
    baselines: tuple[Step, ...]
    noise_parts: NoiseParts | None = None


def leaderboard(facts: LabFacts, limit: int | None = None) -> Leaderboard:
    """The first `limit` rows (None: all)."""
    known = {candidate.id: candidate for candidate in facts.candidates} if limit is None else facts.by_id
    scored = sorted(
        (standing for standing in facts.standings.values() if standing.n),
        key=lambda standing: (standing.mean, id_order(standing.candidate_id)),
    )
    others = [standing.candidate_id for standing in facts.standings.values() if not standing.n]
    refs = [*(standing.candidate_id for standing in scored), *others][:limit]
    return Leaderboard(
        tag=facts.lab.tag,
        contract=facts.lab.contract_words,
        baseline=facts.board.baseline_id if facts.board else None,
        noise_sd_bpb=facts.noise.sigma if facts.noise else None,
        noise_repeats=facts.noise.df if facts.noise else 0,
        noise_parts=facts.noise_parts,
        candidates=tuple(
            candidate_row(facts, known[ref], place if place <= len(scored) else None)
            for place, ref in enumerate(refs, 1)
        ),
        pools=_pools(facts),
    )


def _pools(facts: LabFacts) -> tuple[PoolRow, ...]:
    """Scores are compared in the pool of the baseline's first, as in the ledger's snapshot."""
    counts = facts.ledger.runs.scores_by_pool(facts.lab.tag)
    return tuple(PoolRow(one_line(one.pool), one.runs, one.candidates, one is counts[0]) for one in counts)


def candidate_row(facts: LabFacts, candidate: Candidate, rank: int | None = None) -> Row:
    """One candidate as the leaderboard shows it."""
    standing, effect = facts.standings.get(candidate.id), facts.effect(candidate)
    scored = standing is not None and standing.n > 0
    return Row(
        rank=rank,
        candidate=candidate.id,
        name=one_line(candidate.name),
        title=one_line(candidate.title),
        status=candidate.state.value,
        detail=_detail(facts, candidate),
        is_baseline=candidate.state is CandidateState.BASELINE,
        val_bpb=standing.mean if standing and scored else None,
        val_bpb_se=facts.mean_error(candidate.id),
        runs=standing.n if standing else 0,
        effect_bpb=effect.diff if effect else None,
        effect_se_bpb=effect.se if effect else None,
        effect_shrunken_bpb=effect.shrunken if effect else None,
        p_better=effect.p_better if effect else None,
        base=candidate.base_id,
        suspect_runs=standing.suspect_scores if standing else 0,
        origin=candidate.origin.value,
        proposer=one_line(candidate.proposer),
        theme=one_line(candidate.theme),
    )


def _detail(facts: LabFacts, candidate: Candidate) -> str:
    """The state in a word that says what goes on: a failed candidate names its failure, an open one runs or waits."""
    state = candidate.state
    if state.undecided:
        return undecided_state(candidate, facts.runs_of[candidate.id])
    if state is CandidateState.SHELVED:
        near = any(one.id == candidate.id for one in facts.near_misses)
        return MERGED if candidate.id in facts.in_force else NEAR_MISS if near else state.value
    if state is CandidateState.FAILED:
        return one_line(facts.failures.get(candidate.id, state.value))
    return "first" if state is CandidateState.PROMOTED and candidate.base_id is None else state.value


def undecided_state(candidate: Candidate, runs: Sequence[Run]) -> str:
    """`runs` are all of the candidate's."""
    is_open = candidate.state is CandidateState.OPEN
    running = any(isinstance(run.state, Running) for run in runs)
    over = all(isinstance(run.state, Finished) for run in runs)
    if candidate.origin.merged:
        return f"{candidate.origin.value} {'runs' if running else 'undecided' if over else 'due'}"
    if running:
        return "running" if is_open else "repeat runs"
    if over:
        return "undecided"
    return "queued" if is_open else "repeat due"


def merge_row(facts: LabFacts, merge: Merge) -> MergeRow:
    candidate = facts.by_id[merge.candidate_id] if merge.candidate_id else None
    effect = facts.effect(candidate) if candidate else None
    return MergeRow(
        number=merge.number,
        kind="union" if len(merge.merged or merge.parts) > 1 else "port",
        base=merge.base_id,
        parts=tuple(PartRow(ref, one_line(facts.name(ref)), ref in merge.merged) for ref in merge.parts),
        candidate=merge.candidate_id,
        name=one_line(candidate.name) if candidate else "",
        status=candidate.state.value if candidate else "",
        halving=merge.halving,
        predicted_bpb=merge.predicted,
        measured_bpb=effect.diff if effect else None,
        measured_se_bpb=effect.se if effect else None,
        runs=effect.n_candidate if effect else 0,
        problem=one_line(merge.problem),
    )


def merge_rows(facts: LabFacts) -> tuple[MergeRow, ...]:
    """All merges of a lab, oldest first."""
    return tuple(merge_row(facts, merge) for merge in facts.merges)


def made_by(facts: LabFacts, candidate: Candidate) -> MergeRow | None:
    """The merge a candidate came from."""
    return next((merge_row(facts, merge) for merge in facts.merges if merge.candidate_id == candidate.id), None)


def merged_into(facts: LabFacts, candidate: Candidate) -> tuple[MergeRow, ...]:
    """The merges that took a candidate's patch in and gave a program."""
    mine = (merge for merge in facts.merges if candidate.id in merge.merged and merge.candidate_id)
    return tuple(merge_row(facts, merge) for merge in mine)


def describe_merge(row: MergeRow) -> str:
    """`union of c0004 a + c0007 b on c0003: predicted −0.0120, measured −0.0101 ± 0.0040`"""
    what = f"{row.kind} of {row.patches} on {row.base}: predicted {signed(row.predicted_bpb)}"
    if row.measured_bpb is None or row.measured_se_bpb is None:
        return f"{what}, {row.problem or 'not measured yet'}"
    return f"{what}, measured {signed(row.measured_bpb)} ± {row.measured_se_bpb:.4f}"


def history(facts: LabFacts) -> History:
    ended = [(state.finished_at, run, state) for run in facts.runs if isinstance(state := run.state, Finished)]
    ended.sort(key=lambda one: (one[0], id_order(one[1].id)))
    points, own, last = [], {}, {}
    promoted_at = {made.candidate_id: made.promoted_at for made in facts.promotions}
    for number, (at, run, state) in enumerate(ended, 1):
        verdict, claim = state.result.verdict, not run.kind.decides
        score = verdict.val_bpb if isinstance(verdict, Scored) else None
        points.append(RunPoint(number, run.id, run.candidate_id, score, claim))
        if not claim:
            last[run.candidate_id] = number
        if at <= promoted_at.get(run.candidate_id, at):
            own[run.candidate_id] = number
    rows = {candidate.id: candidate_row(facts, candidate) for candidate in facts.candidates}
    steps = tuple(
        Step(number, row.candidate, row.name, row.val_bpb, row.val_bpb_se or 0.0)
        for number, row in _baselines(facts, rows, own)
        if row.val_bpb is not None
    )
    # A baseline is measured again after its promotion; it stands where it was promoted.
    where = last | {step.candidate: step.number for step in steps}
    return History(
        tag=facts.lab.tag,
        contract=facts.lab.contract_words,
        noise_sd_bpb=facts.noise.sigma if facts.noise else None,
        runs=tuple(points),
        candidates=tuple(_point(facts, rows[ref], n) for ref, n in sorted(where.items(), key=lambda item: item[1])),
        baselines=steps,
        noise_parts=facts.noise_parts,
    )


def _baselines(facts: LabFacts, rows: dict[str, Row], own: dict[str, int]) -> list[tuple[int, Row]]:
    """The first baseline from the first run, every later one from the run of its own (`own`) that promoted it."""
    first = [(1, row) for row in rows.values() if row.base is None][:1]
    return first + [(own.get(made.candidate_id, 1), rows[made.candidate_id]) for made in facts.promotions]


def _point(facts: LabFacts, row: Row, number: int) -> CandidatePoint:
    merged = facts.by_id[row.candidate].origin.merged
    score = (row.val_bpb, row.val_bpb_se, row.runs)
    return CandidatePoint(number, row.candidate, row.name, row.status, row.detail, *score, merged)


def results_tsv(facts: LabFacts) -> str:
    """The five columns that autoresearch defines, a row for every decided candidate in the order of submission.

    `val_bpb` is the mean over a candidate's runs and `memory_gb` their largest peak; a crash has 0. A near-miss was not
    kept, so it is a discard. Undecided and cancelled ones have no row, and the fresh runs of a claim change none.
    """
    commits = {promotion.candidate_id: promotion.commit for promotion in facts.promotions}
    peaks = facts.ledger.runs.peak_memory_mb(facts.lab.tag)
    lines = (
        _result(facts, candidate, commits.get(candidate.id, candidate.commit), peaks.get(candidate.id, 0.0))
        for candidate in facts.candidates
        if _is_reported(facts, candidate)
    )
    return "\n".join([HEADER, *lines]) + "\n"


def _is_reported(facts: LabFacts, candidate: Candidate) -> bool:
    """A baseline whose first run is still going on has nothing to report."""
    status = RESULT_STATUS.get(candidate.state)
    return status == "crash" or (status is not None and facts.standings[candidate.id].n > 0)


def _result(facts: LabFacts, candidate: Candidate, commit: str, peak_mb: float) -> str:
    status, description = RESULT_STATUS[candidate.state], one_line(candidate.title) or one_line(candidate.name)
    val_bpb, memory_gb = 0.0, 0.0
    if status != "crash":
        val_bpb, memory_gb = facts.standings[candidate.id].mean, peak_mb / MB_PER_GB
    return f"{commit[:COMMIT_CHARACTERS]}\t{val_bpb:.6f}\t{memory_gb:.1f}\t{status}\t{description}"
