"""Whoever asks for these tests wants to know about a GPU: without one they fail, they do not pass unseen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings of torch are not ours: importing its compiler warns of its own deprecated parts, on every release."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session", autouse=True)
def cuda() -> None:
    if not torch.cuda.is_available():
        pytest.fail("these tests need a CUDA device: run `make test-gpu` on a GPU node")
