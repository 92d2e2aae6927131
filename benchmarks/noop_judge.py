"""A judge that judges nothing: what is left of a run when the run itself takes no time. Used by bench_overhead.py."""

import json
import os
import sys

CACHE_ANSWER = {"digest": "0" * 64, "contract_digest": "0" * 64, "directory": "none"}

if "--out" not in sys.argv:  # asked for the cache
    print(json.dumps(CACHE_ANSWER))
else:
    out = sys.argv[sys.argv.index("--out") + 1]
    with open(os.path.join(out, ".result"), "w") as file:
        file.write('{"format": 1, "status": "ok", "reason": "", "val_bpb": 2.0}')
    os.replace(os.path.join(out, ".result"), os.path.join(out, "result.json"))
