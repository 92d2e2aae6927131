"""Waiting for runs that end with it, so that a promotion takes the best of those that ran together, and for a round.

Both end by themselves: a promotion waits `sibling_wait` of a run's length after its own last run at most, whatever its
siblings do (when that ended is reckoned from its middle and the usual length); a round waits for runs that hold a slot,
which end, fail, or lose it. Compares no scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scheduler.domain.candidate import CandidateStats
from scheduler.domain.lab import LabSnapshot
from scheduler.domain.run import Run, RunKind

_NEEDED_ANYWAY = (RunKind.AUDIT, RunKind.CLAIM, RunKind.CALIBRATION)  # they compare with no current baseline


def wait_until(lab: LabSnapshot, winners: Sequence[CandidateStats]) -> float | None:
    """Until when (seconds since the epoch) the promotion of one of `winners` waits for siblings; None: not at all.

    A sibling is a run on a slot made from the current baseline. It is waited for when it is expected, at the usual
    length of a run, within `sibling_wait` of a length after the end of the winners' first last run, and not when it is
    later than that itself. Where times are not known or the clock stands before that run, nothing waits.
    """
    now, run_s = lab.now, lab.run_s
    if now is None or not run_s or not lab.gates.sibling_wait or not all(stats.occasions for stats in winners):
        return None
    measured = min((stats.occasions[-1].at for stats in winners), default=now)
    patience = lab.gates.sibling_wait * run_s
    bound = measured + run_s / 2 + patience
    if not measured <= now < bound:
        return None
    expected = [since + run_s for since in _running(_siblings(lab)) if since + run_s <= bound]
    return max((min(bound, end + patience) for end in expected if now < end + patience), default=None)


def round_goes_on(lab: LabSnapshot) -> bool:
    """Whether ideas wait for the last result of those that run together. False where the lab has no rounds."""
    return lab.gates.rounds and bool(_running((lab.baseline, *_siblings(lab))))


def round_closes(lab: LabSnapshot) -> bool:
    """Whether a round has a result that waits for the others: what began now would only make it longer."""
    return round_goes_on(lab) and any(stats.scores and not stats.pending_runs for stats in lab.undecided)


def without_held(queued: Iterable[Run]) -> list[Run]:
    """What may start while a promotion or a round is waited for."""
    return [run for run in queued if run.kind in _NEEDED_ANYWAY]


def _siblings(lab: LabSnapshot) -> list[CandidateStats]:
    return [stats for stats in lab.undecided if stats.base_id == lab.baseline_id]


def _running(candidates: Iterable[CandidateStats]) -> list[float]:
    """When their runs that hold a slot began."""
    return [since for stats in candidates for since in stats.running_since]
