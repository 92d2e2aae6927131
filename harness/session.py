"""The candidate's side of a run: its contract, cache and seed, and the messages to its judge if there is one.

Either a judge is listening (JudgedSession) or train.py runs alone (Session). Batches: harness.loader; evaluations:
harness.logits_server. Imports numpy and torch only when rows or logits are asked for.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cache import Cache, CacheError, open_cache
from harness.contract import ContractError, load_contract
from harness.processes import TreeClock
from harness.protocol import ATTENTION_NAMES, JUDGE_FD_ENV, Closed, Message, Op, receive_with_fds, send
from harness.work_page import WorkReader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = tuple[NDArray[np.uint16], NDArray[np.int32]]

CONTRACT_ENV = "ARSCHED_CONTRACT"
SEED_ENV = "ARSCHED_SEED"
DEFAULT_SEED = 42
_REPORT_INTERVAL_S = 0.25


class SessionError(Exception):
    """train.py used the harness in a way the contract does not allow; the message names it."""


class Session:
    """What the loader and train.py may ask for. Alone (`python train.py` by hand) it answers from the cache itself."""

    judged = False

    def __init__(self) -> None:
        try:
            self.contract = load_contract(_contract_reference())
        except ContractError as error:
            raise _exit_with(error) from None
        self.seed = int(os.environ.get(SEED_ENV, DEFAULT_SEED))
        self._tree_clock = TreeClock(os.getpid(), include_root=True)
        self.first_row = 0  # of the training rows, known once they are open
        self._started_at: float | None = None

    @functools.cached_property
    def cache(self) -> Cache:
        """Raises SystemExit with one clear message when the contract is not prepared on this node."""
        try:
            return open_cache(self.contract)
        except CacheError as error:
            raise _exit_with(error) from None

    def warming(self) -> None:
        """Random tokens are about to be served. Raises SessionError once training has begun."""
        if self._started_at is not None:
            raise SessionError("warmup_batches after the first training batch: warm up before training starts")
        self._send(Message(Op.WARMING))

    def start(self) -> None:
        """The budget clock starts now, if it has not yet."""
        if self._started_at is None:
            self._started_at = self._clock_s()

    def open_train_rows(self) -> Rows:
        """(rows uint16 [n, T+1], epochs int32 [n]), read-only; the first call starts the budget clock.

        Training begins at `first_row`: see harness.rows.first_training_row.
        """
        from harness.rows import first_training_row

        with open(self.cache.train_rows_path, "rb") as rows, open(self.cache.train_epochs_path, "rb") as epochs:
            mapped = _map_rows(rows, epochs, self.contract.sequence_length)
        self.first_row = first_training_row(self.seed, len(mapped[0]))
        self.start()
        return mapped

    def elapsed_s(self) -> float:
        """Budget seconds used on the contract's clock since the start; 0.0 before.

        Alone there is no probe of the core's speed: a work clock is plain CPU seconds then.
        """
        return 0.0 if self._started_at is None else self._clock_s() - self._started_at

    def report_step(self, step: int, loss: float, tokens: int) -> None:
        """Report how far training is; at most four reports a second are passed on."""

    def report_attention(self, name: str) -> None:
        """Report which attention kernel is in use: one of protocol.ATTENTION_NAMES."""
        self._send(Message(Op.ATTENTION, count=ATTENTION_NAMES.index(name)))

    def report_memory_mb(self, peak_memory_mb: float) -> None:
        """Report the peak device memory so far, MiB."""
        self._send(Message(Op.MEMORY, real=peak_memory_mb))

    def report_mfu(self, share: float) -> None:
        """Report the model FLOPs utilisation of the training: a share of the device's peak, 0 to 1."""
        self._send(Message(Op.MFU, real=share))

    def evaluate(self, model: Any, batch_size: int) -> float:
        """val_bpb of `model` (int64 [b, T] -> logits [b, T, V]) over the contract's validation rows."""
        from harness.logits_server import score_in_process

        return score_in_process(model, batch_size, self.contract, self.cache)

    def _clock_s(self) -> float:
        return time.monotonic() if self.contract.budget.clock == "wall" else self._tree_clock.read_s()

    def _send(self, message: Message) -> None:
        """To the judge, where there is one."""


class JudgedSession(Session):
    """Under a judge: rows arrive as descriptors at the start, the clock is the judge's, logits go out by a buffer."""

    judged = True

    def __init__(self, judge_fd: int) -> None:
        super().__init__()
        self._pid = os.getpid()
        self._socket = socket.socket(fileno=judge_fd)
        self._socket.set_inheritable(False)
        self._rows: Rows | None = None
        self._work: WorkReader | None = None
        self._last_report_at = -_REPORT_INTERVAL_S
        self._unsent_report: Message | None = None
        self._send(Message(Op.HELLO))

    def start(self) -> None:
        self.open_train_rows()

    def open_train_rows(self) -> Rows:
        if self._rows is None:
            self._send(Message(Op.START))
            try:
                answer, fds = receive_with_fds(self._socket)
            except Closed:
                raise SystemExit("the judge is gone") from None
            if answer.op is not Op.ROWS:
                raise SessionError(f"the judge answered {answer.op.name} where ROWS was due")
            with os.fdopen(fds[0], "rb") as rows, os.fdopen(fds[1], "rb") as epochs:
                self._rows = _map_rows(rows, epochs, self.contract.sequence_length)
            if self.contract.budget.clock == "work":
                self._work = WorkReader(fds[2])
            self.first_row = answer.count
            self._started_at = self._clock_s() - (0.0 if self._work else answer.real)
        return self._rows

    def elapsed_s(self) -> float:
        counted_s = super().elapsed_s()
        return counted_s if self._work is None else self._work.used_s(counted_s)

    def report_step(self, step: int, loss: float, tokens: int) -> None:
        self._unsent_report = Message(Op.STEP, count=step, integer=tokens, real=loss)
        now = time.monotonic()
        if now - self._last_report_at >= _REPORT_INTERVAL_S:
            self._last_report_at = now
            self._flush_report()

    def _flush_report(self) -> None:
        if self._unsent_report is not None:
            self._send(self._unsent_report)
            self._unsent_report = None

    def evaluate(self, model: Any, batch_size: int) -> float:
        import torch

        from harness.logits_server import forward_of

        if self.contract.device == "cuda":
            self.report_memory_mb(torch.cuda.max_memory_allocated() / 2**20)
        # The judge needs a little device memory next to the model.
        return self.serve_logits(forward_of(model, self.contract), batch_size, torch.cuda.empty_cache)

    def serve_logits(self, answer: Any, batch_size: int, make_room: Callable[[], None] = lambda: None) -> float:
        """Ask for the evaluation and answer it by a harness.logits_server.Forward; returns the judge's val_bpb."""
        from harness.logits_server import serve

        self._flush_report()
        return serve(self._socket, answer, batch_size, self.contract, make_room)

    def _send(self, message: Message) -> None:
        if os.getpid() != self._pid:
            raise SessionError("only the process the judge started may talk to the judge, not a fork of it")
        try:
            send(self._socket, message)
        except Closed:
            raise SystemExit("the judge is gone") from None


def _exit_with(error: CacheError | ContractError) -> SystemExit:
    """A message without a stack trace, for a person who runs train.py by hand."""
    return SystemExit(f"error: {error}\nhint: {error.hint}")


def _map_rows(rows: Any, epochs: Any, sequence_length: int) -> Rows:
    """Memory-map the two training files, read-only; the maps outlive the files' closing."""
    import numpy as np

    tokens = np.memmap(rows, dtype="<u2", mode="r")
    return tokens.reshape(-1, sequence_length + 1), np.memmap(epochs, dtype="<i4", mode="r")


def _contract_reference() -> str:
    """ARSCHED_CONTRACT, else that of the lab in the repository above the working directory, else `cpu`."""
    if reference := os.environ.get(CONTRACT_ENV):
        return reference
    with contextlib.suppress(FileNotFoundError):
        here = Path.cwd()
        for folder in (here, *here.parents):
            contract = _common_git_folder(folder / ".git") / "arsched" / "contract.json"
            if contract.is_file():
                return str(contract)
    return "cpu"


def _common_git_folder(entry: Path) -> Path:
    """Where git keeps what all worktrees share, from the `.git` of one: a folder, or a file that names one."""
    with contextlib.suppress(OSError):
        if entry.is_file():
            entry = entry.parent / entry.read_text().strip().removeprefix("gitdir: ")
        return entry / (entry / "commondir").read_text().strip()
    return entry


@functools.cache
def current() -> Session:
    """This process's session, made at the first call."""
    # Taken out of the environment so that a process train.py spawns does not take the closed descriptor for a judge.
    judge_fd = os.environ.pop(JUDGE_FD_ENV, None)
    return Session() if judge_fd is None else JudgedSession(int(judge_fd))


def elapsed_seconds() -> float:
    """Budget seconds used so far on the contract's clock (0.0 before the first training batch)."""
    return current().elapsed_s()


def run_seed() -> int:
    """The seed of this run: the judge's; alone ARSCHED_SEED, or 42, for which the rows are in upstream's order."""
    return current().seed


def report_step(step: int, loss: float, tokens: int) -> None:
    """Report progress: optimiser steps done, last loss (nats per token), training tokens consumed."""
    current().report_step(step, loss, tokens)


def report_mfu(share: float) -> None:
    """Report the model FLOPs utilisation of the training, 0 to 1, where the device's peak is known."""
    current().report_mfu(share)


def evaluate_bpb(model: Any, tokenizer: Any, batch_size: int) -> float:
    """Validation bits per byte of `model`, which maps int64 [batch_size, T] to logits [batch_size, T, V].

    The rows are the contract's whatever the batch size, which only decides how many a forward sees; the last batch is
    padded, so every forward has the same shape. Call it once, after training: a judge accepts one evaluation per run.
    Raises ValueError for a batch size below 1 or logits of the wrong shape.
    """
    return current().evaluate(model, batch_size)


def __getattr__(name: str) -> Any:
    if name == "MAX_SEQ_LEN":
        return current().contract.sequence_length
    if name == "TIME_BUDGET":
        return current().contract.budget.training_s
    raise AttributeError(f"module 'harness.session' has no attribute {name!r}")
