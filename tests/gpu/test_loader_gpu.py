"""On a GPU: every batch that arrives on the device is the batch that was sent, however far the host runs ahead.

The device is kept busy as training with gradient accumulation does, nothing waits for it between batches, and every
batch is hashed there. The same test without the ring's guard must see the race, or it would prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness import loader
from harness.loader import PinnedSlot
from harness.rows import DataExhausted, as_int16

pytestmark = pytest.mark.gpu

T, ROWS, BATCH = 2048, 4096, 32
MIX = np.random.default_rng(5).integers(1, 2**62, size=(BATCH, T), dtype=np.int64)


@dataclass
class FakeSession:
    """A session over rows in memory and validation rows in a file."""

    contract: SimpleNamespace
    cache: SimpleNamespace
    rows: np.ndarray
    judged: bool = False
    seed: int = 3
    first_row: int = 0

    def open_train_rows(self) -> tuple[np.ndarray, np.ndarray]:
        return self.rows, np.arange(len(self.rows), dtype=np.int32)

    def warming(self) -> None:
        pass


@pytest.fixture(params=[8192, 65_536])
def here(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSession]:
    rows = np.random.default_rng(1).integers(request.param, size=(ROWS, T + 1), dtype=np.uint16)
    rows[:256].tofile(tmp_path / "val.u16")
    contract = SimpleNamespace(name="gpu", device="cuda", sequence_length=T, vocab_size=request.param)
    session = FakeSession(contract, SimpleNamespace(val_rows_path=tmp_path / "val.u16"), rows)
    monkeypatch.setattr(loader, "current", lambda: session)
    monkeypatch.setattr(loader, "training_device", lambda: "cuda")
    yield session


def hashes_on_device(batches: Iterator[tuple[torch.Tensor, torch.Tensor, int]], number: int) -> np.ndarray:
    """int64 [number]: sum of x·MIX + y·(MIX xor 1), wrapping, computed behind work that keeps the device busy."""
    mix_x, mix_y = torch.from_numpy(MIX).cuda(), torch.from_numpy(MIX ^ 1).cuda()
    load = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    hashes = torch.zeros(number, dtype=torch.int64, device="cuda")
    for step in range(number):
        load = torch.nn.functional.normalize(load @ load)
        x, y, epoch = next(batches)
        assert epoch == (step + 1) * BATCH - 1
        hashes[step] = (x * mix_x).sum() + (y * mix_y).sum()
    return hashes.cpu().numpy()


def hashes_due(rows: np.ndarray, number: int) -> np.ndarray:
    wide = rows[: number * BATCH].astype(np.int64).reshape(number, BATCH, T + 1)
    with np.errstate(over="ignore"):
        return (wide[:, :, :-1] * MIX).sum((1, 2)) + (wide[:, :, 1:] * (MIX ^ 1)).sum((1, 2))


def test_every_batch_arrives_as_it_was_sent(here: FakeSession) -> None:
    number = ROWS // BATCH
    batches = loader.make_dataloader(None, BATCH, T, "train")
    np.testing.assert_array_equal(hashes_on_device(batches, number), hashes_due(here.rows, number))
    with pytest.raises(DataExhausted):
        next(batches)


def test_without_the_guard_the_race_is_seen(here: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PinnedSlot, "wait", lambda self: None)
    monkeypatch.setattr(loader, "RING_SLOTS", 1)
    number = ROWS // BATCH
    batches = loader.make_dataloader(None, BATCH, T, "train")
    assert (hashes_on_device(batches, number) != hashes_due(here.rows, number)).any()


def test_validation_rows_are_resident_and_right(here: FakeSession) -> None:
    batches = loader.make_dataloader(None, BATCH, T, "val")
    first = next(batches)
    before = torch.cuda.memory_allocated()
    again = loader.make_dataloader(None, BATCH, T, "val")
    assert next(again)[0].device.type == "cuda"
    assert torch.cuda.memory_allocated() - before < 4 * first[0].nbytes  # the rows themselves are not copied twice
    served = [first, *(next(batches) for _ in range(256 // BATCH - 1))]
    x, y = (torch.cat([batch[part] for batch in served]).cpu().numpy() for part in (0, 1))
    np.testing.assert_array_equal(x, here.rows[:256, :-1])
    np.testing.assert_array_equal(y, here.rows[:256, 1:])


def test_warmup_batches_look_like_real_ones_to_a_compiler(here: FakeSession) -> None:
    x, y, _ = next(loader.make_dataloader(None, BATCH, T, "train"))
    for wx, wy in loader.warmup_batches(BATCH, T, 6):
        for warm, real in ((wx, x), (wy, y)):
            assert (warm.shape, warm.dtype, warm.stride(), warm.device) == (
                real.shape, real.dtype, real.stride(), real.device,
            )  # fmt: skip
        assert 0 <= int(wx.min()) <= int(wx.max()) < here.contract.vocab_size


def test_sixteen_bits_travel_not_sixty_four(here: FakeSession) -> None:
    slot = PinnedSlot(BATCH, T + 1, "cuda")
    slot.fill(here.rows[:BATCH])
    on_device = slot.send()
    assert on_device.dtype == torch.int16
    np.testing.assert_array_equal(on_device.cpu().numpy(), as_int16(here.rows[:BATCH]))
