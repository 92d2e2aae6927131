"""The GPU tests, looked at without a GPU: torch, numpy and pytest suffice, and no warning of torch's own fails one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = """
import sys
import pytest
for name in ("hypothesis", "scipy", "yaml", "ray", "git", "click", "rich", "optuna", "kernels", "filelock", "pyarrow"):
    sys.modules[name] = None  # a machine lent for a quarter of an hour has torch, numpy and pytest
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    for item in items:
        print("FOUND", item.path.name, [mark.args for mark in item.iter_markers("filterwarnings")])
"""


def test_every_gpu_test_is_collected_on_a_bare_machine_and_lets_torch_warn(tmp_path: Path) -> None:
    (tmp_path / "listing.py").write_text(PLUGIN)
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "--collect-only", "-q", "-p", "listing"]
    bare = ["-o", "addopts=--import-mode=importlib", "-W", "default"]  # no pytest-timeout, whose option is in the file
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment["ARSCHED_CACHE"] = str(tmp_path / "cache")
    ended = subprocess.run([*command, *bare], cwd=ROOT, env=environment, capture_output=True, text=True)
    found = [line for line in ended.stdout.splitlines() if line.startswith("FOUND")]
    assert {line.split()[1] for line in found} == {path.name for path in (ROOT / "tests" / "gpu").glob("test_*.py")}
    assert len(found) >= 39 and all("('default',)" in line for line in found), ended.stdout
