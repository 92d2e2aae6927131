"""A contract's cache, stage by stage: corpus, tokenizer, tokens, rows, manifest.

Covers: doing the work once however many ask, going on where an interrupted call stopped, copying data between contracts
that differ only in what data does not depend on, removing the text it was made of. Every stage leaves its product whole
in `<cache>.building`; the cache itself appears by one rename, manifest included. Not covered: each stage's own work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

import harness
from harness.cache import (
    CONTRACT_NAME,
    FORMAT,
    MANIFEST_NAME,
    Cache,
    CacheMismatch,
    CacheMissing,
    FileEntry,
    cache_directory,
    data_digest,
    open_cache,
    sha256_of,
)
from harness.calibration import (
    NotQuiet,
    calibration_here,
    measure_round,
    quiet_reference_s,
    read_calibration,
    reference_s,
    write_calibration,
)
from harness.contract import Contract, Corpus, is_shipped, prepared_contract_path
from harness.core_probe import CoreProbe
from harness.files import cache_root, copy_whole, remove_tree, sync_folder, whole_folder, write_atomic
from harness.gpu_probe import probe_gpus
from harness.prepare.corpus import SPLITS, Shard, folder_documents, local_shards, write_shards
from harness.prepare.hub import fetch_kernel, held_store, hub_shards, remove_scored_shards
from harness.prepare.rows import ShardTokeniser, require_space, rows_of, write_rows
from harness.prepare.sources import package_documents, package_versions, python_documents
from harness.prepare.stage import PrepareError, PrepareProgress, held
from harness.prepare.tokenizer import train_apart, true_token_bytes, upstream_token_bytes
from harness.tokenizer import Tokenizer

PACKER_VERSION = 2  # raised when packing, cutting or sharding changes what comes out
_ROWS_FILES = {"train": "train/rows.u16", "val": "judge/val.u16", "holdout": "judge/holdout.u16"}
_DOCUMENTS = {"python": python_documents, "packages": package_documents, "folder": folder_documents}
_LIBRARIES = ("numpy", "pyarrow", "rustbpe", "tiktoken")
_READ_ONLY = 0o444
_BUILDING_SUFFIX, _MADE_BY_NAME = ".building", "made_by.json"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A cache that can be used, and whether this call made it."""

    cache: Cache
    built: bool


def prepare(
    contract: Contract, brought: Path | None, progress: PrepareProgress, *, calibrate_anew: bool = False
) -> Prepared:
    """Open the contract's cache, making it first if need be. Raises PrepareError, OSError when the disk refuses."""
    directory = cache_directory(contract)
    with held(directory.with_suffix(".lock"), progress):
        _leave_contract(contract)
        if contract.device == "cuda":
            fetch_kernel(progress, brought)
        built = _build_unless_there(contract, directory, brought, progress)
        if contract.corpus.kind == "hub":
            remove_scored_shards(contract.corpus, brought, progress)
        remove_other_builds(contract, progress)
        if contract.device == "cuda":  # once per node; data may be prepared without a GPU, so nothing here is an error
            with held(cache_root() / "gpus.lock", progress), progress.stage("trying the GPU"):
                probe_gpus(contract, progress.print)
        if contract.budget.clock == "work":
            calibrate(contract, progress, anew=calibrate_anew)
        return Prepared(open_cache(contract), built)


def calibrate(contract: Contract, progress: PrepareProgress, *, anew: bool) -> None:
    """Measure what a work clock counts in, unless that was done before; `anew` only where the machine is quiet.

    Without a quiet moment a first calibration makes do with a busy one and says so. Raises PrepareError.
    """
    found = read_calibration(contract)
    if found is None or anew:
        with held(cache_root() / "calibration.lock", progress), progress.stage("calibrating the work clock"):
            probe = CoreProbe()
            try:
                reading_s, quiet = quiet_reference_s(lambda: measure_round(probe), progress.show), True
            except NotQuiet as busy:
                if anew:
                    raise PrepareError(f"not calibrated, nothing changed: {busy}", "stop what else runs here") from None
                reading_s, quiet = reference_s(busy.rounds), False
                progress.print(str(busy))
            found = calibration_here(reading_s, quiet=quiet, again=0 if found is None else found.again + 1)
            write_calibration(contract, found)
    progress.print(f"work clock: calibration {found.name}, {found.reference_s * 1e3:.3f} ms per reading")
    if not found.quiet:
        again = f"arsched prepare --contract {contract.name if is_shipped(contract) else 'FILE'} --calibrate"
        progress.print(f"NOTE: that was measured on a busy machine; when it is quiet, run: {again}")


def discard_build(contract: Contract) -> None:
    """Remove what an unfinished build keeps: on a full disk it is in the way."""
    remove_tree(_building(contract))


def remove_other_builds(contract: Contract, progress: PrepareProgress) -> None:
    """Remove what abandoned builds of other contracts keep of this corpus: text that runs are scored on among it."""
    for note in sorted(cache_root().glob(f"*{_BUILDING_SUFFIX}/{_MADE_BY_NAME}")):
        with contextlib.suppress(OSError, ValueError, KeyError, Timeout):
            corpus = json.loads(note.read_text(encoding="utf-8"))["corpus"]
            if corpus != _source_of(contract.corpus):
                continue
            with FileLock(note.parent.with_suffix(".lock"), timeout=0):  # held while that build is under way
                progress.print(f"removing {note.parent}, an unfinished build from the same texts")
                remove_tree(note.parent)


def _source_of(corpus: Corpus) -> list[str]:
    return [corpus.kind, corpus.root]


def _building(contract: Contract) -> Path:
    return cache_directory(contract).with_suffix(_BUILDING_SUFFIX)


def _leave_contract(contract: Contract) -> None:
    """A copy of a shipped contract for this node's processes that cannot read YAML."""
    if is_shipped(contract):
        path = prepared_contract_path(contract.name)
        if not (path.is_file() and path.read_text(encoding="utf-8") == contract.to_json()):
            write_atomic(path, contract.to_json())


def _build_unless_there(contract: Contract, directory: Path, brought: Path | None, progress: PrepareProgress) -> bool:
    try:
        open_cache(contract)
        discard_build(contract)  # left when an earlier call was killed right after its last step
        return False
    except CacheMissing:
        pass
    except CacheMismatch as damage:
        progress.print(f"starting over: {damage}")
        remove_tree(directory)
    Build(contract, _building(contract), brought, progress).run(directory)
    return True


@dataclass(frozen=True, slots=True)
class Build:
    """One build of one cache; `folder` keeps the finished stages."""

    contract: Contract
    folder: Path
    brought: Path | None
    progress: PrepareProgress

    def run(self, directory: Path) -> None:
        """Run the stages that are not finished yet and put the cache into place."""
        self._continue_or_start()
        fresh = self.folder / "cache"
        remove_tree(fresh)
        fresh.mkdir()
        if not copy_twin(self.contract, fresh, self.brought, self.progress):
            with held_store(self.contract.corpus, self.progress):
                self._fill(fresh)
        fresh.rename(directory)
        sync_folder(directory.parent)
        remove_tree(self.folder)

    def _continue_or_start(self) -> None:
        """Keep finished stages only if the same versions would make them again."""
        corpus = self.contract.corpus
        made_by = {"versions": versions(corpus), "recipe": recipe_digest(self.contract), "corpus": _source_of(corpus)}
        state = json.dumps(made_by, sort_keys=True)
        path = self.folder / _MADE_BY_NAME
        if self.folder.exists() and not (path.is_file() and path.read_text(encoding="utf-8") == state):
            remove_tree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, state)

    def _fill(self, fresh: Path) -> None:
        shards = corpus_shards(self.contract, self.folder / "shards", self.brought, self.progress)
        tokenizer = self._tokenizer(tuple(shard for shard in shards if shard.split == "train"))
        refill, tokens = self.contract.pack_refill_documents, self.folder / "tokens"
        tokeniser = ShardTokeniser(tokenizer, refill, tokens, self.progress)
        with self.progress.stage("tokenising"):
            tokeniser.run(shards, _cores())
        require_space(self.contract, self.folder)
        for split in SPLITS:
            with self.progress.stage(f"packing {split} rows"):
                sources = [tokeniser.tokens_of(shard) for shard in shards if shard.split == split]
                epochs = fresh / "train" / "epochs.i32" if split == "train" else None
                write_rows(self.contract, split, sources, fresh / _ROWS_FILES[split], epochs, self.progress)
        write_atomic(fresh / "tokenizer.json", tokenizer.to_json())
        write_atomic(fresh / CONTRACT_NAME, self.contract.to_json())
        np.save(fresh / "token_bytes.npy", true_token_bytes(tokenizer))
        np.save(fresh / "token_bytes_upstream.npy", upstream_token_bytes(tokenizer))
        with self.progress.stage("checksums"):
            made_with = versions(self.contract.corpus)
            write_manifest(fresh, self.contract, [_identity(shard) for shard in shards], made_with, self.progress)

    def _tokenizer(self, train_shards: tuple[Shard, ...]) -> Tokenizer:
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            with self.progress.stage("tokenizer"):
                tokenizer = train_apart(self.contract, train_shards, self.progress.show)
                self.progress.show(f"{tokenizer.get_vocab_size()} tokens")
                write_atomic(path, tokenizer.to_json())
        return Tokenizer.from_file(path)


def corpus_shards(
    contract: Contract, folder: Path, brought: Path | None, progress: PrepareProgress
) -> tuple[Shard, ...]:
    """Every shard, training ones first and in order. `folder`: for shards made here. `brought`: files by hand.

    Raises PrepareError.
    """
    corpus = contract.corpus
    if corpus.kind == "hub":
        return hub_shards(corpus, brought, progress)
    if not folder.is_dir():
        with progress.stage("corpus"), whole_folder(folder) as fresh:
            documents = _DOCUMENTS[corpus.kind](corpus.root, progress.show)
            write_shards(documents, fresh, corpus.train_shards, corpus.document_chars)
    return local_shards(folder, corpus.train_shards)


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _identity(shard: Shard) -> dict[str, object]:
    """What a shard was, for the manifest."""
    size_bytes = shard.path.stat().st_size
    return {"name": shard.path.name, "split": shard.split, "bytes": size_bytes, "sha256": sha256_of(shard.path)}


# The manifest: every file with its size and sha256


def recipe_digest(contract: Contract) -> str:
    """sha256 (hex) of what the data depends on: contracts that differ in budget or limits alone share it."""
    shared = ("corpus", "sequence_length", "vocab_size", "tokenizer_chars", "train_tokens", "evaluation_tokens")
    packing = ("holdout_tokens", "pack_buffer_documents", "pack_refill_documents")
    fields = dataclasses.asdict(contract)
    canonical = json.dumps([PACKER_VERSION, *(fields[name] for name in (*shared, *packing))], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def versions(corpus: Corpus) -> dict[str, str]:
    """Versions of everything that has a say in the data, the packages that the corpus is made of included."""
    own = {"arsched": harness.__version__, "packer": str(PACKER_VERSION), "python": platform.python_version()}
    return own | {name: metadata.version(name) for name in _LIBRARIES} | package_versions(corpus.packages)


def write_manifest(
    folder: Path,
    contract: Contract,
    shards: list[dict[str, object]],
    made_with: dict[str, str],
    progress: PrepareProgress,
) -> str:
    """Hash, chmod and list every file below `folder`; returns the cache's digest.

    `shards`, `made_with`: what it was made of, and the versions that made it.
    """
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
        "versions": made_with,
    }
    write_atomic(folder / MANIFEST_NAME, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    (folder / MANIFEST_NAME).chmod(_READ_ONLY)
    return data_digest(files)


# Twins: caches of one recipe, whose rows need not be made twice


_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)  # where a manifest names one


def copy_twin(contract: Contract, fresh: Path, brought: Path | None, progress: PrepareProgress) -> bool:
    """Fill `fresh` with copies from a cache of the same recipe, `brought` from another node or here; False without one.

    Copies and not links: who changes one contract's file changes no other contract. What arrives must be what its
    manifest says, byte by byte.
    """
    recipe, places = recipe_digest(contract), [brought] if brought else []
    for folder, manifest in (twin for place in (*places, cache_root()) for twin in _twins(recipe, place)):
        require_space(contract, fresh)
        with progress.stage(f"copying the rows of {folder.name}"), contextlib.suppress(*_NO_FILE):
            for name in manifest["files"]:
                if name != CONTRACT_NAME:
                    copy_whole(folder / name, fresh / name)
            write_atomic(fresh / CONTRACT_NAME, contract.to_json())
            made = manifest["corpus"]["shards"], manifest["versions"]
            if write_manifest(fresh, contract, *made, progress) == manifest["digest"]:
                return True
        progress.print(f"passing over {folder}: its files are not what its manifest says")
        remove_tree(fresh)
        fresh.mkdir()
    return False


def is_cache(folder: Path) -> bool:
    """Whether a folder that was brought has a cache in it, and not shards."""
    return any(path.is_file() for path in (folder / MANIFEST_NAME, *folder.glob(f"*/{MANIFEST_NAME}")))


def _twins(recipe: str, place: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in (place / MANIFEST_NAME, *sorted(place.glob(f"*/{MANIFEST_NAME}"))):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            manifest = json.loads(path.read_text(encoding="utf-8"))
            names = [PurePosixPath(name) for name in manifest["files"]]
            inside = not any(name.is_absolute() or ".." in name.parts for name in names)
            named = manifest["digest"] and manifest["corpus"]["shards"] and manifest["versions"]
            if manifest["recipe_digest"] == recipe and named and inside:
                yield path.parent, manifest
