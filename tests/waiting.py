"""Waiting for a condition, the one way every test does it: never for a length of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 60.0  # for a condition on a loaded machine; no test waits that long when all is well
POLL_S = 0.01


def wait_until(condition: Callable[[], Any], what: str = "the condition", timeout_s: float = PATIENCE_S) -> Any:
    """Ask until the condition holds and return what it returned. Raises AssertionError."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s for {what}")
        time.sleep(POLL_S)
    return value
