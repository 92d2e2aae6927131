"""What a queue is run with: pool, clock, pace and patience. Tests bring their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from scheduler.queue.pools import Connect, PoolOptions, connect_ray


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two rounds of the loop, between decisions without news, and between two live files."""

    round_s: float = 0.1
    decide_s: float = 2.0
    tell_s: float = 1.0
    no_slot_s: float = 600.0  # how long a lab that has work waits for a usable slot to come back


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. A lease is renewed while its slot answers; a run that no slot knows of is queued again."""

    lease_s: float = 120.0
    unknown_s: float = 15.0  # a slot that answers and does not mention a run it should have


@dataclass(frozen=True, slots=True)
class Means:
    """`clock` gives seconds since the epoch; `sleep` lets them pass."""

    options: PoolOptions = field(default_factory=PoolOptions)
    connect: Connect = connect_ray
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    pace: Pace = field(default_factory=Pace)
    patience: Patience = field(default_factory=Patience)
