"""Documents into tokens, and tokens into packed rows on disk.

Covers: encoding shards in threads (tiktoken releases the interpreter while it encodes), going on where an interrupted
call stopped; how many rows a contract asks for, gathering and writing them with plain writes (a memory map would answer
a full disk with SIGBUS). Not covered: the packing rule (harness.packing), reading rows back (harness.rows).
"""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from harness.contract import Contract
from harness.files import whole_file, whole_folder
from harness.packing import Plan, TokenStore, gather_rows, plan_rows
from harness.prepare.corpus import SPLITS, Shard, Split, read_refills
from harness.prepare.stage import PrepareError, PrepareProgress, count, run_in_threads, size
from harness.tokenizer import Tokenizer

_CHUNK_TOKENS = 1 << 22
_TOKEN_BYTES = 2


class Stopped(Exception):
    """The other threads were asked to end because one of them failed."""


@dataclass(frozen=True, slots=True)
class TokenFolder:
    """One shard's tokens: uint16, every document begins with the first special token; all numbers little-endian."""

    path: Path

    @property
    def tokens_path(self) -> Path:
        return self.path / "tokens.u16"

    def lengths(self) -> NDArray[np.int32]:
        """int32 [d]: tokens of each document."""
        return np.fromfile(self.path / "lengths.i32", dtype="<i4")

    def refills(self) -> NDArray[np.int32]:
        """int32 [r]: documents of each refill."""
        return np.fromfile(self.path / "refills.i32", dtype="<i4")


class ShardTokeniser:
    """Encodes shards of one contract into `folder`, several at a time."""

    def __init__(self, tokenizer: Tokenizer, refill_documents: int, folder: Path, progress: PrepareProgress) -> None:
        self._encoding = tokenizer.encoding
        self._first = np.array([tokenizer.get_bos_token_id()], dtype="<u2").tobytes()
        self._refill_documents = refill_documents
        self._folder = folder
        self._progress = progress
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._tokens = 0

    def run(self, shards: tuple[Shard, ...], threads: int) -> None:
        """Encode every shard that is not encoded yet. Raises what reading or writing raises."""
        left = [shard for shard in shards if not self.tokens_of(shard).path.is_dir()]
        run_in_threads([functools.partial(self._encode_shard, shard) for shard in left], threads, self._stop)
        self._progress.show(f"{count(self._tokens)} tokens of {len(left)} shards")

    def tokens_of(self, shard: Shard) -> TokenFolder:
        return TokenFolder(self._folder / shard.name)

    def _encode_shard(self, shard: Shard) -> None:
        lengths: list[int] = []
        refills: list[int] = []
        with whole_folder(self.tokens_of(shard).path) as folder:
            with (folder / "tokens.u16").open("wb") as out:
                for texts in read_refills(shard.path, self._refill_documents):
                    refills.append(len(texts))
                    lengths.extend(self._encode_refill(texts, out))
            for name, numbers in (("lengths.i32", lengths), ("refills.i32", refills)):
                (folder / name).write_bytes(np.array(numbers, dtype="<i4").tobytes())

    def _encode_refill(self, texts: list[str], out: BinaryIO) -> Iterator[int]:
        if self._stop.is_set():
            raise Stopped
        encoded = 0
        for text in texts:
            tokens = encode(self._encoding, text)
            out.write(self._first)
            out.write(tokens.astype("<u2").tobytes())
            encoded += len(tokens) + 1
            yield len(tokens) + 1
        with self._lock:
            self._tokens += encoded
        self._progress.show(f"{count(self._tokens)} tokens")


def encode(encoding: Any, text: str) -> NDArray[np.uint32]:
    """Tokens of a text in which special tokens are ordinary text."""
    try:
        tokens: NDArray[np.uint32] = encoding.encode_to_numpy(text, disallowed_special=())
    except UnicodeEncodeError:  # half a surrogate pair, which encode_ordinary mends
        return np.array(encoding.encode_ordinary(text), dtype=np.uint32)
    return tokens


def rows_of(contract: Contract, split: Split) -> int:
    """Rows the contract asks for: training rows cover train_tokens, the others are exact."""
    tokens = {"train": contract.train_tokens, "val": contract.evaluation_tokens, "holdout": contract.holdout_tokens}
    return -(-tokens[split] // contract.sequence_length)


def require_space(contract: Contract, folder: Path) -> None:
    """Raise PrepareError now rather than after minutes of packing, if the rows cannot fit on the disk."""
    rows = sum(rows_of(contract, split) for split in SPLITS)
    need, free = rows * (contract.sequence_length + 1) * _TOKEN_BYTES, shutil.disk_usage(folder).free
    if need > free:
        raise PrepareError(
            f"the disk of {folder} is too full: the rows need {size(need)}, {size(free)} are free",
            "free some space there, or set ARSCHED_CACHE to a folder on another disk",
        )


def write_rows(
    contract: Contract,
    split: Split,
    tokens: list[TokenFolder],
    rows_path: Path,
    epochs_path: Path | None,
    progress: PrepareProgress,
) -> None:
    """Pack a split's tokens into uint16 [rows, T+1] at `rows_path`, and their epochs into int32 [rows]."""
    lengths = [folder.lengths() for folder in tokens]
    shards = [np.memmap(folder.tokens_path, dtype="<u2", mode="r") for folder in tokens]
    store = TokenStore(shards, np.concatenate(lengths), [len(documents) for documents in lengths])
    rows = rows_of(contract, split)
    plan = plan_rows(
        store.lengths,
        np.concatenate([folder.refills() for folder in tokens]),
        rows,
        contract.sequence_length + 1,
        contract.pack_buffer_documents,
        lambda done, total: progress.show(f"planned {count(done)} of {count(total)} rows"),
    )
    _write_tokens(plan, store, rows_path, progress)
    if epochs_path is not None:
        with whole_file(epochs_path) as file:
            file.write(plan.row_epochs.astype("<i4").tobytes())
    elif plan.row_epochs[-1] > 1:
        progress.print(f"NOTE: the text of these {rows} rows is short: it is gone through {plan.row_epochs[-1]} times")
    progress.show(f"{count(rows)} rows, up to epoch {plan.row_epochs[-1]}")


def _write_tokens(plan: Plan, store: TokenStore, path: Path, progress: PrepareProgress) -> None:
    total, done = int(plan.takes.sum(dtype="int64")), 0
    with whole_file(path) as file:
        for tokens in gather_rows(plan, store, _CHUNK_TOKENS):
            file.write(tokens.astype("<u2", copy=False).data)
            done += len(tokens)
            progress.show(f"written {count(done)} of {count(total)} tokens")
