"""A driver as a program, to be killed or interrupted by tests: connects a pool, starts endless runs, then waits.

Prints one JSON line per event on stdout: {"event": "connected" | "started" | "closed" | "problem", …}.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

from scheduler.domain.errors import PoolProblem
from scheduler.node.supervisor import NodeSettings
from scheduler.ray.pool import RayPool
from tests.scheduler.fake_judge import CONTRACT_JSON
from tests.scheduler.supervisor_pool import FAKES, fake_order


def report(event: str, **facts: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--address")
    parser.add_argument("--slots", type=int)
    parser.add_argument("--lab", default="lab-1")
    parser.add_argument("--spool", type=Path, required=True)
    parser.add_argument("--train", required=True, help="train.py of every run, in the fake judge's words")
    parser.add_argument("--runs", type=int, default=2)
    asked = parser.parse_args()
    settings = NodeSettings(asked.spool, FAKES)
    try:
        pool = RayPool.connect(asked.address, asked.slots, CONTRACT_JSON, asked.lab, settings=settings)
    except PoolProblem as problem:
        report("problem", message=problem.message, hint=problem.hint)
        return 1
    except KeyboardInterrupt:
        report("interrupted")
        return 130
    slots = pool.slots()
    report("connected", slots=[slot.id for slot in slots], problems=[slot.problem for slot in slots])
    try:
        for number, slot in enumerate(slots[: asked.runs], start=1):
            order = replace(fake_order(f"r{number:04}", asked.train), lab_id=asked.lab)
            pool.start(slot.id, order)
        report("started")
        signal.pause()
    except PoolProblem as problem:
        report("problem", message=problem.message, hint=problem.hint)
        return 1
    except KeyboardInterrupt:
        pool.close(stop_runs=False)
        report("closed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
