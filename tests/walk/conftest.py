"""A user's lab for every test; whatever the test did, no process may be left of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.judging import Rig
from tests.waiting import wait_until
from tests.walk.lab import UsersLab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[UsersLab]:
    rig = Rig(tmp_path)
    yield UsersLab(rig)
    wait_until(lambda: not rig.survivors(), f"the last process to end: {rig.survivors()}", timeout_s=30.0)
