"""What a run on a GPU needs of its node besides the GPU: a C compiler, Python's headers, the driver's device files.

Only looks whether they are there. The driver and the GPUs themselves are asked in `gpu`; of their answers, `gpu_notes`
says what a slot is to carry along.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scheduler.node.gpu import GpuUnavailable, compute_processes, read_states

UNSEEN_PROCESSES = "NVML may not list processes here: whether somebody else computes on this GPU cannot be told"
NO_DEVICE_FILES_NEEDED = ("dxg", "nvmap")  # WSL and Tegra reach their GPUs through these instead


@dataclass(frozen=True, slots=True)
class Lack:
    """Something a run needs and the node does not have, and what to do about it."""

    said: str
    hint: str

    def __str__(self) -> str:
        return f"{self.said}; {self.hint}"


def toolchain_lacks(environ: Mapping[str, str]) -> tuple[Lack, ...]:
    """What Triton would miss in a run that starts with these variables: it compiles a C file against Python.h there."""
    return tuple(lack for lack in (_compiler_lack(environ), _headers_lack(environ)) if lack is not None)


def device_file_lacks(minors: Iterable[int], dev: Path = Path("/dev")) -> tuple[Lack, ...]:
    """Device files that are not there or not this user's to open; `minors`: N of each /dev/nvidiaN.

    A process that opens CUDA has a missing one made by nvidia-modprobe, which is setuid root. A run may gain no
    privileges (no_new_privs), so they must be there before it.
    """
    if any((dev / name).exists() for name in NO_DEVICE_FILES_NEEDED):
        return ()
    paths = [dev / name for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{minor}" for minor in minors))]
    absent = [str(path) for path in paths if not path.exists()]
    closed = [str(path) for path in paths if path.exists() and not os.access(path, os.R_OK | os.W_OK)]
    lacks = []
    if absent:
        hint = (
            "run `sudo nvidia-modprobe -u -c=0` after every boot (nvidia-persistenced, started at boot, keeps them); "
            "in a container: start it with --gpus all"
        )
        lacks.append(Lack(f"not there: {', '.join(absent)}; a run may not make them itself", hint))
    if closed:
        hint = "add this user to the group that owns them (ls -l shows it), then log in again"
        lacks.append(Lack(f"this user may not open {', '.join(closed)}", hint))
    return tuple(lacks)


def gpu_notes(uuid: str) -> tuple[str, ...]:
    """What is worth knowing of one GPU while no run of ours is on it."""
    states = [state for state in read_states() if state.uuid == uuid]
    lacks = device_file_lacks(state.minor for state in states if state.minor is not None)
    notes = [f"device files {lack}" for lack in lacks]
    notes += [f"somebody holds memory of it: {state.memory_text}" for state in states if state.memory_in_use]
    return (*notes, *([UNSEEN_PROCESSES] if _unseen(uuid) else []))


def _unseen(uuid: str) -> bool:
    try:
        return compute_processes(uuid) is None
    except GpuUnavailable:  # the slot's problem, said elsewhere
        return False


def _compiler_lack(environ: Mapping[str, str]) -> Lack | None:
    """Triton takes $CC, else gcc, else clang."""
    path, chosen = environ.get("PATH"), environ.get("CC")
    if chosen is not None:
        hint = "unset CC, or set it to the path of gcc or clang, without options"
        return None if shutil.which(chosen, path=path) else Lack(f"the C compiler CC={chosen} is not there", hint)
    if any(shutil.which(name, path=path) for name in ("gcc", "clang")):
        return None
    if shutil.which("cc", path=path):
        return Lack("there is no gcc or clang, only cc, which Triton does not look for", "export CC=cc")
    return Lack("there is no C compiler, and Triton compiles in every run", "apt install gcc python3-dev")


def _headers_lack(environ: Mapping[str, str]) -> Lack | None:
    """Triton asks the scheme posix_prefix where Debian's own is posix_local."""
    scheme = sysconfig.get_default_scheme()
    include = sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)
    extra = [folder for folder in environ.get("CPATH", "").split(os.pathsep) if folder]
    if any(Path(folder, "Python.h").is_file() for folder in (include, *extra)):
        return None
    version = sysconfig.get_python_version()
    hint = f"apt install gcc python{version}-dev (python3-dev where {version} is the system's Python)"
    return Lack(f"Python's headers are missing: no Python.h in {include}", hint)
