"""How much of the scores a plot shows: the interesting part, not the one run that diverged. Arithmetic only."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass

from scheduler.views.history import History, Step

ROOM_ABOVE = 0.35  # above the first baseline, as a multiple of the way from there to the best score
MIN_SIGMAS = 6.0  # the picture is at least this many noise sd high, so that noise looks like noise
FALLBACK_SD_BPB = 0.01  # before any noise is known
MARGIN = 0.14  # of the height, free below
SLANTED_MARGIN = 0.35  # the same where many baselines carry slanted names
TOP_MARGIN = 0.2  # of the height, free above: for what has no score
MANY_STEPS = 6  # promotions from which on names are slanted
MIN_APART = 0.02  # of the width, between two slanted names
FREE_LEFT = 0.08  # of the width: a slanted name there would run out of the picture


@dataclass(frozen=True, slots=True)
class Scale:
    """val_bpb at the lower and upper edge, and the number of the last run (at least 1)."""

    low: float
    high: float
    last_run: int


def scale_of(history: History) -> Scale:
    """Scores above `high` are the caller's to draw at the edge."""
    last_run = max((point.number for point in history.runs), default=1)
    scores = [point.val_bpb for point in history.runs if point.val_bpb is not None]
    if not scores:
        return Scale(0.0, 1.0, last_run)
    best, least = min(scores), MIN_SIGMAS * (history.noise_sd_bpb or FALLBACK_SD_BPB)
    start = history.baselines[0].val_bpb if history.baselines else best
    limit = start + max(ROOM_ABOVE * (start - best), least, _fence(history))
    top = max(score for score in scores if score <= max(limit, best))
    height = max(top - best, least)
    below = SLANTED_MARGIN if is_crowded(history) else MARGIN
    return Scale(best - below * height, best + (1 + TOP_MARGIN) * height, last_run)


def _fence(history: History) -> float:
    """How far above the baseline of its moment an ordinary score lies, at most: Tukey's outer fence."""
    above, steps = [], iter(history.baselines)
    step, following = next(steps, None), next(steps, None)
    for point in history.runs:
        while following is not None and following.number <= point.number:
            step, following = following, next(steps, None)
        if step is not None and point.val_bpb is not None:
            above.append(point.val_bpb - step.val_bpb)
    if len(above) < 2:
        return 0.0
    low, _, high = statistics.quantiles(above, n=4, method="inclusive")
    return high + 3 * (high - low)


def is_crowded(history: History) -> bool:
    return len(history.baselines) > MANY_STEPS + 1


def named_steps(history: History, last_run: int) -> tuple[Step, ...]:
    """The baselines to name: all when they are few, else the largest gains that keep their distance."""
    steps = history.baselines
    if not is_crowded(history):
        return steps
    gains = {after: before.val_bpb - after.val_bpb for before, after in itertools.pairwise(steps)}
    chosen: list[Step] = []
    for step in sorted(gains, key=lambda step: -gains[step]):
        if step.number >= FREE_LEFT * last_run and all(
            abs(step.number - other.number) >= MIN_APART * last_run for other in chosen
        ):
            chosen.append(step)
    return tuple(chosen)
