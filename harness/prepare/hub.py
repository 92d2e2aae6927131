"""Shards of a data set on the hub, found on this disk.

Covers: files brought by hand. Not covered: fetching what is missing (harness.prepare.download).
"""

from __future__ import annotations

from pathlib import Path

from harness.contract import Corpus
from harness.prepare.errors import PrepareError
from harness.prepare.progress import Progress
from harness.prepare.shards import Shard, Split, readable


def shard_file(number: int) -> str:
    """Name of a shard's file on the hub."""
    return f"shard_{number:05d}.parquet"


def hub_shards(corpus: Corpus, brought: Path | None, progress: Progress) -> tuple[Shard, ...]:
    """Every shard of the corpus. Raises PrepareError naming what is missing."""
    found = {number: brought / shard_file(number) for number in _numbers(corpus)} if brought else {}
    missing = [shard_file(number) for number in _numbers(corpus) if number not in found or not readable(found[number])]
    if missing:
        raise PrepareError(f"shards are missing: {', '.join(missing)}", "bring them with --from DIR")
    return tuple(Shard(shard_file(n), split, found[n]) for n, split in _numbers(corpus).items())


def _numbers(corpus: Corpus) -> dict[int, Split]:
    """Split of every shard, training ones first."""
    splits: dict[int, Split] = dict.fromkeys(range(corpus.train_shards), "train")
    for number, split in ((corpus.val_shard, "val"), (corpus.holdout_shard, "holdout")):
        if number is not None:
            splits[number] = split  # type: ignore[assignment]
    return splits
