"""An honest candidate gets the score it earned, and a result with every fact in it."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from harness.cache import require_calibration
from harness.calibration import Calibration, calibration_path
from harness.judge import launch
from harness.judge.arguments import JudgeArgs
from harness.judge.report import JudgeResult, JudgeVerdict, Telemetry
from harness.rows import first_training_row
from tests.harness.judging import CANDIDATES, REPOSITORY, TINY, Judged, Rig, with_budget

BIGRAM = CANDIDATES / "bigram.py"
UNIFORM = """
import numpy as np
from harness.session import current

class Answer:
    def __init__(self, rows): self.rows = rows
    def write(self, first, count, buffer): buffer.host[:count] = LOGITS[self.rows[first:first + count]]

session = current()
session.open_train_rows()
width = session.contract.vocab_size
LOGITS = np.random.default_rng(session.seed).normal(0, 3, (width, width)).astype(np.float32)
print(session.serve_logits(Answer, BATCH))
"""


def fixed_logits_bpb(rig: Rig, seed: int) -> tuple[float, float]:
    """What UNIFORM's logits are worth, written the slow and obvious way in float64."""
    cache, width = rig.cache(), rig.contract.vocab_size
    logits = np.random.default_rng(seed).normal(0, 3, (width, width)).astype(np.float32).astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = np.fromfile(cache.val_rows_path, "<u2").reshape(-1, rig.contract.sequence_length + 1)
    scores = []
    for path in (cache.token_bytes_path, cache.token_bytes_upstream_path):
        bytes_of, nats, count = np.load(path), 0.0, 0
        for row in rows:
            for token, target in itertools.pairwise(row):
                if bytes_of[target] > 0:
                    nats -= math.log(probabilities[token, target])
                    count += int(bytes_of[target])
        scores.append(nats / (math.log(2) * count))
    return scores[0], scores[1]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rig, Judged]:
    """One honest run, for all that a result shows of it."""
    rig = Rig(tmp_path_factory.mktemp("scored"))
    return rig, rig.judge(BIGRAM, "--seed", "5")


def test_an_honest_candidate_is_scored(scored: tuple[Rig, Judged]) -> None:
    _, judged = scored
    result = judged.result
    assert (judged.exit_code, result["status"], result["reason"]) == (0, "ok", "")
    assert 0 < result["val_bpb"] < 20
    assert f"val_bpb: {result['val_bpb']}" in judged.log
    assert "seed 5" in judged.log
    assert result["exit_code"] == 0


def test_every_fact_is_in_the_result(scored: tuple[Rig, Judged]) -> None:
    rig, judged = scored
    result = judged.result
    assert result["format"] == 1
    assert all(seconds is not None and seconds >= 0 for seconds in result["phases_s"].values())
    assert list(result["phases_s"]) == ["import", "context", "compile", "train", "evaluate", "teardown"]
    assert sum(result["phases_s"].values()) <= result["wall_s"] + 0.01
    budget = rig.contract.budget
    assert result["budget"]["limit_s"] == budget.seconds
    assert budget.training_s <= result["budget"]["used_s"] <= budget.seconds
    assert result["budget"]["cpu_s"] == pytest.approx(result["budget"]["used_s"], abs=0.02)
    machine = result["machine"]
    assert machine["load"] >= 0 and machine["calibration"] is machine["speed"] is machine["gpu"] is None
    assert result["budget"]["cpu_clock"] in ("perf", "cgroup", "polled")
    assert result["digests"]["contract"] == rig.contract.digest
    assert result["digests"]["cache"] == rig.cache().digest
    assert result["digests"]["train_py"] == hashlib.sha256(BIGRAM.read_bytes()).hexdigest()
    assert result["device"]["kind"] == "cpu"
    assert result["exchange"] == "host"
    assert result["versions"]["numpy"] == np.__version__
    assert result["peak_memory_mb"] > 5
    assert result["sandbox"].partition(":")[0] == "full"
    assert result["probes"]["control_max"] == result["probes"]["perturbed_max"] == 0
    assert result["holdout_bpb"] == pytest.approx(result["val_bpb"], rel=0.2)


def test_the_last_report_before_the_evaluation_is_not_lost(scored: tuple[Rig, Judged]) -> None:
    rig, judged = scored
    steps = int(judged.log.split("steps ")[1].split()[0])
    assert judged.result["training"]["steps"] == steps
    assert judged.result["training"]["tokens"] == steps * rig.contract.sequence_length


def test_the_loss_is_kept_at_the_quarters_of_the_budget(rig: Rig) -> None:
    """The candidate reports as often as it may; a mark it had nothing to say at is missing."""
    rig.use(with_budget(rig.contract, seconds=0.7))
    training = rig.judge(BIGRAM).result["training"]
    assert set(map(tuple, training["loss_at"])) <= {(0.25, 4.0), (0.5, 4.0), (0.75, 4.0)} and training["loss_at"]
    assert training["mfu"] is None


def test_marks_of_the_budget_without_a_finite_loss_are_passed() -> None:
    telemetry = Telemetry()
    for used, loss in ((0.3, None), (0.6, float("nan")), (0.9, 2.0), (1.0, 1.0)):
        telemetry.loss = loss
        telemetry.mark_loss(used)
    assert telemetry.loss_at == [(0.75, 2.0)]


@pytest.mark.parametrize(("share", "kept"), [(0.4, 0.4), (2.0, None), (-0.1, None), (float("nan"), None)])
def test_a_utilisation_that_cannot_be_is_not_kept(share: float, kept: float | None) -> None:
    args = JudgeArgs(TINY, BIGRAM, 1, Path(), None, (), None, None, None, "auto")
    result = JudgeResult(args, "namespace")
    result.telemetry.mfu = share
    assert json.loads(result.to_json(JudgeVerdict("ok")))["training"]["mfu"] == kept


def test_a_reported_utilisation_reaches_the_result(rig: Rig) -> None:
    judged = rig.judge(rig.write("from harness import report_mfu\nreport_mfu(0.4)\n"))
    assert judged.result["training"]["mfu"] == 0.4
    assert judged.result["exchange"] is None, "no evaluation, no exchange"


@pytest.mark.parametrize("batch_size", [7, 40, 10**6])
def test_the_batch_size_only_decides_chunking(rig: Rig, batch_size: int) -> None:
    result = rig.judge(rig.write(UNIFORM.replace("BATCH", str(batch_size))), "--seed", "3").result
    expected, expected_upstream = fixed_logits_bpb(rig, 3)
    assert result["val_bpb"] == pytest.approx(expected, abs=1e-6)
    assert result["val_bpb_upstream"] == pytest.approx(expected_upstream, abs=1e-6)


def test_leftovers_of_an_earlier_run_are_replaced(rig: Rig) -> None:
    command, out = rig.command(BIGRAM)
    out.mkdir()
    (out / "run.log").symlink_to(rig.folder / "elsewhere")
    (out / ".result.json.0123456789abcdef").write_text("half of a res")
    (out / "result.json").write_text("not a result")
    subprocess.run(command, env=rig.environment, check=True, capture_output=True)
    assert json.loads((out / "result.json").read_text())["status"] == "ok"
    assert sorted(path.name for path in out.iterdir()) == ["progress.json", "result.json", "run.log"]
    assert not (rig.folder / "elsewhere").exists()


def test_without_namespaces_the_score_is_the_same(rig: Rig) -> None:
    source = rig.write(UNIFORM.replace("BATCH", "8"))
    contained = rig.judge(source, "--containment", "auto").result
    fallback = rig.judge(source, "--containment", "subreaper").result
    assert fallback["containment"] == "subreaper"
    assert fallback["val_bpb"] == contained["val_bpb"]


def test_a_wall_clock_counts_wall_time(rig: Rig) -> None:
    rig.use(with_budget(rig.contract, clock="wall"))
    used = rig.judge(BIGRAM).result["budget"]
    assert used["clock"] == "wall"
    assert used["used_s"] == pytest.approx(used["train_wall_s"], abs=0.05)


@pytest.mark.parametrize("containment", ["auto", "subreaper"])
def test_a_work_clock_counts_the_same_on_both_sides(rig: Rig, containment: str) -> None:
    rig.use(with_budget(rig.contract, clock="work", seconds=1.0))
    source = (
        BIGRAM.read_text(encoding="utf-8") + "\nfrom harness import elapsed_seconds\nprint('own', elapsed_seconds())"
    )
    core = str(min(os.sched_getaffinity(0)))
    judged = rig.judge(rig.write(source), "--cpus", core, "--containment", containment)
    used, machine = judged.result["budget"], judged.result["machine"]
    assert judged.result["status"] == "ok" and used["clock"] == "work"
    assert 0.2 <= machine["speed_low"] <= machine["speed"] <= machine["speed_high"] <= 2.0
    assert used["used_s"] == pytest.approx(used["cpu_s"] * machine["speed"], rel=0.02)
    assert 0.85 <= used["used_s"] <= 1.0, "the candidate stopped when its own clock said so"
    assert machine["calibration"] == read_calibration_of(rig).name
    assert float(judged.log.rpartition("own ")[2].split()[0]) >= used["used_s"] - 0.05


def read_calibration_of(rig: Rig) -> Calibration:
    with rig.cache_root_set():
        return require_calibration(rig.contract)


def test_a_work_clock_without_a_calibration_judges_nothing(rig: Rig) -> None:
    rig.use(with_budget(rig.contract, clock="work"))
    with rig.cache_root_set():
        calibration_path(rig.contract).unlink()
    judged = rig.judge(BIGRAM)
    assert (judged.exit_code, judged.result["status"]) == (1, "infra: calibration")
    assert "arsched prepare --contract" in judged.result["reason"]


def test_children_count_against_a_cpu_clock(rig: Rig) -> None:
    """A candidate that lets a child do the work sees, and is charged for, the child's time."""
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    source = f"""
import subprocess, sys
from harness import elapsed_seconds
from harness.session import current
current().open_train_rows()
for _ in range(2):
    subprocess.run([sys.executable, "-S", "-c", {burn!r}])
print("elapsed", elapsed_seconds())
{UNIFORM.replace("BATCH", "8")}
"""
    result = rig.judge(rig.write(source)).result
    assert result["status"] == "invalid: over-budget"
    assert result["budget"]["used_s"] >= 0.4


def test_a_judged_run_trains_from_the_row_of_its_seed(rig: Rig) -> None:
    began = first_training_row(6, rig.cache().train_rows)
    source = f"""
from harness.session import current
from harness.loader import make_dataloader
rows, _ = current().open_train_rows()
x, _, _ = next(make_dataloader(None, 3, rows.shape[1] - 1, "train"))
print("began there", (rows[{began}:{began + 3}, :-1] == x.numpy()).all())
{UNIFORM.replace("BATCH", "8")}
"""
    assert 0 < began < rig.cache().train_rows - 3
    assert "began there True" in rig.judge(rig.write(source), "--seed", "6").log


def test_the_judge_needs_neither_preparation_nor_scheduling_libraries(rig: Rig) -> None:
    blocker = rig.folder / "blocked"
    blocker.mkdir()
    for name in ("yaml", "tiktoken", "rustbpe", "pyarrow", "ray", "click", "rich", "torch", "platformdirs", "filelock"):
        (blocker / f"{name}.py").write_text(f"raise ImportError('{name} is blocked by this test')\n")
    rig.environment["PYTHONPATH"] = os.pathsep.join([str(blocker), str(REPOSITORY)])
    command, out = rig.command(BIGRAM)
    probe = [sys.executable, "-c", "import torch"]
    assert subprocess.run(probe, env=rig.environment, capture_output=True).returncode != 0
    done = subprocess.run(command, env=rig.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "result.json").read_text())["status"] == "ok"


def carry_package(folder: Path) -> Path:
    """A folder as `pip install --target` leaves it, with one package."""
    (folder / "carried-1.0.dist-info").mkdir(parents=True)
    (folder / "carried.py").write_text("WORD = 'here'\n")
    return folder


def test_packages_that_pip_put_into_a_folder_of_the_path_are_the_candidates_too(rig: Rig) -> None:
    carried, other = carry_package(rig.folder / "wheels"), rig.folder / "other"
    other.mkdir()
    rig.environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(other), str(carried)])
    judged = rig.judge(rig.write("import carried, sys; print(carried.WORD); print(sys.path)"))
    assert judged.log.splitlines()[0] == "here"
    assert str(other) not in judged.log.splitlines()[1]


def test_packages_below_the_home_folder_are_the_candidates_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    args = JudgeArgs(TINY, tmp_path, 1, tmp_path, None, (), None, None, None, "auto")
    cache = SimpleNamespace(directory=tmp_path / "cache" / "tiny", kernel_dir=None)
    monkeypatch.setattr(launch.site, "getuserbase", lambda: str(tmp_path / "base"))
    for enabled, due in ((True, str(tmp_path / "base")), (False, None)):
        monkeypatch.setattr(launch.site, "ENABLE_USER_SITE", enabled)
        environment = launch.candidate_environment(args, cache, launch.Scratch(tmp_path), 3)  # type: ignore[arg-type]
        assert environment.get("PYTHONUSERBASE") == due


def test_the_candidate_gets_an_environment_of_its_own(rig: Rig) -> None:
    rig.environment["AWS_SECRET_ACCESS_KEY"] = "hush"
    rig.environment["RAY_ADDRESS"] = "10.0.0.1:6379"
    # Where a node keeps headers and libcuda is passed on.
    known = {"CPATH": "/a", "LIBRARY_PATH": "/b", "TRITON_PTXAS_PATH": "/c", "TRITON_LIBCUDA_PATH": "/d"}
    rig.environment.update(known)
    judged = rig.judge(rig.write("import os, json; print(json.dumps(dict(os.environ))); print(os.getcwd())"))
    environment = json.loads(judged.log.splitlines()[0])
    assert not [name for name in environment if name.startswith(("AWS_", "RAY_"))]
    assert known.items() <= environment.items()
    scratch = Path(judged.log.splitlines()[1]).parent
    assert scratch.parent == judged.out.parent and scratch.name.startswith(f".{judged.out.name}.scratch-")
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        assert environment[name].startswith(str(scratch))
    assert environment["OMP_NUM_THREADS"] == str(rig.contract.threads)
    assert not scratch.exists()


def test_cores_are_pinned_and_signals_are_clean(rig: Rig) -> None:
    source = "import os, signal; print(os.sched_getaffinity(0), signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    assert rig.judge(rig.write(source), "--cpus", "0").log == "{0} set()\n"
