"""The real `arsched` command on two slots of this process, whose judge is landscape_judge: no Ray, no training.

Run as a program, with the contract's cache prepared below $ARSCHED_CACHE.
"""

from __future__ import annotations

import sys
from pathlib import Path

from scheduler.cli.main import main
from scheduler.node.judge_process import Commands
from scheduler.ray.pool import RayPool
from tests.scheduler import arsched_without_ray

JUDGE = (sys.executable, "-S", str(Path(__file__).resolve().parent / "landscape_judge.py"))

if __name__ == "__main__":
    arsched_without_ray.Commands = lambda *_: Commands(JUDGE)  # type: ignore[misc, assignment, attr-defined]
    RayPool.connect = arsched_without_ray.connect  # type: ignore[method-assign, assignment]
    main()
