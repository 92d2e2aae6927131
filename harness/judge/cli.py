"""The judge's entry: parse, contain, hold court.

Covers: keeping the judge itself small, on the run's cores, and at the priority of an ordinary process.
"""

from __future__ import annotations

import contextlib
import os
import sys

from harness.containment import Containment, ContainmentError, contain, die_with_parent
from harness.judge.order import Order, parse_order

_EXIT_INFRA, _EXIT_USAGE = 1, 2


def main(argv: list[str]) -> int:
    """Judge one run; returns the exit code (0 scored, 3 not, 1 infrastructure, 2 usage).

    The caller has blocked containment.FORWARDED_SIGNALS.
    """
    if sys.platform != "linux":
        sys.stderr.write("judge: needs Linux (process trees, sealed shared memory); `python train.py` runs anywhere\n")
        return _EXIT_USAGE
    order = parse_order(argv)
    _settle(order)
    die_with_parent()
    try:
        return contain(order.containment, lambda containment: _hold_court(order, containment))
    except ContainmentError as error:
        sys.stderr.write(f"judge: {error}\n")
        return _EXIT_INFRA


def _settle(order: Order) -> None:
    """The judge shares the candidate's cores, must not wake a thread per core beside it, and must not starve itself."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    with contextlib.suppress(PermissionError):  # a niced parent that is not root cannot be undone
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    if order.cpus:
        os.sched_setaffinity(0, order.cpus)


def _hold_court(order: Order, containment: Containment) -> int:
    from harness.judge.court import hold_court  # numpy is paid for in the contained process alone

    return hold_court(order, containment)
