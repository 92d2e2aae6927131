"""A proposer that speaks JSON lines: one program an ask, its score drawn from the ask's seed, a little late.

Standard library only. `python lines_proposer.py [SECONDS]`
"""

from __future__ import annotations

import json
import random
import sys
import time

for line in sys.stdin:
    ask = json.loads(line)
    time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0)
    score = round(random.Random(ask["seed"]).uniform(1.5, 2.2), 4)
    answer = {"ask": ask["ask"], "train_py": f"SCORE = {score}\nIDEA = {ask['seed']}\n", "title": f"idea {ask['seed']}"}
    print(json.dumps(answer), flush=True)  # noqa: T201
