"""The supervisor around the real judge and a tiny contract: scores come through, what a candidate starts dies."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest

from scheduler.domain.run import Failed, Infra, Scored, parse_result
from scheduler.domain.slot import Busy, Done, Lost, RunOrder
from scheduler.node.judge_process import Commands, is_locked
from scheduler.node.machine import lay_out
from scheduler.node.supervisor import SlotSupervisor
from tests.harness.judging import CANDIDATES, HOSTILE, Rig
from tests.harness.output_attacks import ON_NAMES, ON_THE_FOLDER, write_forger
from tests.scheduler.pool_contract import NONCE
from tests.scheduler.supervisor_pool import LAB_ID, MACHINE
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


class RealSlot:
    """One CPU slot whose judge is the real one, on the rig's cache."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig, self.root = rig, folder / "spool"
        [spec] = lay_out(MACHINE, "node", "cpu", 1)
        self.supervisor = SlotSupervisor(spec, self.root, environ=rig.environment)
        self.slot = self.supervisor.probe(rig.contract.to_json())
        self.sandbox = "full"

    def order(self, train: Path, run_id: str = "r0001", attempt: int = 1) -> RunOrder:
        data = train.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        contract_json, cache_digest = self.rig.contract.to_json(), self.slot.cache_digest
        return RunOrder(
            LAB_ID, run_id, attempt, data, sha256, contract_json, cache_digest, 5, NONCE, sandbox=self.sandbox
        )

    def finish(self, train: Path, attempt: int = 1) -> Done:
        self.supervisor.start(self.order(train, attempt=attempt))
        wait_until(lambda: not isinstance(self.supervisor.poll(LAB_ID)[0], Busy), timeout_s=120.0)
        [report] = self.supervisor.poll(LAB_ID)
        assert isinstance(report, Done), report
        return report

    def start_and_await(self, train: Path, sign: str) -> None:
        """Start a candidate and wait for that text in its log."""
        self.supervisor.start(self.order(train))
        log = self.root / LAB_ID / "r0001.1" / "out" / "run.log"
        wait_until(lambda: log.exists() and sign in log.read_text())


@pytest.fixture
def unconfined(real: RealSlot) -> RealSlot:
    """Without the sandbox that keeps candidates from ever reaching what the judge and the supervisor guard."""
    real.sandbox = "off"
    return real


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealSlot]:
    rig = Rig(tmp_path)
    made = RealSlot(rig, tmp_path)
    yield made
    made.supervisor.close()
    try:
        wait_until(lambda: not rig.survivors(), timeout_s=10.0)
    finally:
        for pid in rig.survivors():
            os.kill(pid, signal.SIGKILL)


def test_an_honest_candidate_gets_its_score_with_the_orders_digests_and_seed(real: RealSlot) -> None:
    assert real.slot.problem == ""
    train = CANDIDATES / "bigram.py"
    result = parse_result(real.finish(train).result_text)
    assert isinstance(result.verdict, Scored)
    assert result.measured.cache_digest == real.slot.cache_digest != ""
    assert result.measured.contract_digest == real.rig.contract.digest
    assert result.measured.train_sha256 == hashlib.sha256(train.read_bytes()).hexdigest()
    assert result.measured.seed == 5


def test_a_printed_score_is_no_score(real: RealSlot) -> None:
    assert isinstance(parse_result(real.finish(HOSTILE / "fake_print.py").result_text).verdict, Failed)


@pytest.mark.parametrize(("train", "sign"), [("daemon.py", "daemon"), ("hang_in_training.py", "")])
def test_when_stop_returns_nothing_is_left(real: RealSlot, train: str, sign: str) -> None:
    real.start_and_await(HOSTILE / train, sign)
    assert len(real.rig.survivors()) >= 2
    real.supervisor.stop(LAB_ID, "r0001", 1)
    assert real.rig.survivors() == []
    assert not is_locked(real.root / "locks" / "cpu-0.lock")
    assert not isinstance(real.supervisor.poll(LAB_ID)[0], Busy)


def test_a_stopped_run_is_the_labs_doing_not_the_candidates(real: RealSlot) -> None:
    real.start_and_await(HOSTILE / "hang_in_training.py", "")
    real.supervisor.stop(LAB_ID, "r0001", 1)
    [report] = real.supervisor.poll(LAB_ID)
    assert isinstance(report, Lost) or isinstance(parse_result(report.result_text).verdict, Infra)


def test_a_judge_killed_from_outside_takes_the_daemon_along(real: RealSlot) -> None:
    real.start_and_await(HOSTILE / "daemon.py", "daemon")
    os.kill(int((real.root / LAB_ID / "r0001.1" / "judge.pid").read_text()), signal.SIGKILL)
    wait_until(lambda: isinstance(real.supervisor.poll(LAB_ID)[0], Lost))
    wait_until(lambda: not real.rig.survivors(), timeout_s=10.0)


def test_a_killed_supervisor_takes_judge_candidate_and_daemon_along(real: RealSlot, tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from tests.harness.judging import Rig
from tests.scheduler.test_node_real_judge import RealSlot
folder = Path(sys.argv[1])
real = RealSlot(Rig(folder), folder)
real.supervisor.start(real.order(Path(sys.argv[2])))
sys.stdin.read()
"""
    folder = tmp_path / "other"
    folder.mkdir()
    command = [sys.executable, "-c", program, str(folder), str(HOSTILE / "daemon.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        log = folder / "spool" / LAB_ID / "r0001.1" / "out" / "run.log"
        wait_until(lambda: log.exists() and "daemon" in log.read_text())
        other.kill()
    wait_until(lambda: not real.rig.survivors(), timeout_s=10.0)


def test_another_cache_than_ordered_is_the_labs_fault(real: RealSlot) -> None:
    real.supervisor.start(replace(real.order(CANDIDATES / "bigram.py"), cache_digest="0" * 64))
    wait_until(lambda: isinstance(real.supervisor.poll(LAB_ID)[0], Done), timeout_s=60.0)
    [report] = real.supervisor.poll(LAB_ID)
    assert isinstance(report, Done) and isinstance(parse_result(report.result_text).verdict, Infra)


def test_compile_caches_of_the_baseline_are_there_for_candidates_which_leave_none_themselves(real: RealSlot) -> None:
    folder = 'import os\nfrom pathlib import Path\nfolder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])\n'
    scored = (CANDIDATES / "bigram.py").read_text()
    candidate = real.rig.write(f"{folder}folder.mkdir(exist_ok=True)\n(folder / 'c').touch()\n{scored}")
    baseline = real.rig.write(f"{folder}folder.mkdir()\n(folder / 'b').touch()\n{scored}")
    seeds, started_with = real.root / ".compiled", []
    for run_id, train in (("r0001", candidate), ("r0002", baseline), ("r0003", candidate)):
        assert not seeds.exists() or run_id == "r0003"
        order = replace(real.order(train, run_id), compile_key="k1", may_keep_caches=train == baseline)
        real.supervisor.start(order)
        wait_until(lambda: isinstance(real.supervisor.poll(LAB_ID)[-1], Done), timeout_s=60.0)
        *_, done = real.supervisor.poll(LAB_ID)
        assert isinstance(done, Done)
        started_with.append(parse_result(done.result_text).measured.compile_cache)
    assert started_with == ["cold", "cold", "seeded"]
    assert [path.name for path in (seeds / "k1" / "inductor").iterdir()] == ["b"]


def test_a_contract_without_a_cache_here_is_a_problem_that_says_what_to_do(real: RealSlot) -> None:
    slot = real.supervisor.probe(replace(real.rig.contract, vocab_size=301).to_json())
    assert "arsched prepare" in slot.problem and slot.cache_digest == ""


ATTACKS = ON_NAMES | ON_THE_FOLDER


@pytest.mark.parametrize(
    ("attack", "status"),
    [
        ("a forged file and folders at fixed temporary names", "no-eval"),
        ("a folder at each name", "no-eval"),
        ("a FIFO at each name and at fixed temporary names", "no-eval"),
        ("moved away with a forged twin in its place", "invalid: output"),
        ("removed", "invalid: output"),
    ],
)
def test_a_candidate_that_forges_its_result_is_charged(
    unconfined: RealSlot, tmp_path: Path, attack: str, status: str
) -> None:
    done = unconfined.finish(write_forger(tmp_path / "train.py", ATTACKS[attack]))
    assert parse_result(done.result_text).verdict == Failed(status, ANY)


def test_a_forged_twin_of_the_whole_spool_is_no_result(unconfined: RealSlot, tmp_path: Path) -> None:
    attack = "OUT.parent.rename(OUT.parent.with_name('away'))\nOUT.parent.mkdir()\nforge()"
    done = unconfined.finish(write_forger(tmp_path / "train.py", attack))
    assert parse_result(done.result_text).verdict == Failed("invalid: output", ANY)


def test_a_result_next_to_a_killed_judge_is_no_result(real: RealSlot, tmp_path: Path) -> None:
    """Where namespaces are refused a candidate can kill its judge; here the test does that."""
    real.sandbox = "off"
    commands = Commands((*Commands().judge, "--containment", "subreaper"))
    real.supervisor = SlotSupervisor(real.supervisor.spec, real.root, commands, environ=real.rig.environment)
    real.start_and_await(write_forger(tmp_path / "train.py", "forge()\ntime.sleep(3600)"), "")
    wait_until((real.root / LAB_ID / "r0001.1" / "out" / "result.json").exists)
    os.kill(int((real.root / LAB_ID / "r0001.1" / "judge.pid").read_text()), signal.SIGKILL)
    wait_until(lambda: not isinstance(real.supervisor.poll(LAB_ID)[0], Busy))
    [lost] = real.supervisor.poll(LAB_ID)
    assert isinstance(lost, Lost) and "did not vouch" in lost.reason


def test_a_spool_planted_for_the_next_run_is_run_for_real(unconfined: RealSlot, tmp_path: Path) -> None:
    real = unconfined
    attack = """
twin = OUT.parent.with_name("r0002.1")
(twin / "out").mkdir(parents=True)
order = (OUT.parent / "order.json").read_text().replace("r0001", "r0002")
(twin / "order.json").write_text(order)
(twin / "judge.pid").write_text("1")
forge(twin / "out")
"""
    real.finish(write_forger(tmp_path / "train.py", attack))
    real.supervisor.acknowledge(LAB_ID, "r0001", 1)
    assert (real.root / LAB_ID / "r0002.1" / "out" / "result.json").exists()
    assert real.supervisor.poll(LAB_ID) == ()
    real.supervisor.start(real.order(CANDIDATES / "bigram.py", "r0002"))
    wait_until(lambda: isinstance(real.supervisor.poll(LAB_ID)[0], Done), timeout_s=60.0)
    [done] = real.supervisor.poll(LAB_ID)
    assert isinstance(done, Done)
    verdict = parse_result(done.result_text).verdict
    assert isinstance(verdict, Scored) and verdict.val_bpb > 1.0


def test_a_killed_judges_scratch_goes_with_its_acknowledgement(real: RealSlot) -> None:
    real.start_and_await(HOSTILE / "daemon.py", "daemon")
    spool = real.root / LAB_ID / "r0001.1"
    assert list(spool.glob(".out.scratch-*"))
    os.kill(int((spool / "judge.pid").read_text()), signal.SIGKILL)
    wait_until(lambda: isinstance(real.supervisor.poll(LAB_ID)[0], Lost))
    real.supervisor.acknowledge(LAB_ID, "r0001", 1)
    assert [path.name for path in spool.parent.iterdir()] == ["acknowledged"]
