"""Candidates with torch models: the judge's score is the in-process score, and a model of the wrong kind is a crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.judging import CANDIDATES, Rig, with_budget

pytestmark = pytest.mark.slow
RANDOM_NET = (CANDIDATES / "random_net.py").read_text()


def alone(rig: Rig, train: Path, seed: int) -> float:
    """The score train.py prints without a judge."""
    environment = rig.environment | {
        "ARSCHED_CONTRACT": str(rig.contract_path),
        "ARSCHED_SEED": str(seed),
    }
    done = subprocess.run([sys.executable, str(train)], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split("val_bpb:")[1])


def test_alone_and_judged_give_the_same_score(rig: Rig) -> None:
    rig.use(with_budget(rig.contract, grace_s=30.0))
    judged = rig.judge(CANDIDATES / "random_net.py", "--seed", "11")
    assert judged.result["status"] == "ok", judged.result["reason"]
    assert judged.result["phases_s"]["compile"] is not None
    assert alone(rig, CANDIDATES / "random_net.py", 11) == pytest.approx(judged.result["val_bpb"], abs=1e-6)


def test_half_precision_logits_are_scored_in_single_precision(rig: Rig) -> None:
    rig.use(with_budget(rig.contract, grace_s=30.0))
    train = rig.write(RANDOM_NET.replace("cumsum(dim=1))", "cumsum(dim=1)).bfloat16()"))
    assert rig.judge(train, "--seed", "11").result["val_bpb"] == pytest.approx(alone(rig, train, 11), abs=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("return head(embed(x).cumsum(dim=1))", "return head(embed(x))[:, :-1]", "shape"),
        ("return head(embed(x).cumsum(dim=1))", "return head(embed(x))[..., :-1]", "shape"),
        ("return head(embed(x).cumsum(dim=1))", "return 0.1", "float"),
        ("BATCH_SIZE = 6", "BATCH_SIZE = 0", "batch_size"),
        ("BATCH_SIZE = 6", "BATCH_SIZE = -3", "batch_size"),
    ],
)
def test_a_model_or_a_batch_size_of_the_wrong_kind_is_a_crash(rig: Rig, old: str, new: str, named: str) -> None:
    rig.use(with_budget(rig.contract, grace_s=30.0))
    judged = rig.judge(rig.write(RANDOM_NET.replace(old, new)))
    assert judged.result["status"] == "crash"
    assert "ValueError" in judged.result["reason"]
    assert named in judged.result["reason"]


def test_validation_rows_are_not_for_candidates(rig: Rig) -> None:
    judged = rig.judge(rig.write(RANDOM_NET.replace('"train"', '"val"')))
    assert judged.result["status"] == "crash"
    assert "belongs to the judge" in judged.result["reason"]
