"""The last step of a cache: list every file with its size and sha256, and make them read-only.

Covers: the manifest's content, the recipe (the part of a contract its data depends on). Not covered: reading it back
(harness.cache).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path

import harness
from harness.cache import FORMAT, MANIFEST_NAME, FileEntry, data_digest, sha256_of
from harness.contract import Contract
from harness.files import write_atomic
from harness.prepare.progress import Progress
from harness.prepare.row_files import rows_of
from harness.prepare.shards import SPLITS

PACKER_VERSION = 1  # raised when packing, cutting or dealing changes what comes out
_LIBRARIES = ("numpy", "pyarrow", "rustbpe", "tiktoken")
_READ_ONLY = 0o444


def recipe_digest(contract: Contract) -> str:
    """sha256 (hex) of what the data depends on: contracts that differ in budget or limits alone share it."""
    shared = ("corpus", "sequence_length", "vocab_size", "tokenizer_chars", "train_tokens", "evaluation_tokens")
    packing = ("holdout_tokens", "pack_buffer_documents", "pack_refill_documents")
    fields = dataclasses.asdict(contract)
    canonical = json.dumps([PACKER_VERSION, *(fields[name] for name in (*shared, *packing))], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of everything that has a say in the data."""
    own = {"arsched": harness.__version__, "packer": str(PACKER_VERSION), "python": platform.python_version()}
    return own | {name: metadata.version(name) for name in _LIBRARIES}


def write_manifest(folder: Path, contract: Contract, shards: list[dict[str, object]], progress: Progress) -> str:
    """Hash, chmod and list every file below `folder`; returns the cache's digest. `shards` says what it was made of."""
    files: dict[str, FileEntry] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        progress.show(name)
        files[name] = FileEntry(path.stat().st_size, sha256_of(path))
        path.chmod(_READ_ONLY)
    manifest = {
        "format": FORMAT,
        "contract": contract.name,
        "contract_digest": contract.digest,
        "recipe_digest": recipe_digest(contract),
        "digest": data_digest(files),
        "rows": {split: rows_of(contract, split) for split in SPLITS},
        "files": {name: {"bytes": entry.size_bytes, "sha256": entry.sha256} for name, entry in files.items()},
        "corpus": {"kind": contract.corpus.kind, "root": contract.corpus.root, "shards": shards},
        "versions": versions(),
    }
    write_atomic(folder / MANIFEST_NAME, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    (folder / MANIFEST_NAME).chmod(_READ_ONLY)
    return data_digest(files)
