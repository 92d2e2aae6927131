"""`python -m harness.judge`: see harness.judge.cli."""

import sys

from harness.judge.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
