"""benchmarks/gpu_first_hour.py without a GPU: it judges for real, and says of each question why it has no answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_first_hour.py"


@pytest.fixture
def first_hour(tmp_path):
    environment = os.environ | {"ARSCHED_CACHE": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    report = tmp_path / "report.md"
    fixed = ["--workdir", str(tmp_path / "work"), "--out", str(report)]

    def run(*options: str) -> tuple[subprocess.CompletedProcess[str], str]:
        command = [sys.executable, str(SCRIPT), *fixed, *options]
        ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        return ended, report.read_text() if report.exists() else ""

    return run


@pytest.mark.slow
def test_smoke_judges_for_real_and_names_what_is_missing(first_hour):
    ended, report = first_hour("--smoke", "--only", "2,6", "--seeds", "1")
    assert ended.returncode == 0, ended.stderr
    assert "plumbing only" in report
    assert "| import | context | compile | train | evaluate | teardown |" in report
    assert "not answered: needs a CUDA device" in report
    assert "### 3." not in report


def test_a_contract_that_cannot_be_prepared_is_one_clear_line(first_hour, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder is due")
    ended, report = first_hour("--smoke")
    assert ended.returncode == 1
    assert "Nothing could be measured" in report
    assert "Traceback" not in ended.stdout


@pytest.mark.parametrize("numbers", ["9", "0,1", "one"])
def test_unknown_questions_are_a_usage_error(first_hour, numbers):
    assert first_hour("--only", numbers)[0].returncode == 2
