"""train.py as shipped, in a process of its own: alone, judged, and where it cannot run."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.policy.constants import rewrite_constants
from tests.harness.judging import Judged, Rig, with_budget

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SMALL = {"DEPTH": 2, "DEVICE_BATCH_SIZE": 4, "TOTAL_BATCH_SIZE": 4 * 32, "LOG_EVERY": 1}
FROZEN = dict.fromkeys(("EMBEDDING_LR", "UNEMBEDDING_LR", "MATRIX_LR", "SCALAR_LR"), 0.0)


def candidate(rig: Rig, **constants: float | str) -> Path:
    return rig.write(rewrite_constants((ROOT / "train.py").read_text(), SMALL | constants))


def alone(rig: Rig, train: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    known = rig.environment | {"PYTHONPATH": str(ROOT), "ARSCHED_CONTRACT": str(rig.contract_path)}
    return subprocess.run([sys.executable, str(train)], env=known | environment, capture_output=True, text=True)


def printed_score(log: str) -> float:
    return float(re.findall(r"^val_bpb: +(\S+)$", log, re.MULTILINE)[-1])


@pytest.fixture
def rig_with_time(rig: Rig) -> Rig:
    """A CPU-second of training, and more rows than it can eat."""
    contract = dataclasses.replace(rig.contract, train_tokens=30_000 * rig.contract.sequence_length)
    rig.use(with_budget(contract, seconds=1.0, grace_s=30.0))
    return rig


def test_judged_it_trains_scores_and_names_its_attention(rig_with_time: Rig) -> None:
    judged = rig_with_time.judge(candidate(rig_with_time))
    result = judged.result
    assert result["status"] == "ok", result["reason"]
    assert (result["attention"], judged.exit_code) == ("sdpa", 0)
    assert result["training"]["steps"] > 1
    assert result["phases_s"]["compile"] > 0, "the warm-up lies before the clock"
    assert result["peak_memory_mb"] > 50
    assert result["budget"]["used_s"] <= 1.5
    assert printed_score(judged.log) == pytest.approx(result["val_bpb"], abs=1e-6)


def test_a_model_that_does_not_learn_scores_the_same_alone_and_judged(rig_with_time: Rig) -> None:
    """With every rate at zero only the seed matters, so time cannot move the score."""
    train = candidate(rig_with_time, **FROZEN, WEIGHT_DECAY=0.0)
    by_hand = alone(rig_with_time, train, ARSCHED_SEED="7")
    assert by_hand.returncode == 0, by_hand.stderr
    judged = rig_with_time.judge(train, "--seed", "7")
    assert printed_score(by_hand.stdout) == pytest.approx(judged.result["val_bpb"], abs=1e-6)


def test_an_unexpected_attention_is_the_labs_failure_not_a_score(rig_with_time: Rig) -> None:
    judged: Judged = rig_with_time.judge(candidate(rig_with_time), "--expect-attention", "fa3")
    assert (judged.result["status"], judged.exit_code) == ("infra: attention", 1)
    assert judged.result["val_bpb"] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [({"EMBEDDING_LR": 1e30}, "FAIL: loss"), ({"DEVICE_BATCH_SIZE": 3}, "TOTAL_BATCH_SIZE must be a multiple")],
)
def test_an_edit_that_cannot_work_is_a_crash_that_says_why(rig_with_time: Rig, change, words) -> None:
    judged = rig_with_time.judge(candidate(rig_with_time, **change))
    assert judged.result["status"] == "crash"
    assert words in judged.result["reason"]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"ARSCHED_CACHE": "/nonexistent"}, "is not prepared"),
        ({"ARSCHED_CONTRACT": "cpuu"}, "no contract 'cpuu'"),
        ({"ARSCHED_CONTRACT": "standard", "CUDA_VISIBLE_DEVICES": ""}, "needs a CUDA device"),
    ],
)
def test_where_it_cannot_run_it_says_what_to_do(rig: Rig, environment, words) -> None:
    ended = alone(rig, ROOT / "train.py", **environment)
    assert ended.returncode == 1
    assert words in ended.stderr and "hint: " in ended.stderr
    assert "Traceback" not in ended.stderr
