"""Neighbours that come and go, for benchmarks of how much a busy machine moves results: a seeded schedule of processes.

    python benchmarks/machine_load.py --seed 7 --seconds 600        print the schedule and keep the machine that busy

For 15 to 60 s at a time 0 to 4 processes run, each one of: a spinning loop, a stream through memory, matrix products,
random numbers. One seed is one schedule. All die with the process that started them.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

KINDS = {
    "spin": "while True: pass",
    "memory": "import numpy as np; a = np.zeros(8 << 20); b = a.copy()\nwhile True: np.copyto(a, b)",
    "matmul": "import numpy as np; a = np.ones((512, 512), np.float32)\nwhile True: a @ a",
    "random": "import numpy as np; draw = np.random.default_rng(0)\nwhile True: draw.standard_normal(1 << 20).sum()",
}
_LEVELS = (0, 0, 1, 2, 3, 4)
_PR_SET_PDEATHSIG = 1


def schedule(seed: int) -> Iterator[tuple[float, tuple[str, ...]]]:
    """For how many seconds which processes run, without end."""
    draw = random.Random(seed)
    while True:
        yield draw.uniform(15, 60), tuple(draw.choice(sorted(KINDS)) for _ in range(draw.choice(_LEVELS)))


@contextmanager
def machine_load(seed: int | None) -> Iterator[None]:
    """Load while the block runs; None: a quiet machine."""
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=(seed, over)) if seed is not None else None
    if thread:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread:
            thread.join()


def _follow(seed: int | None, over: threading.Event) -> None:
    for seconds, kinds in schedule(seed or 0):
        running = [start(kind) for kind in kinds]
        over.wait(seconds)
        for process in running:
            process.kill()
            process.wait()
        if over.is_set():
            return


def start(kind: str) -> subprocess.Popen[bytes]:
    """A neighbour of that kind, which ends with the thread that calls this."""
    # The thread that starts them lives as long as they shall: PR_SET_PDEATHSIG is about the thread.
    return subprocess.Popen(
        [sys.executable, "-c", KINDS[kind]],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=600)
    asked = parser.parse_args()
    left = asked.seconds
    for seconds, kinds in schedule(asked.seed):
        print(f"{min(seconds, left):5.0f} s  {', '.join(kinds) or 'nothing'}", flush=True)
        left -= seconds
        if left <= 0:
            break
    with machine_load(asked.seed):
        time.sleep(asked.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
