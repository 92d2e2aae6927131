"""One evaluation, as the judge conducts it: rows out, logits in, a score at the end.

Covers: the plan of forwards and slices, lock-step numbering, snapshot before reduction, the next request going out
before the last snapshot is reduced. Not covered: transport of messages (harness.judge.conversation) and of logits
(exchanges). Extra rows (probes, a holdout) join at `_plan`: one more batch, and a consumer for what comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.batches import Batch, padded_batches
from harness.exchange import Layout
from harness.judge.exchange_host import Exchange, ExchangeUnavailable, NoRoom
from harness.protocol import Message, Op, Opening, ProtocolError
from harness.scoring import Score, Tally

Send = Callable[[Message, tuple[int, ...]], None]
OpenExchange = Callable[[Layout], Exchange]


@dataclass(frozen=True, slots=True)
class _Slice:
    """Part of one forward whose logits fit the buffer; `fresh` holds the forward's token rows when it begins one."""

    fresh: NDArray[np.uint16] | None
    targets: NDArray[np.uint16]


class Evaluation:
    """The dialogue from EVAL to END; `exchange` is set when a buffer is open, `score` when it is over.

    `offers` are the ways to pass logits, best first: a candidate that cannot open one is given the next.
    """

    def __init__(self, rows: NDArray[np.uint16], layout: Layout, offers: Iterator[OpenExchange], send: Send) -> None:
        self._layout = layout
        self._offers = offers
        self._send = send
        self._slices = self._plan(rows)
        self._exchange: Exchange | None = None
        self._has_offered = False
        self._is_open = False
        self._refusals: list[ExchangeUnavailable | NoRoom] = []
        self._number = 0
        self._current: _Slice | None = None
        self._total = Tally()
        self.exchange: str | None = None
        self.score: Score | None = None

    def on_room(self) -> None:
        """The candidate has made room: offer the first buffer. Raises NoRoom, ExchangeUnavailable, ProtocolError."""
        if self._has_offered:
            raise ProtocolError("ROOM a second time")
        self._has_offered = True
        self._offer_next()

    def on_ready(self, message: Message) -> None:
        """The candidate has opened the buffer, or cannot. Raises as `on_room`."""
        exchange = self._exchange
        if exchange is None or self._is_open:
            raise ProtocolError("READY a second time" if self._is_open else "READY before a buffer was offered")
        if message.count not in tuple(Opening):
            raise ProtocolError(f"READY with count {message.count}")
        if message.count != Opening.REFUSED:
            self._is_open = True
            self.exchange = exchange.name(peer_pinned=message.count == Opening.PINNED)
            self._request_next()
        elif exchange.op in (Op.HOST_BUFFER, Op.PINNED_BUFFER):
            raise ProtocolError("a buffer in host memory was refused, which any process can open")
        else:
            self._refusals.append(ExchangeUnavailable(f"train.py could not open the {exchange.op.name}"))
            self._offer_next()

    def on_done(self, message: Message) -> None:
        """A slice of logits lies in the buffer. Raises ProtocolError, scoring.NonFinite."""
        current, exchange = self._current, self._exchange
        if current is None or exchange is None or message.count != self._number:
            raise ProtocolError(f"DONE for slice {message.count} when slice {self._number} was due")
        snapshot = exchange.snapshot(len(current.targets))
        self._request_next()
        self._total += exchange.tally(snapshot, current.targets)
        if self._current is None:
            self.score = self._total.score()
            self._send(Message(Op.END, real=self.score.val_bpb), ())

    def close(self) -> None:
        """Give the memory back. Call it when nobody maps it any more: CUDA leaves the other order undefined."""
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None

    def _offer_next(self) -> None:
        self.close()
        self._exchange = self._open_next()
        offer = Message(self._exchange.op, count=self._layout.forward_rows, integer=self._layout.slice_rows)
        self._send(offer, self._exchange.fds)

    def _open_next(self) -> Exchange:
        for open_exchange in self._offers:
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
        self._send(Message(op, count=self._number), ())

    def _plan(self, rows: NDArray[np.uint16]) -> Iterator[_Slice]:
        for batch in padded_batches(rows, self._layout.forward_rows):
            yield from self._slices_of(batch)

    def _slices_of(self, batch: Batch) -> Iterator[_Slice]:
        for first in range(0, batch.valid, self._layout.slice_rows):
            targets = batch.rows[first : min(first + self._layout.slice_rows, batch.valid), 1:]
            yield _Slice(batch.rows[:, :-1] if first == 0 else None, targets)
