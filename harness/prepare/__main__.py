"""`python -m harness.prepare`."""

import os
import sys

from harness.prepare.cli import main

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: after Ctrl-C a thread may still sit in a library call that an orderly end would wait for.
    os._exit(code)
