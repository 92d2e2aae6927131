"""The attention kernel for this node's GPUs, fetched once so that no run needs a network.

Covers: Flash Attention 3 through `kernels` (https://huggingface.co/docs/kernels), laid out as LOCAL_KERNELS wants it,
for the torch that is installed. Runs go on without it, slower, on torch's own kernels, so failing here is a loud note
and no error. Not covered: choosing and loading a kernel (harness.attention).
"""

from __future__ import annotations

import json
import os
import shutil
from importlib import metadata
from pathlib import Path

from harness.cache import KERNEL_NOTE_NAME, kernel_directory
from harness.files import remove_tree, whole_folder, write_atomic
from harness.prepare.locks import held
from harness.prepare.progress import Progress
from harness.prepare.side_by_side import interruptible

REPOSITORY = "kernels-community/flash-attn3"
VERSION = 1


def fetch_kernel(progress: Progress) -> bool:
    """Have the kernel for the installed torch in place. False, with a note said aloud, when that cannot be done."""
    place = kernel_directory()
    with held(place.with_suffix(".lock"), progress):
        if _torch_version() in _fetched_for(place):
            return True
        try:
            with progress.stage("attention kernel"):
                interruptible(lambda: _install(place))
        except Exception as problem:  # `kernels` and the hub raise many kinds; none of them may stop the data
            progress.say(_note(problem))
            return False
    return True


def _note(problem: Exception) -> str:
    reason = " ".join(str(problem).split())[:300]
    return (
        f"NOTE: no Flash Attention 3 on this node ({type(problem).__name__}: {reason}).\n"
        "      Runs use torch's own attention kernels and are slower; do not compare them with runs that have it.\n"
        "      With a network, and torch for CUDA installed, the same command fetches it."
    )


def _install(place: Path) -> None:
    # Read by the library at its import.
    os.environ.setdefault("KERNELS_CACHE", str(place.parent / "hub"))
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from kernels import install_kernel

    # The name is ours, not a user's: whether the hub lists its publisher as trusted need not be asked.
    variant = Path(install_kernel(REPOSITORY, version=VERSION, trust_remote_code=[REPOSITORY]))
    target = place / "build" / variant.name
    remove_tree(target)
    with whole_folder(target) as fresh:
        shutil.copytree(variant, fresh, dirs_exist_ok=True, copy_function=_link_or_copy)
    fetched_for = sorted({*_fetched_for(place), _torch_version()})
    note = {"repository": REPOSITORY, "version": VERSION, "variant": variant.name, "torch": fetched_for}
    write_atomic(place / KERNEL_NOTE_NAME, json.dumps(note, indent=1) + "\n")


def _link_or_copy(source: str, target: str) -> None:
    """The hub's own cache holds links to the content; a second name for the content costs no disk."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)


def _fetched_for(place: Path) -> list[str]:
    """torch versions the kernel here was fetched for."""
    try:
        versions = json.loads((place / KERNEL_NOTE_NAME).read_text(encoding="utf-8"))["torch"]
        return [str(version) for version in versions]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _torch_version() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return "none"
