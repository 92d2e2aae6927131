"""On a GPU: the compiled bf16 model learns, warm-up leaves no trace, and neither recompiles once training has begun."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.harness.train_module import load_train, token_batches

pytestmark = pytest.mark.gpu

ROWS, LENGTH, VOCAB = 8, 256, 512


@pytest.fixture
def train(monkeypatch):
    yield from load_train(monkeypatch, contract="standard")


def on_gpu(batches):
    return ((x.cuda(), y.cuda(), epoch) for x, y, epoch in batches)


@pytest.fixture
def trainer(train, monkeypatch):
    monkeypatch.setattr(train, "MAX_SEQ_LEN", LENGTH)
    monkeypatch.setattr(train, "DEVICE_BATCH_SIZE", ROWS)
    monkeypatch.setattr(train, "TOTAL_BATCH_SIZE", 2 * ROWS * LENGTH)
    monkeypatch.setattr(
        train,
        "warmup_batches",
        lambda rows, length, n: itertools.islice(on_gpu(token_batches(VOCAB, rows, length, seed=9)), n),
    )
    config = train.GPTConfig(LENGTH, VOCAB, 4, 2, 2, 128, "SSSL", embed_dtype=torch.bfloat16)
    with torch.device("cuda"):
        model = train.GPT(config)
    return train.Trainer(model, "cuda", seed=1)


def test_after_warming_up_it_learns_without_compiling_again(trainer):
    first = {name: w.clone() for name, w in trainer.model.state_dict().items()}
    trainer.warm_up()
    assert all(torch.equal(w, first[name]) for name, w in trainer.model.state_dict().items())
    with torch._dynamo.config.patch(error_on_recompile=True):
        batches = on_gpu(token_batches(VOCAB, ROWS, LENGTH))
        losses = [trainer.step(batches, i, i / 60) for i in range(60)]
        trainer.model.eval()
        with torch.no_grad(), trainer.autocast:
            assert trainer.forward(next(batches)[0]).dtype == torch.float32
    assert losses[-1] < 0.5 * losses[0]
