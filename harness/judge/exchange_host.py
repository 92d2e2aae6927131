"""Logits through shared host memory: the judge's half on a CPU.

A sealed memfd, which the candidate can neither shrink under the judge nor grow; scoring in numpy.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.protocol import Layout, Op
from harness.scoring import log_probabilities


class ExchangeUnavailable(Exception):
    """This transport of logits does not work here; the message names the reason."""


class NoRoom(Exception):
    """The candidate's model leaves the judge too little memory on the device."""


class SharedMemory:
    """A sealed memfd, mapped."""

    def __init__(self, size: int) -> None:
        self.fd = os.memfd_create("arsched-evaluation", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self.memory = mmap.mmap(self.fd, size)

    def close(self) -> None:
        os.close(self.fd)


class Exchange(ABC):
    """The memory of one evaluation, from the judge's side: token rows are shared here, logits by the subclass.

    Snapshots are private: what is scored no longer changes.
    """

    op: Op
    in_place = False  # `reduce` itself takes the snapshot, row by row: the next request has to wait for it

    def __init__(self, layout: Layout, shared_bytes: int) -> None:
        self._shared = SharedMemory(shared_bytes)
        self._tokens = layout.tokens(self._shared.memory)

    @property
    def fds(self) -> tuple[int, ...]:
        """What the offer carries: the shared memory, and a second descriptor where `op` needs one."""
        return (self._shared.fd,)

    @abstractmethod
    def name(self, *, peer_pinned: bool) -> str:
        """One of harness.protocol.EXCHANGE_NAMES, given that the candidate page-locked the logits or did not."""

    def put_tokens(self, tokens: NDArray[np.uint16]) -> None:
        """Show the candidate the rows of a forward, uint16 [forward_rows, T]."""
        self._tokens[...] = tokens

    @abstractmethod
    def poison(self) -> None:
        """Fill the buffer with NaN: what a candidate does not write does not score."""

    @abstractmethod
    def snapshot(self, rows: int) -> Any:
        """A private copy of the first `rows` rows of logits."""

    @abstractmethod
    def reduce(self, snapshot: Any, ids: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Log-probabilities [T, E] of each row of a snapshot at its token ids [T, E]. Raises scoring.NonFinite."""

    def close(self) -> None:
        self._shared.close()


class HostExchange(Exchange):
    """Rows and logits in one shared memory; scored by numpy."""

    op = Op.HOST_BUFFER
    in_place = True  # judge and candidate share a core, so nothing could overlap, and a row is reduced from its cache

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout, layout.host_bytes)
        self._logits = layout.host_logits(self._shared.memory)
        self._private = np.empty_like(self._logits[0])

    def name(self, *, peer_pinned: bool) -> str:
        return "host"

    def poison(self) -> None:
        self._logits.fill(np.nan)

    def snapshot(self, rows: int) -> Any:
        return self._logits[:rows]

    def reduce(self, snapshot: Any, ids: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        return [self._reduce_row(shared, row_ids) for shared, row_ids in zip(snapshot, ids, strict=True)]

    def _reduce_row(self, shared: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float32]:
        np.copyto(self._private, shared)
        return log_probabilities(self._private, ids)
