"""Builds the pool a lab runs on. The one place of the app that knows there is Ray, and it asks for it late."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from scheduler.domain.lab import Lab
from scheduler.domain.slot import Pool


@dataclass(frozen=True, slots=True)
class Joined:
    """`outlives_us`: runs go on when this process leaves (a cluster); an embedded Ray ends with it."""

    pool: Pool
    outlives_us: bool


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """`address` None: RAY_ADDRESS, else this machine alone. `slots` None: all there are."""

    address: str | None = None
    slots: int | None = None


Connect = Callable[[Lab, PoolOptions, Callable[[str], None]], Joined]


def connect_ray(lab: Lab, options: PoolOptions, say: Callable[[str], None]) -> Joined:
    """Join or start Ray and its slots. Raises PoolProblem."""
    from scheduler.ray.pool import RayPool

    pool = RayPool.connect(options.address, options.slots, lab.contract_json, lab.lab_id, say=say)
    return Joined(pool, outlives_us=bool(options.address or os.environ.get("RAY_ADDRESS")))
