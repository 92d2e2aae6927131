"""What the promotion rule says of a candidate, with every number it was said from."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.domain.candidate import Standing


@dataclass(frozen=True, slots=True)
class GateSettings:
    """The two gates. Probabilities are P(candidate truly better than baseline); counts are runs."""

    name: str = "default"
    promote_now: float = 0.98  # after a first run
    repeat_from: float = 0.80  # earns a repeat
    promote: float = 0.80  # over at least two runs
    drop: float = 0.30
    max_runs: int = 3
    first_baseline_runs: int = 3
    baseline_runs: int = 2
    max_repeat_share: float = 0.5  # of all slots
    prior_df: float = 4.0  # weight of the contract's noise prior, degrees of freedom


PRESETS = {
    "default": GateSettings(),
    "bold": GateSettings("bold", promote_now=0.90, repeat_from=0.70, promote=0.70),
    "strict": GateSettings("strict", promote_now=0.98, repeat_from=0.80, promote=0.95),
}


@dataclass(frozen=True, slots=True)
class Noise:
    """Run-to-run standard deviation in bpb, pooled over all repeats with the contract's prior."""

    sigma: float
    df: int  # degrees of freedom from repeats, the prior's not counted


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


@dataclass(frozen=True, slots=True)
class Promote:
    candidate_id: str
    base_id: str
    effect: Effect
    reason: str


@dataclass(frozen=True, slots=True)
class Replicate:
    candidate_id: str
    base_id: str
    effect: Effect
    reason: str


@dataclass(frozen=True, slots=True)
class Discard:
    candidate_id: str
    base_id: str
    effect: Effect | None  # None: it never got a score
    reason: str


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


Decision = Promote | Replicate | Discard | MeasureBaseline | Retry


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A decision with all it was taken from: judging `candidate` against `base` again gives the same."""

    decided_at: float
    decision: Decision
    candidate: Standing
    base: Standing
    noise: Noise
    gates: GateSettings
    sentence: str

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
