"""The prepared data of one contract on this node: where its files lie, and the digest that names them.

Covers finding, opening and verifying a cache. Does not build one (harness.prepare) and does not read rows
(harness.rows). Standard library only. As a program it prints one JSON line for whoever must know without importing:

    python -m harness.cache --contract cpu [--full]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.contract import Contract, ContractError, load_contract

MANIFEST_FORMAT = 1
MANIFEST = "manifest.json"
TRAIN_ROWS, TRAIN_EPOCHS = "train/rows.u16", "train/epochs.i32"
VAL_ROWS, HOLDOUT_ROWS = "judge/val.u16", "judge/holdout.u16"
TOKENIZER, TOKEN_BYTES, TOKEN_BYTES_UPSTREAM = "tokenizer.json", "token_bytes.npy", "token_bytes_upstream.npy"
_BLOCK = 1 << 20


class CacheError(Exception):
    """The cache cannot be used; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class CacheMissing(CacheError):
    """Nothing prepared here for this contract."""


class CacheMismatch(CacheError):
    """Something is there, and it is not what its manifest says."""


@dataclass(frozen=True, slots=True)
class Cache:
    """An opened cache. Equal `digest` (sha256, hex, of the manifest) means equal data. Rows are [n, T+1] uint16."""

    directory: Path
    contract: Contract
    digest: str
    train_rows: int
    val_rows: int
    holdout_rows: int
    kernel_dir: Path | None

    @property
    def tokenizer_path(self) -> Path:
        return self.directory / TOKENIZER

    @property
    def token_bytes_path(self) -> Path:
        """int32 [V]: true bytes of each token, 0 for special tokens."""
        return self.directory / TOKEN_BYTES

    @property
    def token_bytes_upstream_path(self) -> Path:
        """int32 [V]: bytes as upstream counts them, an invalid UTF-8 piece as U+FFFD (3 bytes)."""
        return self.directory / TOKEN_BYTES_UPSTREAM

    @property
    def train_rows_path(self) -> Path:
        return self.directory / TRAIN_ROWS

    @property
    def train_epochs_path(self) -> Path:
        """int32 [n]: the epoch each training row was completed in, from 1."""
        return self.directory / TRAIN_EPOCHS

    @property
    def val_rows_path(self) -> Path:
        return self.directory / VAL_ROWS

    @property
    def holdout_rows_path(self) -> Path:
        return self.directory / HOLDOUT_ROWS


def cache_root() -> Path:
    """ARSCHED_CACHE, else $XDG_CACHE_HOME/arsched, else ~/.cache/arsched."""
    own = os.environ.get("ARSCHED_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arsched"


def cache_directory(contract: Contract) -> Path:
    """Where this contract's cache is or would be."""
    return cache_root() / f"{contract.name}-{contract.digest[:12]}"


def open_cache(contract: Contract) -> Cache:
    """Open a prepared cache after a check of names and sizes. Raises CacheMissing or CacheMismatch."""
    directory = cache_directory(contract)
    manifest = read_manifest(directory, contract)
    for name, facts in manifest["files"].items():
        _check_size(directory / name, int(facts["size"]), contract)
    rows = manifest["rows"]
    kernel = directory / str(manifest["kernel"]["directory"]) if manifest.get("kernel") else None
    digest = manifest_digest(manifest)
    return Cache(directory, contract, digest, rows["train"], rows["val"], rows["holdout"], kernel)


def verify_cache(cache: Cache, *, full: bool) -> None:
    """Check every file's size and, with `full`, its sha256. Raises CacheMismatch naming the first wrong file."""
    manifest = read_manifest(cache.directory, cache.contract)
    for name, facts in manifest["files"].items():
        _check_size(cache.directory / name, int(facts["size"]), cache.contract)
        if full and file_sha256(cache.directory / name) != facts["sha256"]:
            raise CacheMismatch(
                f"{cache.directory / name} is not what was prepared (sha256 differs)", _again(cache.contract)
            )


def read_manifest(directory: Path, contract: Contract) -> dict[str, Any]:
    """The manifest of a cache directory, checked to be this contract's. Raises CacheMissing or CacheMismatch."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CacheMissing(
            f"no prepared cache for contract {contract.name!r} in {directory}", _again(contract)
        ) from None
    except (OSError, ValueError) as problem:
        raise CacheMismatch(f"{directory / MANIFEST} cannot be read: {problem}", _again(contract)) from None
    if manifest.get("format") != MANIFEST_FORMAT or manifest.get("contract_digest") != contract.digest:
        raise CacheMismatch(f"{directory} was prepared for another contract or by another version", _again(contract))
    return dict(manifest)


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """sha256 of what makes data equal: contract, files and rows; not when, where or with which kernel it was built."""
    named = {key: manifest[key] for key in ("format", "contract_digest", "files", "rows")}
    return hashlib.sha256(json.dumps(named, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def describe_files(directory: Path, names: list[str]) -> dict[str, dict[str, int | str]]:
    """The manifest's `files`: size in bytes and sha256 of each name below the directory."""
    return {n: {"size": (directory / n).stat().st_size, "sha256": file_sha256(directory / n)} for n in sorted(names)}


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _check_size(path: Path, size: int, contract: Contract) -> None:
    try:
        found = path.stat().st_size
    except OSError as problem:
        raise CacheMismatch(f"{path} is missing: {problem.strerror}", _again(contract)) from None
    if found != size:
        raise CacheMismatch(f"{path} has {found} bytes, prepared with {size}", _again(contract))


def _again(contract: Contract) -> str:
    return f"run: arsched prepare --contract {contract.name}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m harness.cache", description="Describe a prepared cache as one JSON line."
    )
    parser.add_argument("--contract", required=True, help="built-in name, or the path of a .yaml or .json file")
    parser.add_argument("--full", action="store_true", help="hash every file again")
    wanted = parser.parse_args(arguments)
    try:
        cache = open_cache(load_contract(wanted.contract))
        if wanted.full:
            verify_cache(cache, full=True)
    except (CacheError, ContractError) as problem:
        sys.stdout.write(json.dumps({"error": str(problem), "hint": problem.hint}) + "\n")
        return 1
    sys.stdout.write(json.dumps(_description(cache)) + "\n")
    return 0


def _description(cache: Cache) -> dict[str, Any]:
    return {
        "digest": cache.digest,
        "directory": str(cache.directory),
        "contract_digest": cache.contract.digest,
        "train_rows": cache.train_rows,
        "val_rows": cache.val_rows,
        "holdout_rows": cache.holdout_rows,
        "kernel": None if cache.kernel_dir is None else str(cache.kernel_dir),
    }


if __name__ == "__main__":
    sys.exit(main())
