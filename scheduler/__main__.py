"""The command `arsched`, and `python -m scheduler`: Ctrl-C ends it silently while it is still being loaded."""

from __future__ import annotations

import os
import signal


def run() -> None:
    """`scheduler.cli.main`, whose imports take a part of a second: nothing has begun, and a trace would say nothing."""
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_default:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Decisions are on small matrices: NumPy's threads would only spin on the cores that runs train on. A judge's
    # environment is its own (scheduler.node.judge_process).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from scheduler.cli.main import main

    if is_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main()


if __name__ == "__main__":
    run()
