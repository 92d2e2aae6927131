"""The referee: contracts, prepared data, the judge, and the names a train.py imports.

Importing this package costs nothing: every name is resolved on first use, so the scheduler can read a contract
without paying for numpy or torch. Does not know the scheduler exists.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Tokenizer": "harness.tokenizer",
    "make_dataloader": "harness.loader",
    "warmup_batches": "harness.loader",
    "evaluate_bpb": "harness.session",
    "attention_backend": "harness.attention",
    "load_fa3": "harness.attention",
    "make_attention": "harness.attention",
    "peak_flops": "harness.accelerator",
    "peak_memory_mb": "harness.accelerator",
    "training_device": "harness.accelerator",
    "training_dtype": "harness.accelerator",
    "elapsed_seconds": "harness.session",
    "report_mfu": "harness.session",
    "report_step": "harness.session",
    "run_seed": "harness.session",
    "MAX_SEQ_LEN": "harness.session",
    "TIME_BUDGET": "harness.session",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
