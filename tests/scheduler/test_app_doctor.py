"""The doctor names what is missing, what to do about it, and whether it is in the way."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.calibration import calibration_here, write_calibration
from harness.contract import load_contract
from scheduler.actions.init import InitRequest, create_lab
from scheduler.cli.main import main
from scheduler.doctor import checks, gpu, machine
from scheduler.doctor.checks import CheckResult, Grade, check_cache, find_lab
from scheduler.doctor.machine import Ticks, read_ticks
from scheduler.doctor.repository import check_repository
from scheduler.lab import ContractChoice, choose_contract, open_workspace
from scheduler.node.gpu import Gpu, GpuProcess
from scheduler.node.machine import Machine, lay_out
from scheduler.node.spool import SpoolRoot
from scheduler.node.supervisor import lock_name
from tests.harness.judging import TINY, build_cache
from tests.scheduler.git_kit import git, make_repository, no_configuration  # noqa: F401

GPU = Gpu(0, "GPU-1234", "Test GPU", "550.1")
CPUS = Machine("boot", "Test CPU", (0, 1), 2)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "cache"))
    root = make_repository(tmp_path / "repository")
    path = tmp_path / "tiny.json"
    path.write_text(TINY.to_json())
    build_cache(load_contract(str(path)))
    create_lab(InitRequest("t", str(path), train=root / "train.py"), root)
    return root


def test_a_lab_in_order_is_all_well(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab)
    done = CliRunner().invoke(main, ["doctor", "--json"])
    answer = json.loads(done.stdout)
    grades = {one["about"]: one["grade"] for one in answer["findings"]}
    assert {"system", "packages", "git", "disk", "lab", "cache", "judge", "torch"} <= set(grades)
    assert answer["ok"] and done.exit_code == 0, answer
    assert any(about.startswith("here/cpu") for about in grades)


def test_the_hint_for_a_missing_cache_is_a_command_that_the_labs_own_contract_file_answers(
    lab: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(lab)
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "empty"))
    findings = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)["findings"]
    (hint,) = {one["hint"] for one in findings if one["about"] == "cache"}
    words = hint[hint.index("prepare --contract") :].split()
    done = CliRunner().invoke(main, [*words, "--dry-run", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["contract"] == words[-1]


def test_hints_for_a_lab_whose_contract_was_a_file_name_that_file(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARSCHED_CACHE", str(lab.parent / "none"))
    monkeypatch.chdir(lab)
    with open_workspace(start=lab) as space:
        expected = f"arsched prepare --contract {space.paths.contract}"
    assert expected in json.dumps(json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout))


def test_without_repository_and_cache_both_are_named_and_the_code_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("problem  repository") for line in lines)
    assert any(line.startswith("problem  cache") for line in lines)
    assert any("→ " in line and "arsched prepare --contract cpu" in line for line in lines)


@pytest.mark.parametrize(
    ("load", "stolen", "grade", "words"),
    [
        (0.3, 0, Grade.OK, "load 0.3 on 2 cores, steal 0 %"),
        (1.7, 0, Grade.NOTE, "load 1.7 on 2 cores, steal 0 %: others use it"),
        (0.3, 12, Grade.NOTE, "steal 6 %: others use it"),
    ],
)
def test_a_machine_that_others_use_is_noted(load: float, stolen: int, grade: Grade, words: str) -> None:
    found = machine.check_load(Ticks(5, 1000), Ticks(5 + stolen, 1200), load, 2)
    assert found.grade is grade and words in found.message and bool(found.hint) is (grade is Grade.NOTE)
    for unknown in (None, Ticks(5, 1000)):
        assert "steal" not in machine.check_load(unknown, Ticks(5, 1000), load, 2).message


def test_what_the_surroundings_ask_of_ray_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    (found,) = machine.check_ray({})
    assert found.grade is Grade.OK and found.message.endswith("its files go to /tmp")
    _, noted = machine.check_ray({"RAY_ADDRESS": "10.0.0.7:6379"})
    assert noted.grade is Grade.NOTE and "10.0.0.7:6379 is set and not used" in noted.message
    assert "--address auto" in noted.hint
    monkeypatch.setattr(os, "access", lambda *_: False)
    (found,) = machine.check_ray({})
    assert found.grade is Grade.PROBLEM and "TMPDIR" in found.hint
    down = OSError(101, "Network is unreachable")
    monkeypatch.setattr("socket.create_connection", lambda *_: (_ for _ in ()).throw(down))
    (found,) = machine.check_ray({})
    assert found.grade is Grade.PROBLEM and "loopback" in found.hint


def test_the_ticks_of_a_machine_are_read_where_there_are_any(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    assert read_ticks(stat) is None
    stat.write_text("cpu\n")
    assert read_ticks(stat) is None
    stat.write_text("cpu  1 2 3 4 5 6 7 80 900 9000\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    assert read_ticks(stat) == (80, 108)


@pytest.mark.parametrize(
    ("quiet", "speed", "grade", "words", "hint"),
    [
        (True, 0.99, Grade.OK, "calibration f00d; this machine runs at 0.99 of its calibrated speed now", ""),
        (True, 0.83, Grade.NOTE, "runs at 0.83 of its calibrated speed now: others use it", "end what else runs here"),
        (True, 1.3, Grade.NOTE, "1.30 of its calibrated speed now, so it was slower then", "--calibrate"),
        (False, 1.0, Grade.NOTE, "measured on a busy machine", "arsched prepare --contract C --calibrate"),
    ],
)
def test_a_work_clock_says_how_fast_the_machine_is(
    monkeypatch: pytest.MonkeyPatch, quiet: bool, speed: float, grade: Grade, words: str, hint: str
) -> None:
    choice = ContractChoice("C", replace(TINY, budget=replace(TINY.budget, clock="work")))
    answer = {"calibration": "f00d", "quiet": quiet, "speed": speed, "shared": 0.0}
    monkeypatch.setattr(machine, "ask_work_clock", lambda contract: answer)
    (found,) = machine.check_work_clock(choice)
    assert found.grade is grade and words in found.message and hint in found.hint
    assert list(machine.check_work_clock(ContractChoice("C", TINY))) == []


def test_a_work_clock_is_asked_of_the_harness_and_calibrated_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path))
    path = tmp_path / "work.json"
    path.write_text(replace(TINY, budget=replace(TINY.budget, clock="work")).to_json())
    choice = ContractChoice("C", load_contract(str(path)))
    assert list(machine.check_work_clock(choice)) == []
    write_calibration(choice.contract, calibration_here(1e-9, quiet=True))
    (found,) = machine.check_work_clock(choice)
    assert found.grade is Grade.NOTE and "runs at 0.20 of" in found.message  # no core is so fast


def test_a_byte_changed_in_the_cache_is_found(lab: Path, tmp_path: Path) -> None:
    context = find_lab(None, None, lab)
    assert check_cache(context, full=True)[0].grade is Grade.OK
    (rows,) = (tmp_path / "cache").glob("*/judge/val.u16")
    rows.chmod(0o644)
    rows.write_bytes(rows.read_bytes()[:-1] + b"\xff")
    assert check_cache(context, full=False)[0].grade is Grade.OK
    found, _ = check_cache(context, full=True)
    assert found.grade is Grade.PROBLEM and "val.u16" in found.message


def test_a_cache_made_anew_is_not_the_labs(lab: Path) -> None:
    context = replace(find_lab(None, None, lab), cache_digest="0" * 64)
    message = check_cache(context, full=False)[0].message
    assert "the lab was made with 000000000000" in message and "numpy 2." in message


def test_another_contract_may_be_examined_in_the_same_place(lab: Path) -> None:
    context = find_lab(None, choose_contract("cpu"), lab)
    assert context.choice.contract.name == "cpu" and context.cache_digest == ""
    assert check_cache(context, full=False)[0].grade is Grade.PROBLEM


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (replace(CPUS, gpu_problem="NVML: no driver"), "no driver"),
        (replace(CPUS, gpus=(replace(GPU, mig=True),)), "MIG is on"),
        (replace(CPUS, gpus=(GPU,), gpu_problem="an MPS daemon runs"), "MPS"),
        (replace(CPUS, gpus=(GPU,)), "in use by process 77 (python)"),
    ],
)
def test_what_is_wrong_with_gpus_is_said_for_each(monkeypatch: pytest.MonkeyPatch, found: Machine, words: str) -> None:
    monkeypatch.setattr(checks, "read_machine", lambda gpus: found)
    monkeypatch.setattr(checks, "compute_processes", lambda uuid: (GpuProcess(77, "python"),))
    results = list(checks.check_this_machine("cuda"))
    assert [one.grade for one in results] == [Grade.PROBLEM]
    assert words in results[0].message


def test_of_a_gpu_with_a_run_it_says_whose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ARSCHED_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setattr(checks, "read_machine", lambda gpus: replace(CPUS, gpus=(GPU,)))
    monkeypatch.setattr(checks, "compute_processes", lambda uuid: (GpuProcess(77, "python"),))
    (found,) = checks.check_this_machine("cuda")
    assert found.message == "dirty: in use by process 77 (python)" and not (tmp_path / "spool").exists()
    path = SpoolRoot(tmp_path / "spool").lock_path(lock_name(lay_out(replace(CPUS, gpus=(GPU,)), "here", "cuda")[0]))
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (found,) = checks.check_this_machine("cuda")
    assert found.grade is Grade.NOTE and f"process {os.getpid()} (" in found.message


def test_a_free_gpu_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "read_machine", lambda gpus: replace(CPUS, gpus=(GPU,)))
    monkeypatch.setattr(checks, "compute_processes", lambda uuid: ())
    assert [one.grade for one in checks.check_this_machine("cuda")] == [Grade.OK]


def test_a_gpu_whose_processes_may_not_be_listed_is_worth_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "read_machine", lambda gpus: replace(CPUS, gpus=(GPU,)))
    monkeypatch.setattr(checks, "compute_processes", lambda uuid: None)
    (result,) = checks.check_this_machine("cuda")
    assert result.grade is Grade.NOTE and "may not list processes" in result.message


def test_packages_that_do_not_fit_are_named_with_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        checks.metadata, "requires", lambda name: ["click>=99", "no-such-thing", "numpy", "x; extra == 'dev'"]
    )
    result = checks.check_packages()
    assert result.grade is Grade.PROBLEM
    assert "arsched needs >=99" in result.message and "no-such-thing is missing" in result.message
    assert "numpy" not in result.message


def test_a_disk_nearly_full_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "LEAST_FREE_GB", 1e9)
    assert {one.grade for one in checks.check_disk(tmp_path)} == {Grade.PROBLEM}


def test_a_spool_that_other_nodes_see_is_worth_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ARSCHED_SPOOL", str(tmp_path / "shared"))
    assert len(list(checks.check_disk(tmp_path))) == 2
    monkeypatch.setattr(checks, "is_shared", lambda path: path == tmp_path / "shared")
    *_, result = checks.check_disk(tmp_path)
    assert result.grade is Grade.NOTE and str(tmp_path / "shared") in result.message and "ARSCHED_SPOOL" in result.hint


@pytest.mark.parametrize(
    ("capabilities", "device", "grades"),
    [
        ({"contained": True, "torch": "2", "cuda": False, "cuda_error": ""}, "cpu", ["ok", "ok"]),
        ({"contained": False, "torch": "2", "cuda": False, "cuda_error": ""}, "cpu", ["note", "ok"]),
        (
            {"contained": True, "torch": "2", "cuda_build": "13.0", "cuda": False, "cuda_error": "no driver"},
            "cuda",
            ["ok", "problem"],
        ),
        ({"contained": True, "torch": "", "cuda": False, "cuda_error": "No module"}, "cpu", ["ok", "problem"]),
    ],
)
def test_the_capabilities_of_a_machine_are_graded(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object], device: str, grades: list[str]
) -> None:
    monkeypatch.setattr(gpu, "ask_capabilities", lambda device: capabilities)
    monkeypatch.setattr(gpu, "read_states", lambda: ())
    monkeypatch.setattr(gpu, "read_driver", lambda: None)
    assert [one.grade.value for one in gpu.check_capabilities(device)] == grades


def of_repository(root: Path) -> dict[str, CheckResult]:
    return {one.subject: one for one in check_repository(None, root)}


def test_a_branch_that_is_not_at_the_baseline_is_noted_with_the_way_out(lab: Path) -> None:
    assert of_repository(lab)["branch"].grade is Grade.OK
    git(lab, "branch", "-f", "autoresearch/t", "main")
    found = of_repository(lab)["branch"]
    assert found.grade is Grade.NOTE and "moved by hand" in found.message
    assert "git branch -f autoresearch/t" in found.hint
    git(lab, "branch", "-m", "autoresearch/t", "autoresearch")
    found = of_repository(lab)["branch"]
    assert found.grade is Grade.NOTE and "'autoresearch' is in the way" in found.message and "branch -m" in found.hint
    git(lab, "branch", "-m", "autoresearch", "other")
    assert "arsched submit makes it" in of_repository(lab)["branch"].hint


def test_what_is_in_the_way_of_a_first_lab_is_a_problem(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "fresh")
    assert of_repository(root)["repository"].grade is Grade.OK
    git(root, "branch", "autoresearch")
    found = of_repository(root)["repository"]
    assert found.grade is Grade.PROBLEM and "git branch -m autoresearch NEWNAME" in found.hint
    git(root, "mv", "train.py", "harness/train.py")
    git(root, "commit", "-qm", "in a folder")
    assert "--train harness/train.py" in of_repository(root)["repository"].hint


def test_worktrees_of_a_clone_that_was_moved_are_a_problem(lab: Path) -> None:
    git(lab, "worktree", "add", "-q", "candidates/a")
    assert "worktrees" not in of_repository(lab)
    there = lab.rename(lab.with_name("moved"))
    found = of_repository(there)["worktrees"]
    assert found.grade is Grade.PROBLEM and f"cd {shlex.quote(str(there))} && git worktree repair" in found.hint
    git(there, "worktree", "repair", "candidates/a")
    assert "worktrees" not in of_repository(there)
