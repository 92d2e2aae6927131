"""Documents of a local corpus, and shards: parquet files with one column `text`, read in the packer's refills.

Covers: a folder of one's own texts; cutting long documents at line ends, writing balanced shards; reading refills (cut
at row groups, as https://github.com/karpathy/autoresearch reads them). Not covered: Python sources
(harness.prepare.sources), shards from the hub (harness.prepare.hub).
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from harness.prepare.stage import PrepareError

Split = Literal["train", "val", "holdout"]
SPLITS: tuple[Split, ...] = ("train", "val", "holdout")

_READ_TOGETHER = 1024
_SHUFFLED_TOGETHER = 16_384  # pieces
_ROW_GROUP_DOCUMENTS = 1024
_SCHEMA = pa.schema([("text", pa.string())])

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Shard:
    """One parquet file of the corpus and the split it belongs to. Training shards are read in the order of `name`."""

    name: str
    split: Split
    path: Path


# Reading shards


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
                if not all(isinstance(text, str) for text in texts):
                    hint = "bring a file whose column `text` is text"
                    raise PrepareError(f"{path} has documents that are not text", hint)
                for first in range(0, len(texts), refill_documents):
                    yield texts[first : first + refill_documents]
    except (pa.ArrowException, KeyError, OSError) as error:
        if getattr(error, "errno", None) is not None:  # the disk's doing; pyarrow's own OSErrors carry no number
            raise
        raise PrepareError(f"cannot read {path}: {error}", "remove the file and prepare again") from None


# Writing shards


def cut(text: str, limit: int) -> Iterator[str]:
    """Pieces of about `limit` characters, cut at line ends, within a line longer than that. 0: the whole text."""
    if not limit or len(text) <= limit:
        yield text
        return
    piece: list[str] = []
    gathered = 0
    for line in text.splitlines(keepends=True):
        for first in range(0, len(line), limit):
            piece.append(line[first : first + limit])
            gathered += len(piece[-1])
            if gathered >= limit:
                yield "".join(piece)
                piece, gathered = [], 0
    if piece:
        yield "".join(piece)


class ShardWriter:
    """Writes one shard, its pieces in a reproducible random order: neighbours should not be of one document."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._parquet = pq.ParquetWriter(self._file, _SCHEMA, compression="zstd")
        self._random = random.Random(path.name)
        self._waiting: list[str] = []
        self.chars = 0

    def add(self, piece: str) -> None:
        self._waiting.append(piece)
        self.chars += len(piece)
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


def write_shards(documents: Iterable[str], folder: Path, train_shards: int, piece_chars: int) -> None:
    """Write documents, cut to pieces, to the files of `local_shards`, each document whole to one split.

    Whoever holds least so far is next: no text is in two splits, and the split depends on the documents and their order
    alone. The pieces of a training document are dealt to all training shards: wherever a run begins in the stream, it
    meets the same mixture of documents. Raises PrepareError when there are too few.
    """
    *train, val, holdout = local_shards(folder, train_shards)
    scored, training = ([ShardWriter(shard.path) for shard in shards] for shards in ((val, holdout), train))
    writers = [*scored, *training]
    try:
        for document in documents:
            least = _emptiest(writers)
            for piece in cut(document, piece_chars):
                if not piece.isspace():
                    (least if least in scored else _emptiest(training)).add(piece)
        if min(writer.chars for writer in writers) == 0:
            raise PrepareError(f"the corpus is too small for {len(writers)} shards", "bring more text")
        for writer in writers:
            writer.close()
    finally:
        for writer in writers:
            writer.abandon()


def _emptiest(writers: Iterable[ShardWriter]) -> ShardWriter:
    return min(writers, key=lambda writer: writer.chars)


def local_shards(folder: Path, train_shards: int) -> tuple[Shard, ...]:
    """The shards that `write_shards` leaves in a folder: training ones, val, holdout."""
    names: list[tuple[str, Split]] = [(f"train-{number:05d}", "train") for number in range(train_shards)]
    names += [("val", "val"), ("holdout", "holdout")]
    return tuple(Shard(name, split, folder / f"{name}.parquet") for name, split in names)


# A folder of one's own texts: parquet (column `text`), JSON lines (field `text`), plain text files


def folder_documents(root: str, report: Report) -> Iterator[str]:
    """Every non-empty text in the folder and below, by file name. Raises PrepareError, naming file and line."""
    folder = Path(root)
    if not folder.is_dir():
        raise PrepareError(f"corpus folder {folder} does not exist", "mend corpus.root in the contract")
    files = sorted(path for path in folder.rglob("*") if path.suffix in _READERS and path.is_file())
    if not files:
        raise PrepareError(f"corpus folder {folder} has no .parquet, .jsonl or .txt file", "mend corpus.root")
    for done, path in enumerate(files):
        report(f"{done} of {len(files)} files")
        yield from (text for text in _READERS[path.suffix](path) if text and not text.isspace())


def _parquet(path: Path) -> Iterator[str]:
    for texts in read_refills(path, _READ_TOGETHER):
        yield from texts


def _json_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _text_field(line, f"{path}:{number}")


def _text_field(line: bytes, where: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError):
        raise PrepareError(f"{where} is no JSON object with a field `text`", "mend or remove that line") from None
    if not isinstance(text, str):
        raise PrepareError(f"{where}: field `text` is not text", "mend or remove that line")
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON can spell half a surrogate pair, UTF-8 cannot


def _plain(path: Path) -> Iterator[str]:
    try:
        yield path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PrepareError(f"{path} is not UTF-8 text (byte {error.start})", "convert or remove that file") from None


_READERS: dict[str, Callable[[Path], Iterator[str]]] = {".parquet": _parquet, ".jsonl": _json_lines, ".txt": _plain}
