"""When and where the runs of a claim are made: as the product does it, by pair_claims, alternately on the same slots.

All take one plain run. Measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from scheduler.domain.run import Queued, Run, RunKind, Running
from scheduler.policy.dispatch import pair_claims

FIRST_SEED = 1001  # no other run has such a seed


def claim_runs(refs: Sequence[str], each: int, slots: Sequence[str]) -> Iterator[tuple[float, Run, str]]:
    """(start, in plain runs since the claim began; run; slot id) of `each` runs of every candidate, on common seeds."""
    queued = [
        Run(f"claim-{ref}-{turn}", ref, RunKind.CLAIM, FIRST_SEED + turn, 0, "", Queued(0.0))
        for turn in range(each)
        for ref in refs
    ]
    begun: list[Run] = []
    wave = 0.0
    while queued:
        free = list(slots)
        while pairs := pair_claims(queued, free, begun):  # asked again until nothing more fits, as the loop does
            for run, slot_id in pairs:
                queued.remove(run)
                free.remove(slot_id)
                begun.append(replace(run, state=Running(1, slot_id, "boot", wave)))
                yield wave, run, slot_id
        wave += 1.0
