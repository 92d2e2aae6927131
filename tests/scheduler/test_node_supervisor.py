"""The supervisor of one slot, with real processes: the common contract, then what only a node can do wrong."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.cli.prepare import run_program
from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import Busy, Done, Lost, is_in_use
from scheduler.node.code import CODE_ROOT
from scheduler.node.judge_process import is_locked, judge_environment
from scheduler.node.supervisor import SlotSupervisor
from tests.processes import is_running
from tests.scheduler.fake_judge import CONTRACT_JSON
from tests.scheduler.pool_contract import PoolContract, wait_for
from tests.scheduler.supervisor_pool import FAKES, LAB_ID, FakeJudgeLab, SupervisorPool, fake_order, specs
from tests.waiting import wait_until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def lab(root: Path, tmp_path: Path) -> Iterator[FakeJudgeLab]:
    pool = SupervisorPool(root)
    yield FakeJudgeLab(pool, tmp_path)
    pool.close(stop_runs=True)


class TestSupervisors(PoolContract):
    @pytest.fixture
    def lab(self, root: Path, tmp_path: Path) -> Iterator[FakeJudgeLab]:
        pool = SupervisorPool(root)
        yield FakeJudgeLab(pool, tmp_path)
        pool.close(stop_runs=True)


def out_of(root: Path, key: str) -> Path:
    return root / LAB_ID / key / "out"


def dump_facts(lab: FakeJudgeLab, root: Path) -> dict[str, object]:
    lab.pool.start("node/cpu1", fake_order("r0001", "dump\nscore 1.9"))
    wait_for(lab, "r0001", Done)
    facts: dict[str, object] = json.loads((out_of(root, "r0001.1") / "facts.json").read_text())
    return facts


def test_the_judge_gets_the_order_the_slot_and_its_lock(lab: FakeJudgeLab, root: Path) -> None:
    arguments = dump_facts(lab, root)["argv"]
    assert isinstance(arguments, list)
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert options["--seed"] == "7" and options["--device"] == "cpu" and options["--cpus"] == "1"
    assert options["--expect-cache"] == "cafe" * 16
    assert options["--lock"] == str(root / "locks" / "cpu-1.lock")
    assert "--expect-attention" not in options


def test_no_secret_and_nothing_of_ray_reaches_the_judge(root: Path, tmp_path: Path) -> None:
    environ = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "ARSCHED_CACHE": "/cache",
        "RAY_ADDRESS": "x", "RAY_AUTH_TOKEN": "x", "RAY_JOB_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "HF_TOKEN": "x",
        "GITHUB_TOKEN": "x", "OMP_NUM_THREADS": "1", "PYTHONBREAKPOINT": "x", "LD_PRELOAD": "",
        "SOME_API_KEY": "x", "SSH_AUTH_SOCK": "x", "MY_PASSWORD": "x", "CUDA_VISIBLE_DEVICES": "5",
    }  # fmt: skip
    supervisor = SlotSupervisor(specs(1)[0], root, FAKES, environ=environ)
    supervisor.start(fake_order("r0001", "dump\nscore 1.9"))
    wait_until(lambda: isinstance(supervisor.poll(LAB_ID)[0], Done))
    seen = json.loads((out_of(root, "r0001.1") / "facts.json").read_text())["environ"]
    allowed = {"PATH", "HOME", "LC_ALL", "ARSCHED_CACHE", "PYTHONPATH", "PYTHONUNBUFFERED"}
    of_shells_own = {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}
    assert set(seen) - of_shells_own == allowed | {"CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"}
    assert seen["CUDA_VISIBLE_DEVICES"] == ""


def test_the_judge_gets_packages_of_the_path_and_where_headers_lie(tmp_path: Path) -> None:
    carried, plain = tmp_path / "wheels", tmp_path / "plain"
    (carried / "torch-2.13.dist-info").mkdir(parents=True)
    plain.mkdir()
    known = {"CPATH": "/a", "LIBRARY_PATH": "/b", "TRITON_PTXAS_PATH": "/c", "TRITON_LIBCUDA_PATH": "/d"}
    seen = judge_environment({"PYTHONPATH": os.pathsep.join([str(plain), "", str(carried)]), **known}, "")
    assert known.items() <= seen.items()
    assert seen["PYTHONPATH"].split(os.pathsep) == [str(CODE_ROOT), str(carried)]


def test_prepare_finds_packages_of_the_path_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "carried-1.0.dist-info").mkdir()
    (tmp_path / "carried.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run_program([sys.executable, "-P", "-c", "import carried"]) == 0
    (tmp_path / "carried-1.0.dist-info").rmdir()
    assert run_program([sys.executable, "-P", "-c", "import carried"]) == 1


def test_ctrl_c_can_reach_the_judge_although_its_supervisor_blocks_it(lab: FakeJudgeLab, root: Path) -> None:
    import signal

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        facts = dump_facts(lab, root)
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert facts["sigint_blocked"] is False


def test_busy_carries_progress_and_the_logs_tail(lab: FakeJudgeLab) -> None:
    lab.pool.start("node/cpu0", lab.endless("r0001"))
    wait_until(lambda: "step 1" in getattr(lab.pool.poll()[0], "log_tail", ""))
    busy = wait_for(lab, "r0001", Busy)
    assert isinstance(busy, Busy)
    assert (busy.progress.phase, busy.progress.step, busy.progress.loss) == ("train", 1, 2.5)


def test_done_carries_the_log(lab: FakeJudgeLab) -> None:
    lab.pool.start("node/cpu0", lab.scoring("r0001", 1.9))
    done = wait_for(lab, "r0001", Done)
    assert isinstance(done, Done) and done.log == "step 0\nstep 1\n"


def test_lost_carries_the_judges_last_output(lab: FakeJudgeLab) -> None:
    lab.pool.start("node/cpu0", lab.dying("r0001"))
    lost = wait_for(lab, "r0001", Lost)
    assert isinstance(lost, Lost)
    assert "exit code 7" in lost.reason and "of old age" in lost.reason


def test_a_judge_that_ignores_sigterm_is_dead_when_stop_returns(
    lab: FakeJudgeLab, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.node.judge_process.TERMINATE_GRACE_S", 0.2)
    lab.pool.start("node/cpu0", fake_order("r0001", "stubborn\nchild\nhang"))
    child_pid = out_of(root, "r0001.1") / "child.pid"
    wait_until(child_pid.exists)
    judge = int((root / LAB_ID / "r0001.1" / "judge.pid").read_text())
    lab.pool.stop("node/cpu0", "r0001", 1)
    assert not is_running(judge)
    assert not is_locked(root / "locks" / "cpu-0.lock")
    wait_until(lambda: not is_running(int(child_pid.read_text())))


def test_a_result_counts_only_once_the_slot_is_free(lab: FakeJudgeLab, root: Path) -> None:
    lab.pool.start("node/cpu0", fake_order("r0001", f"score 1.9\nwait {lab.gate}"))
    wait_until((out_of(root, "r0001.1") / "result.json").exists)
    assert isinstance(lab.pool.poll()[0], Busy)
    lab.release()
    wait_for(lab, "r0001", Done)


def test_a_missing_judge_is_a_clear_problem(root: Path) -> None:
    from scheduler.node.judge_process import Commands

    nowhere = Commands(("/nowhere/python", "-m", "harness.judge"), FAKES.cache)
    supervisor = SlotSupervisor(specs(1)[0], root, nowhere)
    supervisor.start(fake_order("r0001", "score 1.9"))
    wait_until(lambda: isinstance(supervisor.poll(LAB_ID)[0], Lost))
    [lost] = supervisor.poll(LAB_ID)
    assert isinstance(lost, Lost) and "/nowhere/python" in lost.reason


def test_two_labs_share_a_slot_without_seeing_each_other(lab: FakeJudgeLab) -> None:
    supervisor = lab.pool.supervisors["node/cpu0"]
    supervisor.start(fake_order("r0001", f"wait {lab.gate}\nscore 1.5", lab_id="lab-2"))
    assert lab.pool.poll() == ()
    first, second = lab.pool.slots()
    assert (
        re.fullmatch(r"a run of another lab is going on \(lab lab, judge [0-9]+\)", first.problem)
        and not second.problem
    )
    assert is_in_use(first) and not is_in_use(second)
    with pytest.raises(PoolProblem, match="going on"):
        lab.pool.start("node/cpu0", lab.scoring("r0001", 1.9))
    lab.release()
    wait_until(lambda: isinstance(supervisor.poll("lab-2")[0], Done))
    lab.pool.start("node/cpu0", lab.scoring("r0001", 1.9))
    wait_for(lab, "r0001", Done)


def test_a_package_called_harness_in_the_spool_does_not_answer_for_the_harness(root: Path) -> None:
    """Candidates may write there."""
    (root / "harness").mkdir(parents=True)
    (root / "harness" / "__init__.py").touch()
    (root / "harness" / "cache.py").write_text("""print('{"digest": "f0f0", "contract_digest": "f0f0"}')""")
    slot = SlotSupervisor(specs(1)[0], root).probe(CONTRACT_JSON)
    assert (slot.cache_digest, slot.pool) == ("", "") and slot.problem


def test_a_retired_supervisor_takes_no_order_and_a_busy_one_does_not_retire(lab: FakeJudgeLab) -> None:
    supervisor = lab.pool.supervisors["node/cpu0"]
    supervisor.start(lab.endless("r0001"))
    assert not supervisor.retire()
    lab.release()
    wait_for(lab, "r0001", Done)
    assert supervisor.retire()
    with pytest.raises(PoolProblem, match="being replaced"):
        supervisor.start(lab.scoring("r0002", 1.9))
