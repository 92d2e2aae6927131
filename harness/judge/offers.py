"""Which ways a run has to pass its logits, best first, and how many rows of them fit the buffer.

Covers: choosing by the contract's device. Not covered: the ways themselves (harness.judge.exchange_*).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness.cache import Cache
from harness.contract import Contract
from harness.judge.evaluation import OpenExchange
from harness.judge.exchange_host import HostExchange
from harness.judge.order import Order
from harness.scoring import TokenBytes

_HOST_BUFFER_BYTES = 16 << 20  # stays near the last-level cache
_DEVICE_BUFFER_BYTES = 256 << 20  # beside the candidate's model: small against it, large against a launch


@dataclass(frozen=True, slots=True)
class Offers:
    """slice_rows: rows of float32 logits [T, V] per slice; `ways` are tried in order."""

    slice_rows: int
    ways: tuple[OpenExchange, ...]


@contextmanager
def offers_for(order: Order, cache: Cache) -> Iterator[Offers]:
    """The exchanges of this run. On a GPU nothing touches the device before the evaluation begins."""
    token_bytes = TokenBytes.load(cache)
    if order.device is None:
        yield Offers(_rows(order.contract, _HOST_BUFFER_BYTES), (lambda layout: HostExchange(layout, token_bytes),))
        return
    from harness.judge import exchange_cuda

    ways = exchange_cuda.ways(order, token_bytes)
    yield Offers(_rows(order.contract, _DEVICE_BUFFER_BYTES), ways)


def _rows(contract: Contract, buffer_bytes: int) -> int:
    return max(1, buffer_bytes // (contract.sequence_length * contract.vocab_size * 4))
