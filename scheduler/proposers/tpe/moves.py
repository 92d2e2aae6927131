"""Small steps away from a baseline: one knob, or two that belong together. Pure, given a source of chance.

Constants that a GPT's train.py ties together are moved together: a batch that fits the device with the whole batch it
divides, layers with the width each adds.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping

from scheduler.proposers.tpe.history import Rungs
from scheduler.proposers.tpe.knobs import Knob, Number

# Two constants and whether they move alike (1: their ratio stays) or against each other (-1: their product stays).
TIED = (("DEVICE_BATCH_SIZE", "TOTAL_BATCH_SIZE", 1), ("DEPTH", "ASPECT_RATIO", -1))
_FACTORS = (1.4, 2.0, 2.0, 4.0)


def base_rungs(knobs: Mapping[str, Knob]) -> Rungs:
    return tuple(knob.at for knob in knobs.values())


def moved(rungs: Rungs, knobs: Mapping[str, Knob]) -> dict[str, Number]:
    """The values that are not the baseline's."""
    pairs = zip(knobs.items(), rungs, strict=True)
    return {name: knob.values[rung] for (name, knob), rung in pairs if rung != knob.at}


def probe(knobs: Mapping[str, Knob], chance: random.Random, moved_before: Mapping[str, int]) -> Rungs:
    """One or two knobs away from the baseline; those moved least so far come first."""
    values = {name: knob.values[knob.at] for name, knob in knobs.items()}
    order = sorted(knobs, key=lambda name: (moved_before.get(name, 0), chance.random()))
    for name in order[: 1 if chance.random() < 0.6 else 2]:
        values[name] = step(knobs[name], chance)
    mate = _mate(order[0], knobs)
    if mate is not None and chance.random() < 0.7:
        other, sense = mate
        factor = values[order[0]] / knobs[order[0]].values[knobs[order[0]].at]
        values[other] = knobs[other].values[knobs[other].at] * factor**sense
    return settle(values, knobs)


def step(knob: Knob, chance: random.Random) -> Number:
    """Another value on the ladder: usually some tens of percent to a factor of four away, sometimes its lowest."""
    value = knob.values[knob.at]
    others = [one for one in knob.values if one != value]
    if len(others) == 1 or value == 0 or chance.random() < 0.15:
        return (
            chance.choice([others[0], others[0], others[-1]])
            if value
            else chance.choice(others[: len(others) // 2 + 1])
        )
    wanted = value * chance.choice(_FACTORS) ** chance.choice((-1, 1))
    return min(others, key=lambda one: abs(one - wanted))


def settle(values: Mapping[str, Number], knobs: Mapping[str, Knob]) -> Rungs:
    """The nearest rungs, with the whole batch kept a multiple of what the device takes."""
    wanted = dict(values)
    device, total = TIED[0][:2]
    if device in knobs and total in knobs:
        base = {name: knobs[name].values[knobs[name].at] for name in (device, total)}
        share = base[total] / base[device]
        if wanted[total] < wanted[device] * share:
            if wanted[device] > base[device] and wanted[device] * share <= knobs[total].values[-1]:
                wanted[total] = wanted[device] * share
            else:
                wanted[device] = wanted[total] / share
    return tuple(_nearest(knob, wanted[name]) for name, knob in knobs.items())


def mutate(rungs: Rungs, knobs: Mapping[str, Knob], taken: Collection[Rungs], chance: random.Random) -> Rungs | None:
    """Rungs nobody has tried, some steps from the given ones; None when there are none in reach."""
    names = list(knobs)
    for reach in range(200):
        values = {name: knobs[name].values[rung] for name, rung in zip(names, rungs, strict=True)}
        for name in chance.sample(names, min(len(names), 1 + reach // 50)):
            values[name] = chance.choice(knobs[name].values)
        found = settle(values, knobs)
        if found not in taken:
            return found
    return None


def _mate(name: str, knobs: Mapping[str, Knob]) -> tuple[str, int] | None:
    for one, other, sense in TIED:
        if name in (one, other) and one in knobs and other in knobs:
            return (other if name == one else one), sense
    return None


def _nearest(knob: Knob, value: Number) -> int:
    return min(range(len(knob.values)), key=lambda rung: abs(knob.values[rung] - value))
