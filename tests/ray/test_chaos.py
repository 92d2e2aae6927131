"""The short form of benchmarks/chaos.py: some kills in a running search, and nothing is lost, doubled or left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_handful_of_kills_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/chaos.py", "--kills", "8", "--seed", "5"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=850)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # it ends what it started
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and said.splitlines()[-1] == "kills 8: lost 0, twice 0, orphans 0", said
    assert not [name for name in os.listdir("/proc") if name.isdigit() and _is_of(int(name), process.pid)]


def _is_of(pid: int, parent: int) -> bool:
    try:
        return f"\nPPid:\t{parent}\n" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
