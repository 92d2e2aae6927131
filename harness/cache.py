"""The prepared data of a contract on this node: where it lies, what it holds, whether it is whole.

Covers: finding a cache, its manifest, a quick check (sizes) and a full one (sha256 of every file).
`python -m harness.cache --contract C [--full]` prints the same as one line of JSON. Not covered: making a cache
(harness.prepare). Standard library only: a scheduler's probe and the judge both pay for this at every start.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.contract import Contract, ContractError, describe_references, is_shipped, load_contract
from harness.files import cache_root
from harness.gpu_record import record_of_this_node, shape_of

if TYPE_CHECKING:
    from harness.calibration import Calibration

FORMAT = 1
MANIFEST_NAME = "manifest.json"
CONTRACT_NAME = "contract.json"
KERNEL_NOTE_NAME = "kernel.json"
FA3_REPOSITORY, FA3_VERSION = "kernels-community/flash-attn3", 1
LOCAL_KERNELS_ENV = "LOCAL_KERNELS"  # read by the package `kernels`: REPOSITORY=FOLDER
SANDBOX_ENV = "ARSCHED_SANDBOX"  # a candidate's: how far it is confined
_JUDGE_FOLDER = "judge/"


class CacheError(Exception):
    """No usable cache: the message says what is wrong and where, `hint` what to run."""

    def __init__(self, message: str, contract: Contract) -> None:
        super().__init__(message)
        name = contract.name if is_shipped(contract) else f"FILE (the file of contract {contract.name!r})"
        self.hint = f"run: arsched prepare --contract {name}"


class CacheMissing(CacheError):
    """The contract has never been prepared on this node."""


class CacheMismatch(CacheError):
    """Something lies where the cache should be, and it is not what the manifest says."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a cache as the manifest lists it."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Cache:
    """A prepared contract. `digest` names the data: equal digests, equal files, on whatever node.

    `files` are the manifest's, by their names below `directory`. `versions`: of what the data was made with, for
    people who look for why two nodes differ.
    Rows are little-endian uint16 [n, sequence_length + 1]; `train_rows`, `val_rows`, `holdout_rows` are their n.
    `kernel_dir` is the attention kernel fetched for this node, None when there is none.
    """

    directory: Path
    contract: Contract
    digest: str
    train_rows: int
    val_rows: int
    holdout_rows: int
    files: Mapping[str, FileEntry]
    versions: Mapping[str, str]
    kernel_dir: Path | None

    @property
    def tokenizer_path(self) -> Path:
        """JSON: split pattern, merge ranks in base64, special tokens."""
        return self.directory / "tokenizer.json"

    @property
    def token_bytes_path(self) -> Path:
        """.npy int32 [V]: bytes of text each token stands for, 0 for special tokens."""
        return self.directory / "token_bytes.npy"

    @property
    def token_bytes_upstream_path(self) -> Path:
        """.npy int32 [V]: the same counted upstream's way, an undecodable byte as the 3 bytes of U+FFFD."""
        return self.directory / "token_bytes_upstream.npy"

    @property
    def train_rows_path(self) -> Path:
        return self.directory / "train" / "rows.u16"

    @property
    def train_epochs_path(self) -> Path:
        """Little-endian int32 [n]: epoch of the corpus a training row was finished in, from 1."""
        return self.directory / "train" / "epochs.i32"

    @property
    def val_rows_path(self) -> Path:
        return self.directory / "judge" / "val.u16"

    @property
    def holdout_rows_path(self) -> Path:
        return self.directory / "judge" / "holdout.u16"


def cache_directory(contract: Contract) -> Path:
    """Where this contract's cache lies once prepared."""
    return cache_root() / f"{contract.name}-{contract.digest[:12]}"


def kernel_directory() -> Path:
    """Where the attention kernel of this node lies, shared by all contracts; whole once kernel.json is there."""
    return cache_root() / "kernels" / "flash-attn3-v1"


def open_cache(contract: Contract) -> Cache:
    """The contract's cache after a check of names and sizes. Raises CacheMissing, CacheMismatch."""
    directory = cache_directory(contract)
    if not (directory / MANIFEST_NAME).is_file():
        raise CacheMissing(f"contract {contract.name!r} is not prepared: nothing at {directory}", contract)
    rows, files, versions = _read_manifest(directory, contract)
    for name, entry in files.items():
        _check_size(directory, name, entry, contract)
    kernel_dir = fetched_kernel() if contract.device == "cuda" else None
    return Cache(directory, contract, data_digest(files), **rows, files=files, versions=versions, kernel_dir=kernel_dir)


def fetched_kernel() -> Path | None:
    """Folder of the attention kernel that was fetched for this node; None when there is none."""
    directory = kernel_directory()
    return directory if (directory / KERNEL_NOTE_NAME).is_file() else None


def verify_cache(cache: Cache, *, full: bool) -> None:
    """Check sizes again, and with `full` the sha256 of every file (reads all of it). Raises CacheMismatch."""
    _, files, _ = _read_manifest(cache.directory, cache.contract)
    for name, entry in files.items():
        _check_size(cache.directory, name, entry, cache.contract)
        if full and sha256_of(cache.directory / name) != entry.sha256:
            raise CacheMismatch(
                f"{cache.directory / name} is damaged: its sha256 is not the manifest's", cache.contract
            )


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_digest(files: Mapping[str, FileEntry]) -> str:
    """The name of a cache: sha256 (hex) over format, and names, sizes and sha256 of its data files."""
    listed = {name: [e.size_bytes, e.sha256] for name, e in files.items() if name != CONTRACT_NAME}
    canonical = json.dumps([FORMAT, listed], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read_manifest(directory: Path, contract: Contract) -> tuple[dict[str, int], dict[str, FileEntry], dict[str, str]]:
    """Rows by the names of Cache's fields, what each file should be, versions. Raises CacheMismatch."""
    path = directory / MANIFEST_NAME
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if fields["format"] != FORMAT or fields["contract_digest"] != contract.digest:
            raise CacheMismatch(f"{path} belongs to another contract or version", contract)
        files = {name: FileEntry(entry["bytes"], entry["sha256"]) for name, entry in fields["files"].items()}
        rows = {f"{split}_rows": int(fields["rows"][split]) for split in ("train", "val", "holdout")}
        versions = {str(name): str(version) for name, version in fields.get("versions", {}).items()}
    except OSError as error:
        raise CacheMismatch(f"cannot read {path}: {error.strerror}", contract) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CacheMismatch(f"{path} is damaged", contract) from None
    return rows, files, versions


def _check_size(directory: Path, name: str, entry: FileEntry, contract: Contract) -> None:
    path = directory / name
    try:
        size = path.stat().st_size
    except PermissionError:
        if name.startswith(_JUDGE_FOLDER):  # a sandboxed candidate is kept out of the judge's rows
            return
        raise CacheMismatch(f"{path} may not be read", contract) from None
    except OSError as error:
        if isinstance(error, FileNotFoundError) and os.environ.get(SANDBOX_ENV) == "full":
            return  # rows are no part of a candidate's view
        raise CacheMismatch(f"{path}: {error.strerror}", contract) from None
    if size != entry.size_bytes:
        raise CacheMismatch(f"{path} has {size} bytes instead of {entry.size_bytes}", contract)


def describe(cache: Cache) -> dict[str, object]:
    """A cache as plain JSON values. "gpu": the record of this node's GPU trial; None on a CPU or where untried.

    "calibration": the name of what a work clock counts in here, and how often that was measured again; None for other
    clocks. Raises CacheMissing where it was not measured.
    """
    calibration = require_calibration(cache.contract) if cache.contract.budget.clock == "work" else None
    on_gpu = cache.contract.device == "cuda"
    record = record_of_this_node(shape_of(cache.contract)) if on_gpu else None
    return {
        "contract": cache.contract.name,
        "contract_digest": cache.contract.digest,
        "digest": cache.digest,
        "directory": str(cache.directory),
        "train_rows": cache.train_rows,
        "val_rows": cache.val_rows,
        "holdout_rows": cache.holdout_rows,
        "versions": dict(cache.versions),
        "train_tokens": cache.train_rows * cache.contract.sequence_length,
        "gpu": None if record is None else dataclasses.asdict(record),
        "calibration": calibration and calibration.name,
        "calibrated_again": calibration and calibration.again,
        "kernel": None if cache.kernel_dir is None else str(cache.kernel_dir),
    }


def require_calibration(contract: Contract) -> Calibration:
    """What a work clock counts in on this node. Raises CacheMissing where that was not measured."""
    from harness.calibration import read_calibration

    if (found := read_calibration(contract)) is None:
        raise CacheMissing(f"the work clock of contract {contract.name!r} is not calibrated on this node", contract)
    return found


def main(argv: list[str] | None = None) -> int:
    """One line of JSON about a contract's cache, or {"error", "hint"} and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m harness.cache", description=main.__doc__)
    parser.add_argument("--contract", required=True, help=describe_references())
    parser.add_argument("--full", action="store_true", help="read every file and compare its sha256")
    given = parser.parse_args(argv)
    try:
        cache = open_cache(load_contract(given.contract))
        verify_cache(cache, full=given.full)
        shown = describe(cache)
    except (CacheError, ContractError) as error:
        print(json.dumps({"error": str(error), "hint": error.hint}))  # noqa: T201
        return 1
    print(json.dumps(shown))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
