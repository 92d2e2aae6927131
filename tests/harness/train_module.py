"""The repository's train.py as a module, set up for the cpu contract, and small models made of it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import torch


def load_train(monkeypatch, contract: str = "cpu") -> Iterator[ModuleType]:
    """Body of a fixture: `train` under this contract, whatever a lab in this checkout says; all caches cleared."""
    from harness import accelerator, attention, session

    monkeypatch.setenv(session.CONTRACT_ENV, contract)
    monkeypatch.delenv("ARSCHED_EXPECT_ATTENTION", raising=False)
    cached = (session.current, accelerator.training_device, attention.attention_backend)
    threads = torch.get_num_threads()
    for function in cached:
        function.cache_clear()
    yield importlib.import_module("train")
    for function in cached:
        function.cache_clear()
    torch.set_num_threads(threads)


def small_model(train: ModuleType, seed: int = 1, **changes):
    """A GPT of 3 layers, width 32, over 16 positions and 50 tokens."""
    sizes = {"sequence_len": 16, "vocab_size": 50, "n_layer": 3, "n_head": 4, "n_kv_head": 4, "n_embd": 32}
    model = train.GPT(train.GPTConfig(**sizes | changes))
    model.init_weights(seed)
    return model


def shake(model, seed: int = 0) -> None:
    """Move every weight off its initial value: fresh projections are zero and hide what a layer does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def token_batches(vocab_size: int, rows: int, length: int, seed: int = 0):
    """Endless (x, y, epoch) of random tokens whose successor is a fixed function of the token: easy to learn."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randint(0, vocab_size, (rows, length), generator=generator)
        yield x, (x * 7 + 3) % vocab_size, 1
