"""A judge that something kills, at whatever moment: its attempt is lost from outside, and nothing of it goes on.

What becomes of such a run: test_app_attempts. The signals a judge answers by itself: tests/harness/test_judge_endings.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.domain.run import parse_result
from scheduler.domain.slot import Done, Lost
from scheduler.node.judge_process import Commands, is_locked, sent_signal
from scheduler.node.supervisor import SlotSupervisor
from tests.harness.judging import CANDIDATES, HOSTILE, Rig
from tests.processes import is_running
from tests.scheduler.supervisor_pool import FAKES, LAB_ID, fake_order, specs
from tests.scheduler.test_node_real_judge import RealSlot
from tests.waiting import wait_until

SENT = (signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGXCPU, signal.SIGRTMIN)
FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
# What a judge has done when the signal comes, in the words of the fake one.
MOMENTS = {
    "before the candidate": "",
    "in training": "wait {gate}",
    "while it writes its result": "python (out / '.result.json').write_text('{{')",
    "between its result and the word for it": "forge 1.9",
    "after its word": "score 1.9",
}


@pytest.fixture
def slot(tmp_path: Path) -> Iterator[SlotSupervisor]:
    made = SlotSupervisor(specs(1)[0], tmp_path / "spool", FAKES)
    yield made
    made.close()


def end_of(slot: SlotSupervisor, train_py: str) -> Lost:
    slot.start(fake_order("r0001", train_py))
    wait_until(lambda: isinstance(slot.poll(LAB_ID)[0], Lost | Done))
    (report,) = slot.poll(LAB_ID)
    assert isinstance(report, Lost), report
    return report


def kill_at(moment: str, number: int, gate: Path) -> str:
    gate.touch()
    dies = f"os.kill(os.getpid(), {number}); __import__('signal').pause()"  # another thread may be the one to take it
    return f"{MOMENTS[moment].format(gate=gate)}\npython {dies}\n".lstrip()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_is_known_as_one_at_any_moment(slot: SlotSupervisor, tmp_path: Path, moment: str) -> None:
    lost = end_of(slot, kill_at(moment, signal.SIGKILL, tmp_path / "gate"))
    assert lost.from_outside and "ended by signal 9 from outside" in lost.reason and "want of memory" in lost.reason
    assert not is_locked(tmp_path / "spool" / "locks" / "cpu-0.lock")


@pytest.mark.parametrize("number", SENT)
def test_every_signal_that_something_must_send_counts(slot: SlotSupervisor, tmp_path: Path, number: int) -> None:
    lost = end_of(slot, kill_at("in training", number, tmp_path / "gate"))
    assert lost.from_outside and f"by signal {int(number)} from outside" in lost.reason


@pytest.mark.parametrize("number", FAULTS)
def test_a_fault_of_the_judge_is_none(slot: SlotSupervisor, tmp_path: Path, number: int) -> None:
    """What a candidate sends to its judge may bring one about."""
    assert not end_of(slot, kill_at("in training", number, tmp_path / "gate")).from_outside


@pytest.mark.parametrize("train_py", ["die of old age", "exit 0", "forge 0.1", "pipe cafe", "score 1.9\nexit 1"])
def test_an_end_of_its_own_is_none(slot: SlotSupervisor, train_py: str) -> None:
    assert not end_of(slot, train_py).from_outside


def test_one_that_its_supervisor_ends_because_it_is_overdue_is_none(tmp_path: Path) -> None:
    times = iter((0.0, *[10.0**9] * 99))
    slot = SlotSupervisor(specs(1)[0], tmp_path / "spool", FAKES, clock=lambda: next(times))
    lost = end_of(slot, "hang")
    assert "was ended" in lost.reason and not lost.from_outside


@pytest.mark.parametrize(
    ("exit_code", "number"),
    [(None, 0), (0, 0), (1, 0), (3, 0), (127, 0), (128, 0), (-9, 9), (137, 9), (-11, 0), (139, 0), (143, 15), (255, 0)],
)
def test_the_signal_is_read_from_either_kind_of_exit_code(exit_code: int | None, number: int) -> None:
    assert sent_signal(exit_code) == number


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealSlot]:
    made = RealSlot(Rig(tmp_path), tmp_path)
    yield made
    made.supervisor.close()
    wait_until(lambda: not made.rig.survivors(), timeout_s=20.0)


def inner_of(outer: int) -> int:
    """The process in the judge's PID namespace, and its PID 1."""
    children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
    (inner,) = (int(pid) for pid in children if "NSpid" in (status := _status(pid)) and status.split()[-1] == "1")
    return inner


def _status(pid: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith("NSpid"))


REAL_MOMENTS = {
    "in training": (HOSTILE / "hang_in_training.py", "train"),
    "at its evaluation": (HOSTILE / "hang_in_evaluation.py", "evaluat"),
}


@pytest.mark.slow
@pytest.mark.parametrize("which", ["outer", "inner"])
@pytest.mark.parametrize("moment", REAL_MOMENTS)
def test_a_real_judge_whose_outer_or_inner_process_is_killed(real: RealSlot, moment: str, which: str) -> None:
    train, phase = REAL_MOMENTS[moment]
    real.start_and_await(train, "")
    progress = real.root / LAB_ID / "r0001.1" / "out" / "progress.json"
    wait_until(lambda: progress.exists() and phase in progress.read_text(), timeout_s=60.0)
    outer = int((real.root / LAB_ID / "r0001.1" / "judge.pid").read_text())
    victim = outer if which == "outer" else inner_of(outer)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: isinstance(real.supervisor.poll(LAB_ID)[0], Lost))
    (lost,) = real.supervisor.poll(LAB_ID)
    assert isinstance(lost, Lost) and lost.from_outside and "by signal 9 from outside" in lost.reason
    assert not is_running(outer) and not is_locked(real.root / "locks" / "cpu-0.lock")
    real.supervisor.acknowledge(LAB_ID, "r0001", 1)
    done = real.finish(CANDIDATES / "bigram.py", attempt=2)
    assert '"ok"' in done.result_text


@pytest.mark.slow
@pytest.mark.parametrize(("level", "containment"), [("full", "auto"), ("weak", "subreaper")])
def test_a_candidate_in_a_sandbox_cannot_kill_its_judge(
    real: RealSlot, tmp_path: Path, level: str, containment: str
) -> None:
    """Only its parent is tried: where a sandbox failed, nothing else would be hit."""
    train = tmp_path / "train.py"
    train.write_text("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nprint('not refused')\n")
    real.sandbox = level
    judge = (*Commands().judge, "--containment", containment)
    real.supervisor = SlotSupervisor(real.supervisor.spec, real.root, Commands(judge), environ=real.rig.environment)
    done = real.finish(train)
    assert parse_result(done.result_text).verdict.status == "crash" and "PermissionError" in done.log
