"""The loader: the right rows, once, in order; nothing real before the clock, nothing of the judge's, no race."""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import accelerator, loader, session
from harness.cache import Cache, open_cache
from harness.contract import Contract, load_contract
from harness.loader import RING_SLOTS, RingFeed, widen
from harness.prepare.cli import main
from harness.rows import DataExhausted, RowStream, first_training_row
from harness.session import SessionError
from harness.tokenizer import Tokenizer
from tests.harness.small_corpus import write_contract, write_corpus

ROOT = Path(__file__).resolve().parents[2]
T = 16


@dataclass
class FakeSession:
    """A session whose calls are written down."""

    contract: Contract
    cache: Cache
    judged: bool = False
    seed: int = 7
    first_row: int = 0
    calls: list[str] = field(default_factory=list)

    def open_train_rows(self) -> tuple[np.ndarray, np.ndarray]:
        self.calls.append("start")
        rows = np.memmap(self.cache.train_rows_path, "<u2", mode="r").reshape(-1, T + 1)
        return rows, np.memmap(self.cache.train_epochs_path, "<i4", mode="r")

    def warming(self) -> None:
        if "start" in self.calls:
            raise SessionError("training has begun")
        self.calls.append("warm")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    home = tmp_path_factory.mktemp("small")
    write_corpus(home)
    path = write_contract(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARSCHED_CACHE", str(home / "caches"))
        assert main(["--contract", str(path)]) == 0
        return open_cache(load_contract(str(path)))


@pytest.fixture
def here(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    fake = FakeSession(cache.contract, cache)
    for module in (loader, session, accelerator):
        monkeypatch.setattr(module, "current", lambda: fake)
    monkeypatch.setattr(loader, "training_device", lambda: "cpu")
    return fake


@pytest.fixture
def tokenizer(cache: Cache) -> Tokenizer:
    return Tokenizer.from_directory(cache.directory)


def row_file(path: Path) -> np.ndarray:
    return np.fromfile(path, "<u2").reshape(-1, T + 1).astype(np.int64)


@pytest.mark.parametrize("first_row", [0, 1, 612, 1249])
@pytest.mark.parametrize("batch_size", [1, 7, 16, 128])
def test_every_row_is_served_once_and_in_order(
    here: FakeSession, tokenizer: Tokenizer, batch_size: int, first_row: int
) -> None:
    here.first_row = first_row
    rows = np.roll(row_file(here.cache.train_rows_path), -first_row, axis=0)
    epochs = np.roll(np.fromfile(here.cache.train_epochs_path, "<i4"), -first_row)
    batches = loader.make_dataloader(tokenizer, batch_size, T, "train")
    for first in range(0, len(rows) - batch_size + 1, batch_size):
        x, y, epoch = next(batches)
        due = rows[first : first + batch_size]
        assert (x.dtype, x.shape, x.is_contiguous(), y.is_contiguous()) == (torch.int64, (batch_size, T), True, True)
        np.testing.assert_array_equal(x.numpy(), due[:, :-1])
        np.testing.assert_array_equal(y.numpy(), due[:, 1:])
        assert epoch == epochs[first + batch_size - 1]
    with pytest.raises(DataExhausted, match=r"20,000 tokens.*train_tokens"):
        next(batches)


def test_a_batch_is_the_candidates_own(here: FakeSession, tokenizer: Tokenizer) -> None:
    batches = loader.make_dataloader(tokenizer, 4, T, "train")
    x, y, _ = next(batches)
    kept = y.clone()
    x.fill_(3)
    next(batches)
    assert torch.equal(y, kept)
    fresh, _, _ = next(loader.make_dataloader(tokenizer, 4, T, "train"))
    assert not (fresh == 3).all()


def test_the_clock_starts_at_the_first_batch(here: FakeSession, tokenizer: Tokenizer) -> None:
    batches = loader.make_dataloader(tokenizer, 2, T, "train")
    assert here.calls == []
    next(batches)
    next(batches)
    assert here.calls == ["start"]


def test_validation_rows_alone_but_never_under_a_judge(here: FakeSession, tokenizer: Tokenizer) -> None:
    rows = row_file(here.cache.val_rows_path)
    batches = loader.make_dataloader(tokenizer, 5, T, "val")
    served = [next(batches)[1] for _ in range(len(rows) // 5)]
    np.testing.assert_array_equal(torch.cat(served).numpy(), rows[:, 1:])
    assert here.calls == []
    here.judged = True
    with pytest.raises(SessionError, match="belongs to the judge"):
        loader.make_dataloader(tokenizer, 5, T, "val")


@pytest.mark.parametrize(
    ("call", "words"),
    [((4, 2 * T, "train"), "MAX_SEQ_LEN"), ((0, T, "train"), "at least one"), ((4, T, "test"), '"val"')],
)
def test_calls_the_contract_does_not_allow(
    here: FakeSession, tokenizer: Tokenizer, call: tuple[int, int, str], words: str
) -> None:
    with pytest.raises(SessionError, match=words):
        loader.make_dataloader(tokenizer, *call)
    assert here.calls == []


def test_warmup_batches_are_like_real_ones_and_teach_nothing(here: FakeSession, tokenizer: Tokenizer) -> None:
    warm = list(loader.warmup_batches(4, T, 3))
    again = list(loader.warmup_batches(4, T, 3))
    assert here.calls == ["warm"] * 6
    x, y, _ = next(loader.make_dataloader(tokenizer, 4, T, "train"))
    for (wx, wy), (ax, _) in zip(warm, again, strict=True):
        assert (wx.shape, wx.dtype, wx.stride(), wy.stride()) == (x.shape, x.dtype, x.stride(), y.stride())
        assert torch.equal(wx, ax) and wx.min() >= 0 and wx.max() < here.contract.vocab_size
    rows = {row.tobytes() for row in row_file(here.cache.train_rows_path)[:, :-1]}
    assert not any(row.tobytes() in rows for wx, _ in warm for row in wx.numpy())
    with pytest.raises(SessionError, match="begun"):
        next(loader.warmup_batches(4, T, 1))


def test_another_seed_warms_with_other_tokens(here: FakeSession) -> None:
    first = next(loader.warmup_batches(4, T, 1))[0]
    here.seed += 1
    assert not torch.equal(first, next(loader.warmup_batches(4, T, 1))[0])


@pytest.mark.parametrize("first", range(4))
def test_a_stream_goes_round_once(first: int) -> None:
    rows, epochs = np.arange(12, dtype=np.uint16).reshape(4, 3), np.array([1, 1, 2, 3], dtype=np.int32)
    stream = RowStream(rows, epochs, first)
    order = [number % 4 for number in range(first, first + 4)]
    taken, epoch = stream.take(3)
    assert (taken.tolist(), epoch) == (rows[order[:3]].tolist(), epochs[order[2]])
    with pytest.raises(DataExhausted, match="3 of 4 rows"):
        stream.take(2)
    assert stream.take(1)[0].tolist() == [rows[order[3]].tolist()]
    with pytest.raises(DataExhausted, match="4 of 4 rows"):
        stream.take(1)


def test_a_seed_fixes_where_training_begins() -> None:
    assert [first_training_row(seed, 49_152) for seed in (1, 42)] == [0, 0]
    assert [first_training_row(seed, 49_152) for seed in (2, 3)] == [8816, 6923], (
        "runs of other versions would not compare"
    )
    firsts = [first_training_row(seed, 1000) for seed in range(2, 3000) if seed != 42]
    assert min(firsts) >= 0 and max(firsts) < 1000
    quarters = np.bincount([first // 250 for first in firsts])
    assert quarters.min() > 650, "spread over the whole stream"


ALONE = "from harness.session import current; rows, _ = current().open_train_rows(); print(current().first_row)"


@pytest.mark.parametrize("seed", [None, 1, 5])
def test_alone_a_seed_begins_where_the_judge_would_begin(cache: Cache, seed: int | None) -> None:
    environment = {
        "ARSCHED_CACHE": str(cache.directory.parent),
        "ARSCHED_CONTRACT": str(cache.directory / "contract.json"),
        "PYTHONPATH": str(ROOT),
    } | ({} if seed is None else {"ARSCHED_SEED": str(seed)})
    done = subprocess.run([sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == first_training_row(seed or 42, cache.train_rows)


class LateSlot:
    """A slot whose copies run when the device gets to them: at the latest when one waits for it, like a busy stream."""

    def __init__(self, stream: deque[LateSlot], rows: int) -> None:
        self.stream, self.host = stream, np.zeros((rows, T + 1), dtype=np.int16)
        self.pending: list[torch.Tensor] = []

    def wait(self) -> None:
        while self.pending:
            self.stream.popleft().arrive()

    def fill(self, rows: np.ndarray) -> None:
        np.copyto(self.host, rows.view(np.int16))

    def send(self) -> torch.Tensor:
        on_device = torch.zeros(self.host.shape, dtype=torch.int16)
        self.pending.append(on_device)
        self.stream.append(self)
        return on_device

    def arrive(self) -> None:
        self.pending.pop(0).copy_(torch.from_numpy(self.host))


@pytest.mark.parametrize("guarded", [True, False])
def test_a_host_that_runs_ahead_overwrites_nothing(guarded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The widening is put off as well, so what arrives late is seen; without the guard this very test sees the race."""
    stream: deque[LateSlot] = deque()
    slots = [LateSlot(stream, 2) for _ in range(RING_SLOTS)]
    if not guarded:
        monkeypatch.setattr(LateSlot, "wait", lambda self: None)
    on_device: list[torch.Tensor] = []
    monkeypatch.setattr("harness.loader.widen", lambda rows, _: on_device.append(rows) or (rows, rows))
    feed = RingFeed(slots, 100)
    batches = [np.full((2, T + 1), number, dtype=np.uint16) for number in range(5 * RING_SLOTS)]
    for batch in batches:
        feed(batch)
    while stream:
        stream.popleft().arrive()
    intact = all((got.numpy() == due).all() for got, due in zip(on_device, batches, strict=True))
    assert intact == guarded


@pytest.mark.parametrize("vocab_size", [1000, 32_768, 65_536])
def test_widening_keeps_every_token(vocab_size: int) -> None:
    rows = np.linspace(0, vocab_size - 1, 3 * (T + 1)).astype(np.uint16).reshape(3, T + 1)
    x, y = widen(torch.from_numpy(rows.view(np.int16)), vocab_size)
    np.testing.assert_array_equal(x.numpy(), rows[:, :-1])
    np.testing.assert_array_equal(y.numpy(), rows[:, 1:])
    assert x.is_contiguous() and y.is_contiguous() and x.dtype == torch.int64


WITHOUT_LIBRARIES = """
import sys
for name in "yaml tiktoken rustbpe pyarrow platformdirs filelock click rich requests kernels".split():
    sys.modules[name] = None
from harness import MAX_SEQ_LEN, Tokenizer, make_dataloader, warmup_batches
tokenizer = Tokenizer.from_directory()
next(iter(warmup_batches(2, MAX_SEQ_LEN, 1)))
x, y, epoch = next(make_dataloader(tokenizer, 2, MAX_SEQ_LEN, "train"))
print(tokenizer.get_vocab_size(), tokenizer.get_bos_token_id() == x[0, 0].item(), epoch)
try:
    tokenizer.encode("text")
except Exception as error:
    print(error)
"""


def test_a_prepared_node_trains_on_numpy_and_torch_alone(cache: Cache) -> None:
    environment = {
        "ARSCHED_CACHE": str(cache.directory.parent),
        "ARSCHED_CONTRACT": str(cache.directory / "contract.json"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", WITHOUT_LIBRARIES]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == ["320 True 1", "encoding and decoding text needs tiktoken: pip install tiktoken"]
