"""What this machine allows a judge and a candidate: PID namespaces, torch, a GPU with a candidate's rights.

`python -m harness.capabilities cpu|cuda` prints one line of JSON. Not covered: caches (`harness.cache`) and how fast a
GPU is (`harness.gpu_probe`).
"""

from __future__ import annotations

import json
import sys

from harness.containment import forbid_new_privileges, namespaces_allowed


def main(argv: list[str]) -> int:
    """contained; torch: its version, "" when it does not start; cuda_build: the CUDA it is built for, like "13.0";
    cuda, cuda_error: whether it reaches a GPU, if asked, and why not."""
    found = {"contained": namespaces_allowed(), "torch": "", "cuda_build": "", "cuda": False, "cuda_error": ""}
    try:
        import torch

        found |= {"torch": str(torch.__version__), "cuda_build": torch.version.cuda or ""}
        if argv == ["cuda"]:
            forbid_new_privileges()  # as a candidate has it: no setuid nvidia-modprobe
            torch.zeros(1, device="cuda")
            found["cuda"] = True
    except Exception as problem:  # torch raises whatever its libraries run into
        found["cuda_error"] = f"{type(problem).__name__}: {problem}".splitlines()[0]
    print(json.dumps(found))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
