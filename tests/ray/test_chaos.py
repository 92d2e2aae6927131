"""The short form of benchmarks/chaos.py: some kills in a running search, and nothing is lost, doubled or left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kills", "seed"), [(2, 3), pytest.param(10, 5, marks=pytest.mark.slow)])
def test_a_handful_of_kills_loses_nothing(kills: int, seed: int) -> None:
    command = [sys.executable, "benchmarks/chaos.py", "--kills", str(kills), "--seed", str(seed)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=850)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # it ends what it started
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and said.splitlines()[-1] == f"kills {kills}: lost 0, twice 0, orphans 0", said
    assert not [name for name in os.listdir("/proc") if name.isdigit() and _is_of(int(name), process.pid)]


def _is_of(pid: int, parent: int) -> bool:
    try:
        return f"\nPPid:\t{parent}\n" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
