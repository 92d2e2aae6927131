"""Fixtures of the harness tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.judging import Rig
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
