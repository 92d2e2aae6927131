"""Questions to the referee (the harness) that are asked in a process of its own, as its nodes would answer them.

The scheduler imports nothing of the harness but contracts; what torch, the kernel or a cache have to say comes back as
one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scheduler.domain.errors import LabProblem
from scheduler.node.judge_environment import judge_environment

ANSWER_S = 600.0  # reading every byte of a large cache from a slow disk

_MACHINE = """
import json, sys
said = {"contained": False, "torch": "", "cuda_build": "", "cuda": False, "cuda_error": ""}
from harness.containment import ContainmentError, contain
import os
pid = os.fork()
if pid == 0:
    try:
        os._exit(contain("namespace", lambda containment: 0))
    except ContainmentError:
        os._exit(1)
said["contained"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
try:
    import torch
    said["torch"], said["cuda_build"] = torch.__version__, torch.version.cuda or ""
    if sys.argv[1] == "cuda":
        import ctypes
        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, as for a candidate: no setuid nvidia-modprobe
        torch.zeros(1, device="cuda")
        said["cuda"] = True
except Exception as problem:
    said["cuda_error"] = f"{type(problem).__name__}: {problem}".splitlines()[0]
print(json.dumps(said))
"""


def ask_machine(device: str) -> dict[str, Any]:
    """contained: are PID namespaces allowed; torch: its version; cuda_build: the CUDA it is built for, like "13.0";
    cuda, cuda_error: does a process with a candidate's rights reach a GPU (if asked)."""
    return _ask([sys.executable, "-P", "-c", _MACHINE, device], visible_gpus=None)


def ask_cache(contract_json: str, *, full: bool) -> dict[str, Any]:
    """What `python -m harness.cache` says: digest, directory, kernel …, or error and hint."""
    with tempfile.TemporaryDirectory(prefix="arsched-") as folder:
        path = Path(folder) / "contract.json"
        path.write_text(contract_json, encoding="utf-8")
        command = [sys.executable, "-P", "-m", "harness.cache", "--contract", str(path)]
        return _ask(command + ["--full"] * full, visible_gpus="")


def _ask(command: Sequence[str], visible_gpus: str | None) -> dict[str, Any]:
    environment = judge_environment(os.environ, visible_gpus or "")
    if visible_gpus is None:
        del environment["CUDA_VISIBLE_DEVICES"]
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_S, env=environment, stdin=subprocess.DEVNULL
        )
        answer: dict[str, Any] = json.loads(said.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise LabProblem(f"the referee could not be asked: {problem}") from None
    except (ValueError, IndexError):
        told = said.stderr.strip().splitlines()[-1:] or [f"exit code {said.returncode}"]
        raise LabProblem(f"the referee fails: {told[0]}", "is arsched installed whole? pip install -e .") from None
    return answer
