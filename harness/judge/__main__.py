"""The judge's entry, `python -m harness.judge`: arguments, containment, then the run."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from harness.containment import FORWARDED_SIGNALS, Containment, ContainmentError, contain, die_with_parent

_EXIT_INFRA, _EXIT_USAGE = 1, 2


def main(argv: list[str]) -> int:
    """Judge one run; returns the exit code (0 scored, 3 not, 1 infrastructure, 2 usage)."""
    if sys.platform != "linux":
        sys.stderr.write("judge: needs Linux (process trees, sealed shared memory); `python train.py` runs anywhere\n")
        return _EXIT_USAGE
    # Before anything slow is imported: an early Ctrl-C waits until it can be answered.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED_SIGNALS)
    from harness.judge.arguments import parse_arguments

    args = parse_arguments(argv)
    # The judge shares the candidate's cores: it must neither wake a thread per core next to it nor starve itself.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    with contextlib.suppress(PermissionError):  # a niced parent that is not root cannot be undone
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    if args.cpus:
        os.sched_setaffinity(0, args.cpus)
    die_with_parent()

    def run(containment: Containment) -> int:
        from harness.judge.run import run_judge  # numpy is paid for in the contained process alone

        return run_judge(args, containment)

    try:
        return contain(args.containment, run)
    except ContainmentError as error:
        sys.stderr.write(f"judge: {error}\n")
        return _EXIT_INFRA


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
