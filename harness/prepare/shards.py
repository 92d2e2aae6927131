"""Shards of documents: parquet files with one column `text`, read in the packer's refills, and written by dealing.

Covers: reading refills (cut at row groups, as https://github.com/karpathy/autoresearch reads them), cutting long
documents at line ends, dealing works out to balanced shards. Not covered: where texts come from.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from harness.prepare.errors import PrepareError

Split = Literal["train", "val", "holdout"]
SPLITS: tuple[Split, ...] = ("train", "val", "holdout")

_SHUFFLED_TOGETHER = 16_384  # documents
_ROW_GROUP_DOCUMENTS = 1024
_SCHEMA = pa.schema([("text", pa.string())])


@dataclass(frozen=True, slots=True)
class Shard:
    """One parquet file of the corpus and the split it belongs to. Training shards are read in the order of `name`."""

    name: str
    split: Split
    path: Path


def readable(path: Path) -> bool:
    """True when the file is a whole parquet file with a column `text` (its footer is read, not its data)."""
    try:
        with pq.ParquetFile(path) as file:
            return "text" in file.schema_arrow.names and file.metadata.num_rows > 0
    except (OSError, pa.ArrowException):
        return False


def read_refills(path: Path, refill_documents: int) -> Iterator[list[str]]:
    """Documents in order, up to `refill_documents` at a time, never across row groups. Raises PrepareError."""
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                texts = file.read_row_group(group, columns=["text"]).column("text").to_pylist()
                for first in range(0, len(texts), refill_documents):
                    yield _checked(texts[first : first + refill_documents], path)
    except (pa.ArrowException, KeyError, OSError) as error:
        if getattr(error, "errno", None) is not None:  # the disk's doing; pyarrow's own OSErrors carry no number
            raise
        raise PrepareError(f"cannot read {path}: {error}", "remove the file and prepare again") from None


def _checked(texts: list[object], path: Path) -> list[str]:
    documents = [text for text in texts if isinstance(text, str)]
    if len(documents) != len(texts):
        raise PrepareError(f"{path} has documents that are not text", "bring a file whose column `text` is text")
    return documents


def cut(text: str, limit: int) -> Iterator[str]:
    """Pieces of about `limit` characters, cut at line ends, within a line longer than that. 0: the whole text."""
    if not limit or len(text) <= limit:
        yield text
        return
    piece: list[str] = []
    gathered = 0
    for line in _short_lines(text, limit):
        piece.append(line)
        gathered += len(line)
        if gathered >= limit:
            yield "".join(piece)
            piece, gathered = [], 0
    if piece:
        yield "".join(piece)


def _short_lines(text: str, limit: int) -> Iterator[str]:
    for line in text.splitlines(keepends=True):
        for first in range(0, len(line), limit):
            yield line[first : first + limit]


class ShardWriter:
    """Writes one shard, its documents in a reproducible random order: neighbours should not be of one file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._parquet = pq.ParquetWriter(self._file, _SCHEMA, compression="zstd")
        self._random = random.Random(path.name)
        self._waiting: list[str] = []
        self.chars = 0

    def add(self, documents: Iterable[str]) -> None:
        for document in documents:
            self._waiting.append(document)
            self.chars += len(document)
        if len(self._waiting) >= _SHUFFLED_TOGETHER:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._parquet.close()
        self._file.close()

    def abandon(self) -> None:
        """Let go of a file that will be removed, whatever state the disk is in."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self._parquet.close()
        with contextlib.suppress(OSError):
            self._file.close()

    def _flush(self) -> None:
        self._random.shuffle(self._waiting)
        for first in range(0, len(self._waiting), _ROW_GROUP_DOCUMENTS):
            self._parquet.write_table(pa.table([self._waiting[first : first + _ROW_GROUP_DOCUMENTS]], schema=_SCHEMA))
        self._waiting = []


def deal(works: Iterable[str], folder: Path, train_shards: int, document_chars: int) -> None:
    """Deal works out to val.parquet, holdout.parquet and train_shards training files, each work whole to one of them.

    Every work goes to the shard that holds least so far: no text is in two splits, and the split depends on the works
    and their order alone.
    """
    writers = [ShardWriter(folder / f"{name}.parquet") for name in ("val", "holdout", *_train_names(train_shards))]
    try:
        for work in works:
            least = min(writers, key=lambda writer: writer.chars)
            least.add(piece for piece in cut(work, document_chars) if not piece.isspace())
        if min(writer.chars for writer in writers) == 0:
            raise PrepareError(f"the corpus is too small for {len(writers)} shards", "bring more text")
        for writer in writers:
            writer.close()
    finally:
        for writer in writers:
            writer.abandon()


def dealt(folder: Path, train_shards: int) -> tuple[Shard, ...]:
    """The shards that `deal` wrote."""
    names: list[tuple[str, Split]] = [(name, "train") for name in _train_names(train_shards)]
    names += [("val", "val"), ("holdout", "holdout")]
    return tuple(Shard(name, split, folder / f"{name}.parquet") for name, split in names)


def _train_names(train_shards: int) -> list[str]:
    return [f"train-{number:05d}" for number in range(train_shards)]
