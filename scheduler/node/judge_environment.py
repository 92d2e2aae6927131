"""The environment a judge starts in: a short allow-list of the node's own, never the scheduler's.

What a Ray process carries (RAY_*, niceness, OMP_NUM_THREADS=1, its token) and what a person's shell carries (cloud
keys, tokens of all kinds) stays behind. The judge sets threads and scrubs again for the candidate. Of PYTHONPATH only
folders that pip filled (`pip install --target`) are kept: torch may lie there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import scheduler

ALLOWED = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV",
    "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CC", "CXX",
    "CPATH", "LIBRARY_PATH", "TRITON_PTXAS_PATH", "TRITON_LIBCUDA_PATH",  # headers and libcuda that lie elsewhere
    "ARSCHED_CACHE", "XDG_CACHE_HOME", "SYSTEMROOT",
})  # fmt: skip
ALLOWED_PREFIXES = ("LC_",)
CODE_ROOT = Path(scheduler.__file__).resolve().parents[1]


def judge_environment(environ: Mapping[str, str], uuid: str) -> dict[str, str]:
    """Variables for a judge on the GPU of that UUID, or on no GPU for ""."""
    kept = {name: value for name, value in environ.items() if name in ALLOWED or name.startswith(ALLOWED_PREFIXES)}
    kept["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    kept["CUDA_VISIBLE_DEVICES"] = uuid
    kept["PYTHONUNBUFFERED"] = "1"
    path = site_folders(environ.get("PYTHONPATH", ""))
    if CODE_ROOT.name not in ("site-packages", "dist-packages"):  # a checkout that may not be installed
        path = [str(CODE_ROOT), *path]
    if path:
        kept["PYTHONPATH"] = os.pathsep.join(path)
    return kept


def site_folders(python_path: str) -> list[str]:
    """The absolute folders of a PYTHONPATH that hold installed packages; a judge starts in another folder."""
    return [folder for folder in python_path.split(os.pathsep) if os.path.isabs(folder) and _is_site(Path(folder))]


def _is_site(folder: Path) -> bool:
    return next(folder.glob("*.dist-info"), None) is not None
