"""Fixtures of the harness tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.prepare import build
from harness.prepare.tokenizer import train_tokenizer
from tests.harness.judging import Rig
from tests.harness.small_corpus import write_contract, write_corpus
from tests.waiting import wait_until


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A judge to run candidates with. Whatever the test did, no process may be left of it."""
    rig = Rig(tmp_path)
    yield rig
    try:
        wait_until(lambda: not rig.survivors(), "the last process of this test to end", timeout_s=10.0)
    finally:
        for pid in rig.survivors():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the small contract and its corpus, and a cache root of its own."""
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "caches"))
    monkeypatch.setattr(build, "train_apart", train_tokenizer)  # a process less for the calls made in this one
    write_corpus(tmp_path)
    write_contract(tmp_path)
    return tmp_path
