"""evaluate_bpb for train.py: a torch model becomes an answerer of rows; alone, it is scored in this process.

Covers: calling model(x) with int64 [b, T] on the contract's device, checking the logits' shape, and scoring without a
judge with the judge's own arithmetic. Not covered: the score under a judge, which never comes from this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.batches import padded_batches, read_rows
from harness.contract import Contract
from harness.logits_server import Buffer, Forward
from harness.scoring import Tally, TokenBytes, tally_logits
from harness.session import current

if TYPE_CHECKING:
    from harness.session import Session


def evaluate_bpb(model: Any, tokenizer: Any, batch_size: int) -> float:
    """Validation bits per byte of `model`, which maps int64 [batch_size, T] to logits [batch_size, T, V].

    The rows are the contract's whatever the batch size, which only decides how many a forward sees; the last batch is
    padded, so every forward has the same shape. Call it once, after training: a judge accepts one evaluation per run.
    Raises ValueError for a batch size below 1 or logits of the wrong shape.
    """
    return current().evaluate(model, batch_size)


class TorchLogits:
    """One forward's logits, checked, still on their device."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits

    def write(self, first: int, count: int, buffer: Buffer) -> None:
        target = buffer.device if buffer.host is None else torch.from_numpy(buffer.host)
        target[:count].copy_(self._logits[first : first + count])
        if self._logits.is_cuda:
            torch.cuda.synchronize()

    def host(self) -> NDArray[np.float32]:
        array: NDArray[np.float32] = self._logits.float().cpu().numpy()
        return array

    def device(self) -> torch.Tensor:
        return self._logits


def forward_of(model: Any, contract: Contract) -> Forward:
    """Wrap a torch model as a function from token rows uint16 [b, T] to its logits."""

    def forward(tokens: NDArray[np.uint16]) -> TorchLogits:
        x = torch.from_numpy(tokens.astype(np.int64)).to(contract.device)
        with torch.no_grad():
            logits = model(x)
        due = (*tokens.shape, contract.vocab_size)
        if tuple(getattr(logits, "shape", ())) != due:
            raise ValueError(f"model(x) must return logits of shape {due}, not {_describe(logits)}")
        return TorchLogits(logits.detach())

    return forward


def _describe(logits: Any) -> str:
    return str(tuple(logits.shape)) if hasattr(logits, "shape") else f"a {type(logits).__name__}"


def answer_with(session: Session, model: Any) -> Forward:
    """The forward that a judged session serves; first reports the peak memory of the training."""
    if session.contract.device == "cuda":
        session.report_memory_mb(torch.cuda.max_memory_allocated() / 2**20)
    return forward_of(model, session.contract)


def make_room() -> None:
    """Give device memory that no tensor uses back: the judge needs a little of it beside the model."""
    torch.cuda.empty_cache()


def score_in_process(session: Session, model: Any, batch_size: int) -> float:
    """Score without a judge: the same rows, bytes and arithmetic."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    forward, token_bytes = forward_of(model, session.contract), TokenBytes.load(session.cache)
    total = Tally()
    for rows, valid in _batches(session, batch_size):
        # Unnamed, so that they are gone before the next ones are computed.
        total += _tally(forward(rows[:, :-1].copy()), rows[:valid, 1:], token_bytes)
    return total.score().val_bpb


def _tally(logits: Any, targets: NDArray[np.uint16], token_bytes: TokenBytes) -> Tally:
    if not logits.device().is_cuda:
        return tally_logits(logits.host()[: len(targets)], targets, token_bytes)
    from harness.scoring_cuda import tally_tensor

    return tally_tensor(logits.device()[: len(targets)], targets, token_bytes)


def _batches(session: Session, batch_size: int) -> Iterator[tuple[NDArray[np.uint16], int]]:
    rows = read_rows(session.cache.val_rows_path, session.contract.sequence_length)
    for batch in padded_batches(rows, batch_size):
        yield batch.rows, batch.valid
