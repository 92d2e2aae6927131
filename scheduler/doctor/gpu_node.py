"""What a GPU node needs besides GPUs: compiler and headers, a driver that runs this torch's CUDA, device files.

Decides about values; looking is done in the adapters.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from scheduler.doctor.findings import Finding, Grade, good, note, problem
from scheduler.node.gpu import Driver
from scheduler.node.gpu_node import Lack, toolchain_lacks
from scheduler.node.judge_environment import judge_environment

LEAST_DRIVERS = {11: 450, 12: 525, 13: 580}  # by CUDA major version
WHICH_TORCH = (
    "torch for CUDA 13.x needs driver 580 or newer, for CUDA 12.x 525 or newer: update the driver, or install torch "
    "from the index of its CUDA 12.x builds (torch's install page names it)"
)
GET_TORCH = (
    "install torch from the index of its CUDA builds (torch's install page names it): CUDA 13.x needs driver 580 or "
    "newer, CUDA 12.x 525 or newer"
)


def check_toolchain() -> Iterator[Finding]:
    """Compiler and headers, as a run on this machine would find them."""
    lacks = toolchain_lacks(judge_environment(os.environ, ""))
    yield from (problem("compiler", lack.said, lack.hint) for lack in lacks)
    if not lacks:
        yield good("compiler", "a C compiler and Python.h are there for Triton")


def judge_cuda(said: dict[str, Any], driver: Driver | None, lacks: tuple[Lack, ...]) -> Iterator[Finding]:
    """`said`: the referee's answer about torch and CUDA; `driver`: None without one; `lacks`: of device files.

    Device files are judged by what torch could do with them: some systems reach GPUs without.
    """
    yield _judge_torch(said, driver)
    for lack in lacks if driver is not None else ():
        yield Finding("device", Grade.NOTE if said["cuda"] else Grade.PROBLEM, lack.said, lack.hint)


def _judge_torch(said: dict[str, Any], driver: Driver | None) -> Finding:
    """NVIDIA's minor version compatibility: what is built for CUDA N.x runs on every driver of CUDA N.0 or newer."""
    torch, built = said["torch"], said["cuda_build"]
    if not built:
        return problem("torch", f"torch {torch} is a build without CUDA", GET_TORCH)
    runs = driver.cuda if driver else None
    too_old = runs is not None and runs[0] < _major(built)
    if driver and runs and too_old:
        what = f"torch {torch} is built for CUDA {built}, driver {driver.version} runs CUDA {runs[0]}.{runs[1]} at most"
        if said["cuda"]:  # NVIDIA's forward compatibility package stands in for a newer driver
            return note("torch", f"{what}; it reaches the GPU all the same (cuda-compat)", _newer_driver(built))
        return problem("torch", what, WHICH_TORCH)
    if not said["cuda"]:
        hint = f"nvidia-smi shows whether the driver works; {_newer_driver(built)}"
        return problem("torch", f"torch {torch} (CUDA {built}) reaches no GPU: {said['cuda_error']}", hint)
    drives = f", driver {driver.version}" if driver else ""
    return good("torch", f"{torch} with CUDA {built}{drives}")


def _newer_driver(built: str) -> str:
    least = LEAST_DRIVERS.get(_major(built))
    return f"CUDA {built} needs driver {least} or newer" if least else f"CUDA {built} needs a driver of its time"


def _major(version: str) -> int:
    head = version.partition(".")[0]
    return int(head) if head.isdigit() else 0
