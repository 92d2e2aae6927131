"""Which ways a run has to pass its logits, best first, and how many rows of them fit the buffer.

Covers: choosing by the contract's device. Not covered: the ways themselves (harness.judge.exchange_*).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from harness.contract import Contract
from harness.judge.environment import visible_devices
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


def offers_for(order: Order, token_bytes: TokenBytes) -> Offers:
    """The exchanges of this run. On a GPU nothing touches the device before one of them is opened."""
    if order.device is None:
        return Offers(_rows(order.contract, _HOST_BUFFER_BYTES), (lambda layout: HostExchange(layout, token_bytes),))
    # torch reads these at its import, which is the judge's first use of it.
    os.environ |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible_devices(order)}
    from harness.judge.exchange_cuda import CudaHostExchange, fd_exchange, ipc_exchange

    ways: tuple[OpenExchange, ...] = (
        lambda layout: ipc_exchange(layout, token_bytes),
        lambda layout: fd_exchange(layout, token_bytes),
        lambda layout: CudaHostExchange(layout, token_bytes, pinned=True),
    )
    return Offers(_rows(order.contract, _DEVICE_BUFFER_BYTES), ways)


def _rows(contract: Contract, buffer_bytes: int) -> int:
    return max(1, buffer_bytes // (contract.sequence_length * contract.vocab_size * 4))
