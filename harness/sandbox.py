"""What this machine allows a candidate to be run in, as one line of JSON."""

from __future__ import annotations

import json
import sys

if __name__ == "__main__":
    sys.stdout.write(json.dumps({"full": "", "weak": "", "landlock_abi": 0}))
