"""`python -m harness.prepare`."""

import sys

from harness.prepare.cli import main

if __name__ == "__main__":
    sys.exit(main())
