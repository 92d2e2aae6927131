"""Whoever asks for these tests wants to know about a GPU: without one they fail, they do not pass unseen."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def cuda() -> None:
    if not torch.cuda.is_available():
        pytest.fail("these tests need a CUDA device: run `make test-gpu` on a GPU node")
