"""A pool kept open over several turns at the queue: Ray takes seconds to start, and nothing runs in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from scheduler.domain.errors import PoolProblem
from scheduler.domain.lab import Lab
from scheduler.domain.slot import Pool, Report, RunOrder, Slot
from scheduler.queue.pools import Connect, Joined, PoolOptions


class _Kept:
    """Implements scheduler.domain.slot.Pool; leaving it does not close what is behind it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def slots(self) -> tuple[Slot, ...]:
        return self._pool.slots()

    def start(self, slot_id: str, order: RunOrder) -> None:
        self._pool.start(slot_id, order)

    def poll(self) -> tuple[Report, ...]:
        return self._pool.poll()

    def acknowledge(self, slot_id: str, run_id: str, attempt: int) -> None:
        self._pool.acknowledge(slot_id, run_id, attempt)

    def stop(self, slot_id: str, run_id: str, attempt: int) -> None:
        self._pool.stop(slot_id, run_id, attempt)

    def close(self, *, stop_runs: bool) -> None:
        """The next turn needs it."""


@contextmanager
def kept_pool(connect: Connect) -> Iterator[Connect]:
    """A `connect` that joins once and hands out the same pool again; what it joined is closed at the end."""
    joined: list[Joined] = []

    def connect_once(lab: Lab, options: PoolOptions, say: Callable[[str], None]) -> Joined:
        if not joined:
            joined.append(connect(lab, options, say))
        return Joined(_Kept(joined[0].pool), joined[0].outlives_us)

    try:
        yield connect_once
    finally:
        for one in joined:
            with suppress(PoolProblem):
                one.pool.close(stop_runs=not one.outlives_us)
