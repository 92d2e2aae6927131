"""The promotion rule's settings and decisions with every number they were taken from, the merges and the claim.

Values only: how a decision is taken is scheduler.policy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from scheduler.domain.candidate import CandidateStats


@dataclass(frozen=True, slots=True)
class GateSettings:
    """The two gates. Probabilities are P(candidate truly better than baseline); counts are runs."""

    name: str = "default"
    promote_now: float = 0.98  # after a first run
    repeat_from: float = 0.80  # earns a repeat
    promote: float = 0.90  # over at least two runs
    drop: float = 0.30
    halve_after: int = 40  # candidates tried on one baseline that halve the chance of error allowed; 0: it stays
    max_runs: int = 3
    first_baseline_runs: int = 3
    baseline_runs: int = 2
    baseline_every: int = (
        20  # scored candidates that earn their baseline a run, as do 2, 4, 8 … times as many; 0: never
    )
    max_baseline_runs: int = 8
    max_repeat_share: float = 0.5  # of all slots
    prior_df: float = 4.0  # weight of the contract's noise prior, degrees of freedom
    combine: bool = True  # whether runners-up, near-misses and candidates of an older baseline are merged onto the new
    combine_from: float = 0.50  # a contender left by a promotion goes into the union
    shelve_from: float = 0.65  # a dropped candidate is kept as a near-miss
    shelve_runs: int = 2  # after so many runs at least: one run says too little to build on
    max_union_share: float = 0.25  # of all slots, for unions of near-misses
    max_parts: int = 4  # patches in a union of near-misses
    max_ports: int = 2  # how often one patch is merged onto a newer baseline
    max_halvings: int = 2  # of a union that failed
    simpler_margin: float = 0.5  # in σ: a removal may be this much worse
    drift_promote: float = 0.998  # at least, where the machine may drift: runs of one minute share their luck
    unsteady_promote: float = 0.9995  # where scores have shown that it does: P is as good as what is known of the drift
    drift_runs: int = 3  # beyond max_runs, for one that passes every bar but those two
    control_share: float = 0.10  # of a lab's runs, for measuring the baseline again where the machine drifts
    fresh_control: float = 2.0  # run lengths: a promotion waits for a run of the baseline no older than that
    sibling_wait: float = 0.10  # of a run's length: a promotion waits so long for runs that end with it
    rounds: bool = False  # decide nothing on ideas before all that run together are in


PRESETS = {
    "default": GateSettings(),
    "bold": GateSettings(
        "bold", promote_now=0.90, repeat_from=0.70, promote=0.70, drift_promote=0.95, unsteady_promote=0.98,
    ),
    "strict": GateSettings("strict", promote_now=0.98, repeat_from=0.80, promote=0.95),
    "greedy": GateSettings(
        "greedy", promote_now=0.50, repeat_from=0.50, promote=0.50, max_runs=1, first_baseline_runs=1, baseline_runs=1,
        baseline_every=0, combine=False, simpler_margin=0.0, sibling_wait=0.0,
        fresh_control=0.0, halve_after=0, drift_promote=0.0, unsteady_promote=0.0, drift_runs=0,
    ),
    "rounds": GateSettings("rounds", rounds=True, fresh_control=0.0),
}  # fmt: skip


DIFFERS = 2.0  # errors from the mean of all slots, or from nothing


@dataclass(frozen=True, slots=True)
class SlotOffset:
    """How much higher a slot's scores are than the mean of all slots, with its error, both in bpb."""

    slot_id: str
    offset_bpb: float
    error_bpb: float

    @property
    def differs(self) -> bool:
        return abs(self.offset_bpb) > DIFFERS * self.error_bpb > 0


@dataclass(frozen=True, slots=True)
class BusyCore:
    """What a clock in work leaves of it in scores, where others have a run's core for a part of the time.

    `added_bpb` with its error: by a run that trains for e times as long as one that has its core alone; that is
    `alone_s`, wall seconds at the calibrated speed.
    """

    added_bpb: float
    error_bpb: float
    alone_s: float

    @property
    def differs(self) -> bool:
        return abs(self.added_bpb) > DIFFERS * self.error_bpb > 0


@dataclass(frozen=True, slots=True)
class Noise:
    """How runs of one program scatter: standard deviations in bpb, from all repeats and the contract's prior.

    `sigma`: of runs side by side. `drift`: of what the machine's state adds, which runs within about `scale_s` seconds
    of each other share. `offset`: of what lasts between slots. `seed_sd`: of what a seed does to every program alike.
    `slots`: those of whose offset something is known, which is taken out of every comparison. `busy`: what a busy core
    adds, taken out as well. `p_unsteady`: the chance that there is any drift or offset, where these are what they are
    if so.
    """

    sigma: float
    df: int  # degrees of freedom from repeats, the prior's not counted
    drift: float = 0.0
    offset: float = 0.0
    scale_s: float = 0.0
    seed_sd: float = 0.0
    slots: tuple[SlotOffset, ...] = ()
    busy: BusyCore | None = None
    p_unsteady: float = 1.0


@dataclass(frozen=True, slots=True)
class Effect:
    """Candidate minus baseline in bpb (negative is better) with its standard error."""

    diff: float
    se: float
    sigma: float
    n_candidate: int
    n_base: int
    p_better: float
    shrunken: float  # what to expect of diff on fresh runs


class Rule(StrEnum):
    """The part of the promotion rule that a decision comes from."""

    GATES = "gates"  # P(better) over all runs at the bars of the two gates
    MACHINE = "machine"  # measured on a machine unlike its controls'
    SIMPLICITY = "simplicity"  # not worse, with fewer lines of code
    STALE_BASELINE = "stale-baseline"  # the baseline moved since the candidate was made
    LEFT_BEHIND = "left-behind"  # contenders of an older baseline, united on the new one
    REBASE_PENDING = "rebase-pending"  # former baselines whose patches the current one lacks
    FAILED_UNION = "failed-union"  # the better half of a union that failed
    NEAR_MISSES = "near-misses"  # candidates that were each not clear enough, united


@dataclass(frozen=True, slots=True)
class Promote:
    candidate_id: str
    base_id: str
    effect: Effect
    reason: str
    rule: Rule = Rule.GATES


@dataclass(frozen=True, slots=True)
class Replicate:
    candidate_id: str
    base_id: str
    effect: Effect
    reason: str
    rule: Rule = Rule.GATES


@dataclass(frozen=True, slots=True)
class Discard:
    candidate_id: str
    base_id: str
    effect: Effect | None  # None: it never got a score
    reason: str
    rule: Rule = Rule.GATES


@dataclass(frozen=True, slots=True)
class MeasureBaseline:
    """The baseline itself needs another run before it can be compared with."""

    base_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """A repeat failed although the candidate scored before: one more try."""

    candidate_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Shelve:
    """Not promoted, but worth keeping: `effect` is against the baseline it was made from."""

    candidate_id: str
    base_id: str
    effect: Effect
    reason: str
    rule: Rule = Rule.GATES


@dataclass(frozen=True, slots=True)
class Combine:
    """Merge the patches of `parts`, the best first, onto the baseline: a new candidate that has to win like any other.

    One part is a port. `predicted` is the sum of the parts' shrunken effects in bpb; `halving` counts the failed
    unions it is a half of. The undecided among the parts are shelved by it.
    """

    base_id: str
    parts: tuple[str, ...]
    halving: int
    predicted: float
    reason: str
    rule: Rule = Rule.GATES


Decision = Promote | Replicate | Discard | MeasureBaseline | Retry | Shelve | Combine


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A decision with all it was taken from: judging `candidate` against `base` again gives the same.

    `base` is the baseline at `decided_at`; `own_base` the older one the candidate was made from, None where it is the
    same or has no score.
    """

    decided_at: float
    decision: Decision
    candidate: CandidateStats
    base: CandidateStats
    noise: Noise
    gates: GateSettings
    sentence: str
    own_base: CandidateStats | None = None
    result_mark: int = 0  # number of the last result there was: noise and scores are those of results up to it

    @property
    def kind(self) -> str:
        """Like "promote" or "measure-baseline"."""
        return KINDS[type(self.decision)]


KINDS: dict[type, str] = {
    Promote: "promote",
    Replicate: "replicate",
    Discard: "discard",
    MeasureBaseline: "measure-baseline",
    Retry: "retry",
    Shelve: "shelve",
    Combine: "combine",
}


@dataclass(frozen=True, slots=True)
class Promotion:
    """`commit` is the commit on the baseline's branch; `effect` is what was claimed when it was made."""

    promoted_at: float
    candidate_id: str
    base_id: str
    commit: str
    effect: Effect
    sentence: str


@dataclass(frozen=True, slots=True)
class Merge:
    """Patches of earlier candidates put together on the current baseline: a union of several `parts`, a port of one.

    `merged` are the parts that went in; the others conflicted. `candidate_id` is None when nothing came of it: every
    part conflicted, or the result was a program known already. `predicted` is the sum of the parts' shrunken effects
    in bpb (negative is better); `halving` counts the failed unions it is a half of.
    """

    number: int
    base_id: str
    parts: tuple[str, ...]
    merged: tuple[str, ...]
    candidate_id: str | None
    halving: int
    predicted: float
    problem: str = ""  # why `candidate_id` is None


@dataclass(frozen=True, slots=True)
class Assembled:
    """What merging gave: a program on the commit of the baseline it was merged onto, still to be measured.

    `skipped` are the parts that did not go in, each with the reason.
    """

    name: str
    title: str
    commit: str
    train_py: bytes
    train_sha256: str
    fingerprint: str
    code_lines: int
    merged: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """What a search gained, from fresh runs of its first and last baseline, made alternately on the same slots.

    `diff` = mean(final) − mean(first) in bpb over those runs alone; `se` its standard error from `df` degrees.
    `low` and `high` bound the 95 % interval. With no promotion first and final are one candidate, `diff` is 0 and
    there is nothing to measure (both score tuples are empty, `se` is 0).
    """

    first_id: str
    final_id: str
    first_scores: tuple[float, ...]
    final_scores: tuple[float, ...]
    diff: float
    se: float
    df: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.high < 0 or self.low > 0
