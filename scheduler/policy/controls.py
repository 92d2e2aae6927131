"""When the baseline is measured again because the machine drifts, and which scores wait for that.

A control is a run of the baseline near in time to what is held against it. On a machine that has shown no drift, in
scores or in its speed, none is bought but the one that a promotion waits for. Compares no scores, and decides nothing
on candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from scheduler.domain.candidate import CandidateStats
from scheduler.domain.decision import MeasureBaseline, Noise
from scheduler.domain.lab import LabSnapshot
from scheduler.domain.text import id_order
from scheduler.policy.drift import is_unsteady
from scheduler.policy.occasions import BUSIER

ACTED_ON = 0.25  # chance of drift or offset from which controls are bought; a lab begins with slightly less
LEAST_DRIFT = 0.5  # in sigma; less is not worth a slot
SPEED_MARGIN = 0.10  # beyond the controls' own range
SPEED_MOVED = 0.02  # between runs; those on a quiet core differ by half of that
MOST_AGE = 1 / 6  # of the drift's scale: within it a control shares 85 % of the drift with what it is for


def control_due(lab: LabSnapshot, noise: Noise, wanted: int) -> MeasureBaseline | None:
    """The control that is due now; `wanted` runs of the baseline are made anyway and do not count as controls."""
    base, left = lab.baseline, _controls_left(lab, wanted)
    if base.pending_runs or not base.occasions or (left <= 0 and _controls_bought(lab, wanted) > 0):
        return None
    latest = _latest(base)
    for stats in lab.undecided:
        repeated = stats.pending_runs or (stats.n > 1 and stats.base_id == base.candidate_id)
        if repeated and _began_unlike(stats, base) and latest < stats.occasions[0].at:
            return control_next_to(stats, base)
        if stats.pending_runs and _goes_on_in_doubt(stats, base, lab, noise) and latest < _latest(stats):
            reason = f"a control next to run {stats.n + 1} of {stats.candidate_id}: more is asked where the machine"
            return MeasureBaseline(base.candidate_id, f"{reason} may drift")
    if left <= 0 or not is_drifting(noise):
        return None
    age_s = _newest_time(lab) - latest
    if age_s < MOST_AGE * noise.scale_s:
        return None
    reason = f"a control: its last run was {age_s / 60:.0f} min ago and the machine drifts by {noise.drift:.4f}"
    return MeasureBaseline(base.candidate_id, reason)


def control_before(
    winners: Sequence[CandidateStats], lab: LabSnapshot, noise: Noise, wanted: int
) -> MeasureBaseline | None:
    """The control that the promotion of one of `winners` waits for, due or on its way; None where none is needed.

    It is where the baseline's newest run is `fresh_control` run lengths older than theirs: a baseline that was measured
    in one slow minute makes everything look better that comes after it. Where nothing tells that the machine has moved
    since, it has to be within the share of controls: a promotion is what first meets a machine that has. Where it has
    moved one is taken in advance of that share, lest what it held for controls went to candidates that were dropped.
    """
    base, fresh = lab.baseline, lab.gates.fresh_control
    if not (lab.run_s and fresh and base.occasions and all(stats.occasions for stats in winners)):
        return None
    how = _how_it_moved((base, *winners), noise)
    left = _controls_left(lab, wanted) + bool(how)
    if not base.pending_runs and left <= 0 < _controls_bought(lab, wanted):
        return None
    age_s = max(map(_latest, winners)) - _latest(base)
    if age_s < fresh * (lab.run_s or 0.0) or not (how or lab.gates.control_share * lab.trials_on_baseline >= 1):
        return None
    first = min(winners, key=lambda stats: id_order(stats.candidate_id)).candidate_id
    reason = f"a control before {first} is promoted: the baseline's last run was {age_s / 60:.0f} min before its"
    return MeasureBaseline(base.candidate_id, reason + how)


def _how_it_moved(measured: Sequence[CandidateStats], noise: Noise) -> str:
    """Like ", and the machine's speed was 0.90 to 1.00"; empty where nothing tells that it has moved."""
    speeds = [speed for stats in measured for speed in _speeds(stats)]
    if speeds and max(speeds) >= (1 + SPEED_MOVED) * min(speeds):
        return f", and the machine's speed was {min(speeds):.2f} to {max(speeds):.2f}"
    return f", and the machine drifts by {noise.drift:.4f}" if is_drifting(noise) else ""


def control_next_to(candidate: CandidateStats, base: CandidateStats) -> MeasureBaseline:
    """The control next to the repeat of one whose first score is from a machine unlike its controls'."""
    reason = f"a control: {candidate.candidate_id} was {explain_unlike(candidate, base)}"
    return MeasureBaseline(base.candidate_id, reason)


def _controls_bought(lab: LabSnapshot, wanted: int) -> int:
    # A candidate may have had as many when it was promoted.
    had = lab.gates.max_runs + (0 if lab.first_baseline else lab.gates.drift_runs)
    return lab.baseline.n - max(wanted, had)


def _controls_left(lab: LabSnapshot, wanted: int) -> int:
    """Within their share of what was tried on the baseline."""
    return int(lab.gates.control_share * lab.trials_on_baseline) - _controls_bought(lab, wanted)


def _goes_on_in_doubt(stats: CandidateStats, base: CandidateStats, lab: LabSnapshot, noise: Noise) -> bool:
    """Whether it is measured beyond max_runs, on a bar that drift has raised."""
    beyond = stats.n >= lab.gates.max_runs and stats.base_id == base.candidate_id and bool(stats.occasions)
    return beyond and (may_drift(noise) or machines_differ(stats, base))


def is_drifting(noise: Noise) -> bool:
    """Whether the machine's state moves scores, likely and far enough to spend runs on it."""
    return noise.p_unsteady >= ACTED_ON and may_drift(noise)


def may_drift(noise: Noise) -> bool:
    """Whether it may move scores as far, as it may until repeats or ideas have spoken for a steady machine.

    Then a promotion asks for more: a mistake in one costs more than a run.
    """
    return noise.drift >= LEAST_DRIFT * noise.sigma


def slots_differ(noise: Noise) -> bool:
    """Whether one slot is worse than another, likely and far enough: what it adds is known by a few scores only."""
    return noise.offset >= LEAST_DRIFT * noise.sigma


def has_drifted(noise: Noise) -> bool:
    """Whether scores have shown it, likelier than not: a comparison is then as good as what is known of the drift."""
    return may_drift(noise) and is_unsteady(noise)


def unlike_controls(candidate: CandidateStats, base: CandidateStats) -> bool:
    """Whether its only score is from a machine faster or slower than any run of the baseline, by SPEED_MARGIN."""
    return candidate.n == 1 and _began_unlike(candidate, base)


def awaits_control(candidate: CandidateStats, base: CandidateStats) -> bool:
    """Whether its first score is from such a machine, and the control next to its repeat is still on its way."""
    known = base.pending_runs and base.occasions and candidate.occasions
    return bool(known) and _latest(base) < candidate.occasions[0].at and _began_unlike(candidate, base)


def machines_differ(candidate: CandidateStats, base: CandidateStats) -> bool:
    """Whether the machine was unlike for the two: over all their runs faster for one by SPEED_MOVED, or busier, so that
    a budget took BUSIER times as long. Known under a clock in work alone.

    Such a clock takes out most of what that moves scores by, and not all of it.
    """
    if not (_speeds(candidate) and _speeds(base)):
        return False
    speed, control_speed = fmean(_speeds(candidate)), fmean(_speeds(base))
    if abs(speed - control_speed) >= SPEED_MOVED * control_speed:
        return True
    times = [_train_times(stats) for stats in (candidate, base)]
    return all(times) and max(map(fmean, times)) >= BUSIER * min(map(fmean, times))


def explain_unlike(candidate: CandidateStats, base: CandidateStats) -> str:
    """Like "measured on a machine unlike its controls': speed 0.71, theirs 0.95 to 1.02"."""
    speeds = _speeds(base)
    theirs = f"{min(speeds):.2f} to {max(speeds):.2f}" if max(speeds) > min(speeds) else f"{speeds[0]:.2f}"
    return f"measured on a machine unlike its controls': speed {candidate.occasions[0].speed:.2f}, theirs {theirs}"


def _began_unlike(candidate: CandidateStats, base: CandidateStats) -> bool:
    speeds = _speeds(base)
    speed = candidate.occasions[0].speed if candidate.occasions else None
    if speed is None or not speeds:
        return False
    return not min(speeds) * (1 - SPEED_MARGIN) <= speed <= max(speeds) * (1 + SPEED_MARGIN)


def _speeds(stats: CandidateStats) -> list[float]:
    return [occasion.speed for occasion in stats.occasions if occasion.speed is not None]


def _train_times(stats: CandidateStats) -> list[float]:
    return [occasion.train_s for occasion in stats.occasions if occasion.train_s is not None]


def _latest(stats: CandidateStats) -> float:
    return max(occasion.at for occasion in stats.occasions)


def _newest_time(lab: LabSnapshot) -> float:
    """The newest time that undecided candidates are or were measured at, in seconds since the epoch; 0 without any."""
    running = (at for stats in lab.undecided for at in stats.running_since)
    return max((*running, *(occasion.at for stats in lab.undecided for occasion in stats.occasions)), default=0.0)
