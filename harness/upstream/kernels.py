"""Stands before the package `kernels` on the path of an upstream train.py, whether that package is installed or not.

Upstream calls get_kernel(repository) without a version, which kernels 0.15 and later refuse, and runs on Flash
Attention 3 alone. Here such a call for a flash attention gives this device's best kernel under that interface
(flash_attention.py); every other call goes to the real package. Not covered: fetching a kernel.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def get_kernel(repo_id: str, *arguments: Any, **options: Any) -> ModuleType:
    """As kernels.get_kernel; for a flash attention without a version or revision, this device's best attention.

    Raises ImportError where the real package is needed and cannot be imported, SystemExit when the judge expects
    another attention kernel than this device offers.
    """
    is_versioned = arguments or options.get("version") is not None or options.get("revision") is not None
    if not is_versioned and "flash" in repo_id.lower():
        from harness.upstream.flash_attention import FlashAttention

        return FlashAttention(repo_id)
    if isinstance(_kernels, Exception):
        raise ImportError(
            f"get_kernel({repo_id!r}) needs the package `kernels`, which cannot be imported here ({_kernels}): "
            "pip install kernels, or ask for a flash attention without a version"
        ) from _kernels
    kernel: ModuleType = _get_kernel(repo_id, *arguments, **options)
    return kernel


def _import_the_real_package() -> ModuleType | Exception:
    """The package this file hides, imported as if this folder were not on the path; or why it cannot be."""
    here, path, ours = Path(__file__).resolve().parent, sys.path[:], sys.modules.pop("kernels")
    sys.path = [entry for entry in path if Path(entry or ".").resolve() != here]
    try:
        package = importlib.import_module("kernels")
        package.get_kernel  # noqa: B018  # another package of this name has none
        return package
    except Exception as error:  # absent, or broken in one of many ways
        sys.modules["kernels"] = ours
        return error
    finally:
        sys.path = path


_kernels = _import_the_real_package()
if not isinstance(_kernels, Exception):
    _get_kernel = _kernels.get_kernel
    _kernels.get_kernel = get_kernel  # type: ignore[attr-defined]
