"""`python -m harness.judge`: see harness.judge.cli."""

import signal
import sys

from harness.containment import FORWARDED_SIGNALS


def _run() -> int:
    if sys.platform == "linux":  # before anything slow is imported: an early Ctrl-C waits until it can be answered
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED_SIGNALS)
    from harness.judge.cli import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(_run())
