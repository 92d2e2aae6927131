"""One evaluation, as the judge conducts it: rows out, logits in, a score at the end.

Lock-step numbering; a private copy before anything is computed; where the judge's own device reduces, the next request
goes out before the last snapshot is reduced. Which
rows are served and what becomes of their numbers: harness.judge.serving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.contract import Contract
from harness.judge.evaluation_cost import EvaluationCost
from harness.judge.exchange_host import Exchange, ExchangeUnavailable, HostExchange, NoRoom
from harness.protocol import Layout, Message, Op, Opening, ProtocolError

Send = Callable[[Message, tuple[int, ...]], None]
OpenExchange = Callable[[Layout], Exchange]

_AUTO_ON_GPU = ("cuda-ipc", "cuda-fd", "pinned")
_HOST_BUFFER_BYTES = 16 << 20  # stays near the last-level cache
_DEVICE_BUFFER_BYTES = 256 << 20  # next to the candidate's model: small against it, large against a launch


class Transports(NamedTuple):
    """slice_rows: rows of float32 logits [T, V] per slice; `openers` are tried in order."""

    slice_rows: int
    openers: tuple[OpenExchange, ...]


def transports(contract: Contract, exchange: str, *, on_gpu: bool) -> Transports:
    """Every transport of logits a device has, best first, or only the one named `exchange`.

    On a GPU nothing touches the device before one of them is opened.
    """
    buffer_bytes = _DEVICE_BUFFER_BYTES if on_gpu else _HOST_BUFFER_BYTES
    slice_rows = max(1, buffer_bytes // (contract.sequence_length * contract.vocab_size * 4))
    if not on_gpu:
        return Transports(slice_rows, (HostExchange,))
    from harness.judge.exchange_cuda import CudaHostExchange, DeviceExchange

    openers: dict[str, OpenExchange] = {
        "cuda-ipc": partial(DeviceExchange, by_fd=False),
        "cuda-fd": partial(DeviceExchange, by_fd=True),
        "pinned": partial(CudaHostExchange, pinned=True),  # without page-locking it is host
        "host": partial(CudaHostExchange, pinned=False),
    }
    chosen = _AUTO_ON_GPU if exchange == "auto" else (exchange,)
    return Transports(slice_rows, tuple(openers[name] for name in chosen))


class Slice(NamedTuple):
    """Part of one forward whose logits fit the buffer.

    `fresh` holds the forward's token rows [forward_rows, T] when it begins one; `ids`: for each row of the slice the
    token ids int64 [T, E] whose log-probabilities are wanted, the target first. After a `last` slice nothing more is
    asked for until its numbers have been taken: they decide what is.
    """

    fresh: NDArray[np.uint16] | None
    ids: list[NDArray[np.int64]]
    last: bool = False


class Serving(Protocol):
    """Which rows are served, and what becomes of the log-probabilities."""

    def slices(self) -> Iterator[Slice]:
        """What to ask for, in order."""

    def take(self, log_probabilities: list[NDArray[np.float32]]) -> None:
        """The numbers of the next slice, an array [T, E] for each of its rows. Raises the errors of harness.scoring."""

    def finish(self) -> float:
        """All slices are taken: what the candidate is answered, its val_bpb, or nan when it has none."""


class Evaluation:
    """The dialogue from EVAL to END; `exchange` is set when a buffer is open, `over` when it has ended.

    `openers` make the transports, best first: a candidate that cannot open one is given the next.
    """

    def __init__(
        self,
        serving: Serving,
        layout: Layout,
        openers: Iterator[OpenExchange],
        send: Send,
        cost: EvaluationCost | None = None,
    ) -> None:
        self._serving, self._layout, self._openers, self._send, self._cost = serving, layout, openers, send, cost
        self._slices = serving.slices()
        self._exchange: Exchange | None = None
        self._refusals: list[ExchangeUnavailable | NoRoom] = []
        self._number = 0
        self._current: Slice | None = None
        self.exchange: str | None = None
        self.over = False

    def on_message(self, message: Message) -> None:
        """Take ROOM, READY or DONE. Raises ProtocolError, NoRoom, ExchangeUnavailable, and the errors of `Serving`."""
        if self._cost is not None:
            self._cost.candidate_answered()
        match message.op:
            case Op.ROOM if self._exchange is not None:
                raise ProtocolError("ROOM a second time")
            case Op.ROOM:
                self._offer_next()
            case Op.READY:
                self._on_ready(message)
            case _:
                self._on_done(message)

    def close(self) -> None:
        """Give the memory back. Call it when no process maps it any more: CUDA leaves the other order undefined."""
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None

    def _on_ready(self, message: Message) -> None:
        exchange = self._exchange
        if exchange is None or self.exchange is not None:
            raise ProtocolError("READY before a buffer was offered" if exchange is None else "READY a second time")
        if message.count not in tuple(Opening):
            raise ProtocolError(f"READY with count {message.count}")
        if message.count != Opening.REFUSED:
            self.exchange = exchange.name(peer_pinned=message.count == Opening.PINNED)
            self._request_next()
        elif exchange.op in (Op.HOST_BUFFER, Op.PINNED_BUFFER):
            raise ProtocolError("a buffer in host memory was refused, which any process can open")
        else:
            self._refusals.append(ExchangeUnavailable(f"train.py could not open the {exchange.op.name}"))
            self._offer_next()

    def _on_done(self, message: Message) -> None:
        current, exchange = self._current, self._exchange
        if current is None or exchange is None or message.count != self._number:
            raise ProtocolError(f"DONE for slice {message.count} when slice {self._number} was due")
        snapshot = exchange.snapshot(len(current.ids))
        waits = current.last or exchange.in_place
        if not waits:
            self._request_next()
        self._serving.take(exchange.reduce(snapshot, current.ids))
        if waits:
            self._request_next()
        if self._current is None:
            self.over = True
            self._send(Message(Op.END, real=self._serving.finish()), ())

    def _offer_next(self) -> None:
        self.close()
        self._exchange = self._open_next()
        offer = Message(self._exchange.op, count=self._layout.forward_rows, integer=self._layout.slice_rows)
        self._ask(offer, self._exchange.fds)

    def _open_next(self) -> Exchange:
        for open_exchange in self._openers:
            try:
                return open_exchange(self._layout)
            except (ExchangeUnavailable, NoRoom) as error:
                self._refusals.append(error)
        if (no_room := next((error for error in self._refusals if isinstance(error, NoRoom)), None)) is not None:
            raise no_room
        raise ExchangeUnavailable("; ".join(map(str, self._refusals)))

    def _request_next(self) -> None:
        exchange = self._exchange
        self._current = next(self._slices, None)
        if self._current is None or exchange is None:
            return
        self._number += 1
        exchange.poison()
        if self._current.fresh is not None:
            exchange.put_tokens(self._current.fresh)
        op = Op.SLICE if self._current.fresh is None else Op.BATCH
        self._ask(Message(op, count=self._number), (), begins_forward=self._current.fresh is not None)

    def _ask(self, message: Message, fds: tuple[int, ...], *, begins_forward: bool = False) -> None:
        if self._cost is not None:
            self._cost.candidate_asked(message.op, begins_forward=begins_forward)
        self._send(message, fds)
