"""A judge that judges nothing: what is left of a run when the run itself takes no time. Used by bench_overhead.py."""

import hashlib
import json
import os
import sys

CACHE_ANSWER = {"digest": "0" * 64, "contract_digest": "0" * 64, "directory": "none"}
RESULT = '{"format": 1, "status": "ok", "reason": "", "val_bpb": 2.0}'

if "--out" not in sys.argv:  # asked for the cache
    print(json.dumps(CACHE_ANSWER))
else:
    out = sys.argv[sys.argv.index("--out") + 1]
    nonce = os.read(int(sys.argv[sys.argv.index("--nonce-fd") + 1]), 256).decode() if "--nonce-fd" in sys.argv else ""
    with open(os.path.join(out, ".result"), "w") as file:
        file.write(RESULT)
    os.replace(os.path.join(out, ".result"), os.path.join(out, "result.json"))
    if "--digest-fd" in sys.argv:
        digest = hashlib.sha256(RESULT.encode()).hexdigest()
        os.write(int(sys.argv[sys.argv.index("--digest-fd") + 1]), f"{digest} {nonce}\n".encode())
