"""A contract's cache, stage by stage: corpus, tokenizer, tokens, rows, manifest.

Covers: doing the work once however many ask, going on where an interrupted call stopped, sharing data between contracts
that differ only in what data does not depend on. Every stage leaves its product whole in `<cache>.building`; the cache
itself appears by one rename, manifest included. Not covered: each stage's own work.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.cache import (
    CONTRACT_NAME,
    Cache,
    CacheMismatch,
    CacheMissing,
    cache_directory,
    cache_root,
    open_cache,
    prepared_contract_path,
    sha256_of,
)
from harness.contract import Contract, is_shipped
from harness.files import remove_tree, sync_folder, write_atomic
from harness.gpu_probe import probe_gpus
from harness.prepare.corpus import corpus_shards
from harness.prepare.kernel import fetch_kernel
from harness.prepare.locks import held
from harness.prepare.manifest import recipe_digest, versions, write_manifest
from harness.prepare.progress import Progress
from harness.prepare.row_files import require_space, rows_of, write_rows
from harness.prepare.shards import SPLITS, Shard
from harness.prepare.tokenising import ShardTokeniser
from harness.prepare.tokenizer_process import train_apart
from harness.prepare.tokenizer_training import true_token_bytes, upstream_token_bytes
from harness.prepare.twins import link_twin
from harness.tokenizer import Tokenizer

_ROWS_FILES = {"train": "train/rows.u16", "val": "judge/val.u16", "holdout": "judge/holdout.u16"}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A cache that can be used, and whether this call made it."""

    cache: Cache
    built: bool


def prepare(contract: Contract, brought: Path | None, progress: Progress) -> Prepared:
    """Open the contract's cache, making it first if need be. Raises PrepareError, OSError when the disk refuses."""
    directory = cache_directory(contract)
    with held(directory.with_suffix(".lock"), progress):
        _leave_contract(contract)
        if contract.device == "cuda":
            fetch_kernel(progress)
        built = _build_unless_there(contract, directory, brought, progress)
        if contract.device == "cuda":
            _try_gpus(contract, progress)
        return Prepared(open_cache(contract), built)


def _build_unless_there(contract: Contract, directory: Path, brought: Path | None, progress: Progress) -> bool:
    try:
        open_cache(contract)
        discard_build(contract)  # left when an earlier call was killed right after its last step
        return False
    except CacheMissing:
        pass
    except CacheMismatch as damage:
        progress.say(f"starting over: {damage}")
        remove_tree(directory)
    Build(contract, _building(contract), brought, progress).run(directory)
    return True


def _try_gpus(contract: Contract, progress: Progress) -> None:
    """Once per node. Data can be prepared on a machine without a GPU, so nothing here is an error."""
    with held(cache_root() / "gpus.lock", progress), progress.stage("trying the GPU"):
        probe_gpus(contract, progress.say)


def discard_build(contract: Contract) -> None:
    """Remove what an unfinished build keeps: on a full disk it is in the way."""
    remove_tree(_building(contract))


def _building(contract: Contract) -> Path:
    return cache_directory(contract).with_suffix(".building")


@dataclass(frozen=True, slots=True)
class Build:
    """One build of one cache; `folder` keeps the finished stages."""

    contract: Contract
    folder: Path
    brought: Path | None
    progress: Progress

    def run(self, directory: Path) -> None:
        """Run the stages that are not finished yet and put the cache into place."""
        self._continue_or_start()
        fresh = self.folder / "cache"
        remove_tree(fresh)
        fresh.mkdir()
        if not link_twin(self.contract, fresh, self.progress):
            self._fill(fresh)
        fresh.rename(directory)
        sync_folder(directory.parent)
        remove_tree(self.folder)

    def _continue_or_start(self) -> None:
        """Keep finished stages only if the same versions would make them again."""
        state = json.dumps({"versions": versions(), "recipe": recipe_digest(self.contract)}, sort_keys=True)
        path = self.folder / "made_by.json"
        if self.folder.exists() and not (path.is_file() and path.read_text(encoding="utf-8") == state):
            remove_tree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, state)

    def _fill(self, fresh: Path) -> None:
        shards = corpus_shards(self.contract, self.folder / "shards", self.brought, self.progress)
        tokenizer = self._tokenizer(tuple(shard for shard in shards if shard.split == "train"))
        tokeniser = self._tokenise(tokenizer, shards)
        require_space(self.contract, self.folder)
        for split in SPLITS:
            with self.progress.stage(f"packing {split} rows"):
                places = [tokeniser.place_of(shard) for shard in shards if shard.split == split]
                epochs = fresh / "train" / "epochs.i32" if split == "train" else None
                rows = rows_of(self.contract, split)
                write_rows(self.contract, places, rows, fresh / _ROWS_FILES[split], epochs, self.progress)
        write_atomic(fresh / "tokenizer.json", tokenizer.to_json())
        write_atomic(fresh / CONTRACT_NAME, self.contract.to_json())
        np.save(fresh / "token_bytes.npy", true_token_bytes(tokenizer))
        np.save(fresh / "token_bytes_upstream.npy", upstream_token_bytes(tokenizer))
        with self.progress.stage("checksums"):
            write_manifest(fresh, self.contract, [_identity(shard) for shard in shards], self.progress)

    def _tokenizer(self, train_shards: tuple[Shard, ...]) -> Tokenizer:
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            with self.progress.stage("tokenizer"):
                tokenizer = train_apart(self.contract, train_shards, self.progress.show)
                self.progress.show(f"{tokenizer.get_vocab_size()} tokens")
                write_atomic(path, tokenizer.to_json())
        return Tokenizer.from_file(path)

    def _tokenise(self, tokenizer: Tokenizer, shards: tuple[Shard, ...]) -> ShardTokeniser:
        refill = self.contract.pack_refill_documents
        tokeniser = ShardTokeniser(tokenizer, refill, self.folder / "tokens", self.progress)
        with self.progress.stage("tokenising"):
            tokeniser.run(shards, _cores())
        return tokeniser


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _identity(shard: Shard) -> dict[str, object]:
    """What a shard was, for the manifest."""
    return {
        "name": shard.path.name,
        "split": shard.split,
        "bytes": shard.path.stat().st_size,
        "sha256": sha256_of(shard.path),
    }


def _leave_contract(contract: Contract) -> None:
    """A copy of a shipped contract for this node's processes that cannot read YAML."""
    if is_shipped(contract):
        path = prepared_contract_path(contract.name)
        if not (path.is_file() and path.read_text(encoding="utf-8") == contract.to_json()):
            write_atomic(path, contract.to_json())
