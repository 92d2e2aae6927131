"""train.py's loop: warm-up leaves no trace, small steps add up, it learns, it stops in time, it fails fast."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch

from tests.harness.train_module import load_train, small_model, token_batches

ROWS, LENGTH, VOCAB = 4, 16, 50


@pytest.fixture
def train(monkeypatch):
    yield from load_train(monkeypatch)


@pytest.fixture
def loop(train, monkeypatch):
    """train.py over short rows, with random warm-up tokens and a clock that the test owns."""
    monkeypatch.setattr(train, "MAX_SEQ_LEN", LENGTH)
    monkeypatch.setattr(train, "DEVICE_BATCH_SIZE", ROWS)
    monkeypatch.setattr(train, "TOTAL_BATCH_SIZE", ROWS * LENGTH)
    monkeypatch.setattr(
        train, "warmup_batches", lambda rows, length, n: itertools.islice(warmup(rows, length), n), raising=True
    )
    monkeypatch.setattr(train, "report_step", lambda step, loss, tokens: None)
    return train


def warmup(rows, length):
    return ((x, y) for x, y, _ in token_batches(VOCAB, rows, length, seed=99))


def trainer_of(train, seed=1):
    return train.Trainer(small_model(train), "cpu", seed)


def steps(trainer, count, seed=0, rows=ROWS):
    batches = token_batches(VOCAB, rows, LENGTH, seed)
    return [trainer.step(batches, i, i / count) for i in range(count)]


def test_after_warming_up_training_is_bit_for_bit_what_it_is_without(loop):
    warmed, plain = trainer_of(loop), trainer_of(loop)
    before = {name: w.clone() for name, w in warmed.model.state_dict().items()}
    warmed.warm_up()
    assert all(torch.equal(w, before[name]) for name, w in warmed.model.state_dict().items())
    assert steps(warmed, 5) == steps(plain, 5)
    for ours, due in zip(warmed.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, due)


def test_warming_up_runs_whole_steps_and_an_evaluation_forward(loop, monkeypatch):
    trainer, seen = trainer_of(loop), []
    forward = trainer.forward

    def spy(x, y=None):
        seen.append("logits" if y is None else "loss")
        return forward(x, y)

    trainer.forward = spy
    monkeypatch.setattr(loop, "TOTAL_BATCH_SIZE", ROWS * LENGTH)
    trainer.warm_up()
    assert seen == ["loss"] * loop.COMPILE_STEPS + ["logits"]
    assert trainer.model.training


def test_accumulated_small_batches_are_one_large_batch(loop, monkeypatch):
    whole = trainer_of(loop)
    monkeypatch.setattr(loop, "DEVICE_BATCH_SIZE", 1)
    parts = trainer_of(loop)
    assert (whole.micro_steps, parts.micro_steps) == (1, ROWS)
    x, y, _ = next(token_batches(VOCAB, ROWS, LENGTH))
    loss_whole = whole.step(iter([(x, y, 1)]), 0, 0.0)
    loss_parts = parts.step(((x[i : i + 1], y[i : i + 1], 1) for i in range(ROWS)), 0, 0.0)
    assert loss_parts == pytest.approx(loss_whole, rel=1e-6)
    for a, b in zip(whole.model.blocks.parameters(), parts.model.blocks.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("total", [ROWS * LENGTH + 1, ROWS * LENGTH - LENGTH, 0])
def test_a_batch_that_does_not_divide_is_refused_before_training(loop, monkeypatch, total):
    monkeypatch.setattr(loop, "TOTAL_BATCH_SIZE", total)
    with pytest.raises(ValueError, match="multiple"):
        trainer_of(loop)


def test_loss_starts_at_chance_and_falls_far_below(loop):
    losses = steps(trainer_of(loop), 60)
    assert losses[0] == pytest.approx(math.log(VOCAB), abs=0.05)
    assert losses[-1] < 0.3 * losses[0]


class Clock:
    """A budget clock that advances a fixed time with every optimiser step."""

    def __init__(self, trainer, seconds_per_step):
        self.now_s, self.steps = 0.0, 0
        step = trainer.step

        def timed(batches, index, progress):
            self.now_s += seconds_per_step
            self.steps += 1
            self.progress = progress
            return step(batches, index, progress)

        trainer.step = timed


@pytest.mark.parametrize("seconds_per_step", [0.3, 1.0, 4.0])
def test_no_step_is_begun_that_would_not_fit(loop, monkeypatch, seconds_per_step):
    trainer = trainer_of(loop)
    clock = Clock(trainer, seconds_per_step)
    monkeypatch.setattr(loop, "TIME_BUDGET", 5.0)
    monkeypatch.setattr(loop, "elapsed_seconds", lambda: clock.now_s)
    assert loop.train(trainer, token_batches(VOCAB, ROWS, LENGTH)) == clock.steps
    assert 5.0 - seconds_per_step <= clock.now_s <= 5.0 + 1e-9
    assert 0 <= clock.progress < 1


def test_a_step_longer_than_the_budget_still_trains_once(loop, monkeypatch):
    trainer = trainer_of(loop)
    clock = Clock(trainer, 9.0)
    monkeypatch.setattr(loop, "TIME_BUDGET", 5.0)
    monkeypatch.setattr(loop, "elapsed_seconds", lambda: clock.now_s)
    assert loop.train(trainer, token_batches(VOCAB, ROWS, LENGTH)) == 1


@pytest.mark.parametrize("loss", [math.nan, math.inf, 100.1])
def test_an_exploded_loss_ends_the_process_with_a_word(loop, monkeypatch, loss):
    trainer = trainer_of(loop)
    trainer.step = lambda *_: loss
    with pytest.raises(SystemExit, match="FAIL"):
        loop.train(trainer, iter(()))


def test_the_summary_has_upstreams_nine_lines_in_upstreams_order(loop, capsys):
    loop.print_summary(small_model(loop), 1.9523456, steps=953, training_s=300.06, total_s=325.94)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "---"
    values = dict(re.fullmatch(r"(\w+):\s+(\S+)", line).groups() for line in lines[1:])
    assert list(values) == [
        *("val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent"),
        *("total_tokens_M", "num_steps", "num_params_M", "depth"),
    ]
    assert values["val_bpb"] == "1.952346"
    assert (values["training_seconds"], values["total_seconds"]) == ("300.1", "325.9")
    assert values["mfu_percent"] == "0.00", "a CPU has no peak to compare with"
    assert (values["num_steps"], values["depth"]) == ("953", str(loop.DEPTH))
