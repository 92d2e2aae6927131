"""`python -m harness.sandbox`: one line of JSON, {"full": "" or why not, "weak": "" or why not, "landlock_abi": n}."""

from __future__ import annotations

import json
import sys

from harness.sandbox.levels import levels_here

if __name__ == "__main__":
    sys.stdout.write(json.dumps(levels_here()) + "\n")
