"""Stands before the package `kernels` on the path of an upstream train.py, and steps aside for it.

Upstream calls get_kernel(repository) without a version, which kernels 0.15 and later refuse. Here such a call gives the
attention kernel that was prefetched on this node, whatever repository it names; any other call goes through unchanged.
Not covered: fetching a kernel.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def _real_package() -> ModuleType:
    """Import the package this file hides, as if this folder were not on the path."""
    here, path = Path(__file__).resolve().parent, sys.path[:]
    ours = sys.modules.pop("kernels")
    sys.path = [entry for entry in path if Path(entry or ".").resolve() != here]
    try:
        return importlib.import_module("kernels")
    except ImportError:
        sys.modules["kernels"] = ours
        raise ImportError("the package `kernels` is not installed: pip install kernels") from None
    finally:
        sys.path = path


_kernels = _real_package()
_get_kernel = _kernels.get_kernel


def get_kernel(repo_id: str, **options: Any) -> ModuleType:
    """As kernels.get_kernel; without a version or revision, the prefetched attention kernel.

    Raises SystemExit when there is none on this node.
    """
    if options.get("version") is not None or options.get("revision") is not None:
        versioned: ModuleType = _get_kernel(repo_id, **options)
        return versioned
    from harness.attention import load_fa3

    try:
        interface = load_fa3()
    except Exception as error:  # `kernels` raises many kinds: not there, wrong build, wrong architecture
        raise SystemExit(f"no prefetched attention kernel for {repo_id} ({error}); run: arsched prepare") from error
    answer = ModuleType(f"prefetched kernel for {repo_id}")
    answer.flash_attn_interface = interface  # type: ignore[attr-defined]
    return answer


_kernels.get_kernel = get_kernel  # type: ignore[attr-defined]
