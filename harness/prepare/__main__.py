"""`python -m harness.prepare`: the command line, with Ctrl-C felt cleanly from the first import to the last line."""

import os
import sys


def _run() -> int:
    try:
        from harness.prepare.cli import main

        return main()
    except KeyboardInterrupt:  # while importing, or a second one while the first was being answered
        print("error: stopped", file=sys.stderr)  # noqa: T201
        return 130


if __name__ == "__main__":
    code = _run()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: after Ctrl-C a thread may still sit in a library call that an orderly end would wait for.
    os._exit(code)
