"""The module upstream's train.py imports as `prepare`: its names, this harness's data, clock, seed and judge.

On the path of a candidate whose contract says `compat: upstream`. Covers what a train.py of
https://github.com/karpathy/autoresearch uses; `make_dataloader` and `evaluate_bpb` take its arguments. What that file
does not do for a judge is done here: its seed 42 becomes the run's, and its tokens and steps are counted. Not covered:
downloading and tokeniser training, which upstream's file of this name also does (here: arsched prepare).
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch

import harness.loader
from harness import MAX_SEQ_LEN, TIME_BUDGET, Tokenizer, evaluate_bpb
from harness.loader import EpochBatch
from harness.session import DEFAULT_SEED, report_step, run_seed

__all__ = ["MAX_SEQ_LEN", "TIME_BUDGET", "Tokenizer", "evaluate_bpb", "make_dataloader"]


def make_dataloader(tokenizer: Tokenizer, B: int, T: int, split: str) -> Iterator[EpochBatch]:
    """As harness.make_dataloader; a training batch counts as trained on when the one after it is asked for."""
    batches = harness.loader.make_dataloader(tokenizer, B, T, split)
    return _counted(batches, B * T) if split == "train" else batches


def _counted(batches: Iterator[EpochBatch], batch_tokens: int) -> Iterator[EpochBatch]:
    for batch in batches:
        yield batch
        _trained.add(batch_tokens)


class _Trained:
    """Batches and tokens of all loaders, reported without waiting for the device; the loss stays with train.py."""

    def __init__(self) -> None:
        self.batches = self.tokens = 0

    def add(self, batch_tokens: int) -> None:
        self.batches += 1
        self.tokens += batch_tokens
        report_step(self._steps(), math.nan, self.tokens)

    def _steps(self) -> int:
        """Optimizer steps, by upstream's constant of this name; batches where train.py has none that could be it."""
        step_tokens = getattr(sys.modules["__main__"], "TOTAL_BATCH_SIZE", None)
        if not isinstance(step_tokens, int) or step_tokens < 1:
            return self.batches
        return min(self.batches, self.tokens // step_tokens)


_trained = _Trained()


def _seed_by_the_run(module: ModuleType, name: str) -> None:
    """Let module.name(42) seed with the run's seed; any other seed is train.py's own choice. Twice is as once."""
    set_seed = getattr(module, name)
    if hasattr(set_seed, "seeds_by_the_run"):
        return

    @functools.wraps(set_seed)
    def seeded(seed: int) -> Any:
        return set_seed(run_seed() if seed == DEFAULT_SEED else seed)

    seeded.seeds_by_the_run = True  # type: ignore[attr-defined]
    setattr(module, name, seeded)


_seed_by_the_run(torch, "manual_seed")
_seed_by_the_run(torch.cuda, "manual_seed")
_seed_by_the_run(torch.cuda, "manual_seed_all")
