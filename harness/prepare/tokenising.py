"""Documents into tokens: one folder per shard with its tokens, the length of each document, and the refills.

Covers: encoding shards side by side in threads (tiktoken lets go of the interpreter while it encodes), going on where
an interrupted call stopped. Not covered: packing. Tokens are little-endian uint16, every document begins with the
first special token.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from harness.files import whole_folder
from harness.packing import TokenStore
from harness.prepare.progress import Progress, count
from harness.prepare.shards import Shard, read_refills
from harness.prepare.side_by_side import side_by_side
from harness.tokenizer import Tokenizer


class Stopped(Exception):
    """The other threads were asked to end because one of them failed."""


@dataclass(frozen=True, slots=True)
class TokenFolder:
    """Where one shard's tokens lie."""

    path: Path

    @property
    def tokens_path(self) -> Path:
        return self.path / "tokens.u16"

    def exists(self) -> bool:
        return self.path.is_dir()

    def lengths(self) -> NDArray[np.int32]:
        """int32 [d]: tokens of each document."""
        return np.fromfile(self.path / "lengths.i32", dtype="<i4")

    def refills(self) -> NDArray[np.int32]:
        """int32 [r]: documents of each refill."""
        return np.fromfile(self.path / "refills.i32", dtype="<i4")


class ShardTokeniser:
    """Encodes shards of one contract into `folder`; may be called from many threads."""

    def __init__(self, tokenizer: Tokenizer, refill_documents: int, folder: Path, progress: Progress) -> None:
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
        left = [shard for shard in shards if not self.place_of(shard).exists()]
        calls = [functools.partial(self._encode_shard, shard) for shard in left]
        side_by_side(calls, threads, self._stop)
        self._progress.show(f"{count(self._tokens)} tokens of {len(left)} shards")

    def place_of(self, shard: Shard) -> TokenFolder:
        return TokenFolder(self._folder / shard.name)

    def _encode_shard(self, shard: Shard) -> None:
        lengths: list[int] = []
        refills: list[int] = []
        with whole_folder(self.place_of(shard).path) as folder:
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


def open_store(places: list[TokenFolder]) -> tuple[TokenStore, NDArray[np.int32]]:
    """Tokens of the shards in order, memory-mapped, and the refills of one epoch."""
    lengths = [place.lengths() for place in places]
    shards = [np.memmap(place.tokens_path, dtype="<u2", mode="r") for place in places]
    store = TokenStore(shards, np.concatenate(lengths), [len(documents) for documents in lengths])
    return store, np.concatenate([place.refills() for place in places])
