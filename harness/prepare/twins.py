"""Sharing data between contracts: one that differs from a prepared one in budget or limits alone needs no new rows."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.cache import CONTRACT_NAME, MANIFEST_NAME, cache_root
from harness.contract import Contract
from harness.files import remove_tree, write_atomic
from harness.prepare.manifest import recipe_digest, write_manifest
from harness.prepare.progress import Progress


def link_twin(contract: Contract, fresh: Path, progress: Progress) -> bool:
    """Fill `fresh` with hard links to a cache of the same recipe; False when none is whole."""
    for folder, manifest in _twins(recipe_digest(contract)):
        with progress.stage(f"linking the rows of {folder.name}"), contextlib.suppress(FileNotFoundError):
            _link(folder, manifest, fresh)
            write_atomic(fresh / CONTRACT_NAME, contract.to_json())
            if write_manifest(fresh, contract, manifest["corpus"]["shards"], progress) == manifest["digest"]:
                return True
        remove_tree(fresh)
        fresh.mkdir()
    return False


def _twins(recipe: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(cache_root().glob(f"*/{MANIFEST_NAME}")):
        with contextlib.suppress(OSError, ValueError):
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(manifest, dict) and manifest.get("recipe_digest") == recipe:
                yield path.parent, manifest


def _link(folder: Path, manifest: dict[str, Any], fresh: Path) -> None:
    for name in manifest["files"]:
        if name != CONTRACT_NAME:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(folder / name, fresh / name)
