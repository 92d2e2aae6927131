"""Which ways a run has to pass its logits, best first, and how many rows of them fit the buffer.

Covers: choosing by the device and by what the order names. Not covered: the ways themselves (harness.judge.exchange_*).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial

from harness.contract import Contract
from harness.judge.environment import visible_devices
from harness.judge.evaluation import OpenExchange
from harness.judge.exchange_host import HostExchange
from harness.judge.order import Order
from harness.scoring import TokenBytes

_AUTO_ON_GPU = ("cuda-ipc", "cuda-fd", "pinned")
_HOST_BUFFER_BYTES = 16 << 20  # stays near the last-level cache
_DEVICE_BUFFER_BYTES = 256 << 20  # beside the candidate's model: small against it, large against a launch


@dataclass(frozen=True, slots=True)
class Offers:
    """slice_rows: rows of float32 logits [T, V] per slice; `ways` are tried in order."""

    slice_rows: int
    ways: tuple[OpenExchange, ...]


def offers_for(order: Order, token_bytes: TokenBytes) -> Offers:
    """The exchanges of this run. On a GPU nothing touches the device before one of them is opened."""
    if order.device is not None:
        # torch reads these at its import, which is the judge's first use of it.
        os.environ |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible_devices(order)}
    return offers_of(order.contract, token_bytes, order.exchange, on_gpu=order.device is not None)


def offers_of(contract: Contract, token_bytes: TokenBytes, exchange: str, *, on_gpu: bool) -> Offers:
    """Every way a device has, best first, or only the one named `exchange`."""
    if not on_gpu:
        return Offers(_rows(contract, _HOST_BUFFER_BYTES), (partial(HostExchange, token_bytes=token_bytes),))
    from harness.judge.exchange_cuda import CudaHostExchange, fd_exchange, ipc_exchange

    ways: dict[str, OpenExchange] = {
        "cuda-ipc": partial(ipc_exchange, token_bytes=token_bytes),
        "cuda-fd": partial(fd_exchange, token_bytes=token_bytes),
        "pinned": partial(CudaHostExchange, token_bytes=token_bytes, pinned=True),  # without page-locking it is host
        "host": partial(CudaHostExchange, token_bytes=token_bytes, pinned=False),
    }
    chosen = _AUTO_ON_GPU if exchange == "auto" else (exchange,)
    return Offers(_rows(contract, _DEVICE_BUFFER_BYTES), tuple(ways[name] for name in chosen))


def _rows(contract: Contract, buffer_bytes: int) -> int:
    return max(1, buffer_bytes // (contract.sequence_length * contract.vocab_size * 4))
