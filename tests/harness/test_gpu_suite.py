"""The GPU tests, looked at without a GPU: they can be collected, and no warning of torch's own fails one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = """
import pytest
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    for item in items:
        print("FOUND", item.path.name, [mark.args for mark in item.iter_markers("filterwarnings")])
"""


def test_every_gpu_test_lets_torch_warn(tmp_path: Path) -> None:
    (tmp_path / "listing.py").write_text(PLUGIN)
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "--collect-only", "-q", "-p", "listing"]
    ended = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    found = [line for line in ended.stdout.splitlines() if line.startswith("FOUND")]
    assert {line.split()[1] for line in found} == {path.name for path in (ROOT / "tests" / "gpu").glob("test_*.py")}
    assert len(found) >= 39 and all("('default',)" in line for line in found), ended.stdout
