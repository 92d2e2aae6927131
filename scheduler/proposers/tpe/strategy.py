"""Where to try next: probes of one or two knobs while little is known, then TPE over a few at a time.

A night has tens of runs, not thousands, and most settings of a dozen knobs at once are bad: so what is not being tried
stays at the baseline's value, and the baseline moves when something holds.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from scheduler.proposers.tpe.history import Point, Rungs
from scheduler.proposers.tpe.knobs import Knob
from scheduler.proposers.tpe.moves import base_rungs, mutate, probe, settle
from scheduler.proposers.tpe.sampler import suggest

TRIES = 12  # repeats that are put up with before chance takes over
FREE = (2, 3, 4)  # knobs that TPE turns at a time


def next_rungs(points: Sequence[Point], knobs: Mapping[str, Knob], chance: random.Random, startup: int) -> Rungs | None:
    """Rungs nobody has tried; None when there are none left in reach."""
    base = base_rungs(knobs)
    taken = {base, *(point.rungs for point in points)}
    tried = [point for point in points if point.rungs != base]
    is_young = len(tried) < startup
    for _ in range(TRIES):
        found = probe(knobs, chance, _moves(tried, knobs)) if is_young else _by_tpe(points, knobs, chance)
        if found not in taken:
            return found
    return mutate(base, knobs, taken, chance)


def _by_tpe(points: Sequence[Point], knobs: Mapping[str, Knob], chance: random.Random) -> Rungs:
    free = _free(knobs, chance)
    rungs = suggest(points, knobs, free, chance.getrandbits(32))
    values = {name: knob.values[rung] for (name, knob), rung in zip(knobs.items(), rungs, strict=True)}
    return settle(values, knobs)


def _free(knobs: Mapping[str, Knob], chance: random.Random) -> list[str]:
    return chance.sample(list(knobs), min(len(knobs), chance.choice(FREE)))


def _moves(points: Sequence[Point], knobs: Mapping[str, Knob]) -> Mapping[str, int]:
    """How often each knob was away from the baseline's value."""
    base = base_rungs(knobs)
    return Counter(
        name for point in points for name, rung, at in zip(knobs, point.rungs, base, strict=True) if rung != at
    )
