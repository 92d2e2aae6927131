"""Shards of a data set on the hub: found on this disk, or fetched.

Covers: looking in the folder a person brought, in our own store, in upstream's cache folder; fetching what is missing,
several files at a time, once per node; saying what to do when that fails. Files found are used where they lie, never
copied. Not covered: one transfer (harness.prepare.download).
"""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from pathlib import Path

from harness.cache import cache_root
from harness.contract import Corpus
from harness.files import PARTIAL_SUFFIX
from harness.prepare.download import Download, DownloadFailed, Patience
from harness.prepare.errors import PrepareError
from harness.prepare.locks import held
from harness.prepare.progress import Progress, size
from harness.prepare.shards import Shard, Split, readable
from harness.prepare.side_by_side import side_by_side

_AT_A_TIME = 4
_UPSTREAM_REPOSITORY = "karpathy/climbmix-400b-shuffle"


def hub_shards(
    corpus: Corpus, brought: Path | None, progress: Progress, patience: Patience | None = None
) -> tuple[Shard, ...]:
    """Every shard of the corpus, training ones first and in order. Raises PrepareError naming what is missing."""
    store = cache_root() / "shards" / corpus.root.replace("/", "--")
    places = [place for place in (brought, store, _upstream_folder(corpus)) if place is not None]
    splits = _splits(corpus)
    with held(store / ".lock", progress):
        found = {number: path for number in splits if (path := _find(number, places, progress))}
        missing = [number for number in splits if number not in found]
        if missing:
            with progress.stage(f"downloading {len(missing)} of {len(splits)} shards"):
                names = [shard_file(number) for number in missing]
                _Fetch(corpus, names, store, progress, patience or Patience()).run()
            found |= {number: store / shard_file(number) for number in missing}
    return tuple(Shard(found[number].stem, split, found[number]) for number, split in splits.items())


def shard_file(number: int) -> str:
    """Name of a shard's file on the hub."""
    return f"shard_{number:05d}.parquet"


def _splits(corpus: Corpus) -> dict[int, Split]:
    """Split of every shard's number, training ones first."""
    splits: dict[int, Split] = dict.fromkeys(range(corpus.train_shards), "train")
    apart: tuple[tuple[int | None, Split], ...] = ((corpus.val_shard, "val"), (corpus.holdout_shard, "holdout"))
    return splits | {number: split for number, split in apart if number is not None}


def _upstream_folder(corpus: Corpus) -> Path | None:
    """Where upstream's own prepare.py keeps the same files."""
    return Path.home() / ".cache" / "autoresearch" / "data" if corpus.root == _UPSTREAM_REPOSITORY else None


def _find(number: int, places: list[Path], progress: Progress) -> Path | None:
    for place in places:
        path = place / shard_file(number)
        if path.is_file():
            if readable(path):
                return path.resolve()
            progress.say(f"passing over {path}: not a whole parquet file with a column `text`")
    return None


class _Fetch:
    """Downloads into the store; what has arrived stays for the next call, whatever happens to the others."""

    def __init__(self, corpus: Corpus, names: list[str], store: Path, progress: Progress, patience: Patience) -> None:
        self._corpus, self._names, self._store = corpus, names, store
        self._progress, self._patience = progress, patience
        self._began = time.monotonic()
        self._stop = threading.Event()
        # Written by the threads, one key each.
        self._arrived: dict[str, int] = {}
        self._done: set[str] = set()
        self._failed: dict[str, str] = {}

    def run(self) -> None:
        """Raises PrepareError when any file is still missing; a full disk raises OSError and leaves no part of one."""
        try:
            side_by_side([partial(self._one, name) for name in self._names], _AT_A_TIME, self._stop)
        except OSError:
            for part in self._store.glob(f"*{PARTIAL_SUFFIX}*"):
                part.unlink(missing_ok=True)
            raise
        if self._failed:
            raise _unreachable(self._corpus, self._failed, [name for name in self._names if name not in self._done])

    def _one(self, name: str) -> None:
        if self._failed:  # what one file could not get, the next one will not get either
            return
        url = _url(self._corpus.root, name)
        report = partial(self._note, name)
        try:
            Download(url, self._store / name, _wrong, report, self._patience, self._stop).run()
            self._done.add(name)
        except DownloadFailed as failure:
            self._failed[name] = str(failure)

    def _note(self, name: str, arrived: int, _size: int | None, trouble: str) -> None:
        self._arrived[name] = arrived
        total = sum(list(self._arrived.values()))
        speed = total / max(0.1, time.monotonic() - self._began)
        tally = f"{len(self._done)} of {len(self._names)} files, {size(total)}, {size(speed)}/s"
        self._progress.show(f"{tally}; {name}: {trouble}" if trouble else tally)


def _url(repository: str, name: str) -> str:
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return f"{endpoint.rstrip('/')}/datasets/{repository}/resolve/main/{name}"


def _wrong(path: Path) -> str:
    return "" if readable(path) else "what arrived is not a parquet file with a column `text`"


def _unreachable(corpus: Corpus, failed: dict[str, str], missing: list[str]) -> PrepareError:
    name, reason = sorted(failed.items())[0]
    page = _url(corpus.root, "").removesuffix("/resolve/main/")
    return PrepareError(
        f"cannot download {_url(corpus.root, name)}: {reason}",
        "run it again to go on where it stopped, or bring the missing files by hand: put them into a folder and add "
        f"--from FOLDER. They are at {page}: {', '.join(missing)}",
    )
