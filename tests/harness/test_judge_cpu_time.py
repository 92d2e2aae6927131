"""CPU time cannot be hidden: the kernel counts what is never waited for, and the fallback notices that it missed it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.judge import cpu_time
from harness.judge.cpu_time import CgroupClock, OthersShare, PolledClock, TaskClock, open_cpu_clock, read_core_times
from tests.harness.judging import CANDIDATES, Rig, with_limits
from tests.waiting import wait_until

# Children that are never waited for, shorter than any interval between two looks; prints what they used in all.
DISOWNS = """
import os, signal, sys, time
sys.stdin.readline()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(40):
    if os.fork() == 0:
        while time.process_time() < 0.015: pass
        os._exit(0)
while True:
    try: os.waitpid(-1, 0)
    except ChildProcessError: break
print(flush=True)
sys.stdin.readline()
"""
LEAST_S = 40 * 0.015


class Disowner:
    """A process that hides its work in children once `work` is called."""

    def __init__(self) -> None:
        command = [sys.executable, "-S", "-c", DISOWNS]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def work(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        self.process.stdout.readline()


@pytest.fixture
def disowner() -> Iterator[Disowner]:
    started = Disowner()
    yield started
    started.process.communicate()


def allowed(kind: type[TaskClock] | type[CgroupClock], pid: int) -> TaskClock | CgroupClock:
    try:
        return kind(pid)
    except OSError as error:
        pytest.skip(f"not on this machine: {error}")


@pytest.mark.parametrize("kind", [TaskClock, CgroupClock])
def test_the_kernel_counts_children_that_are_never_waited_for(
    kind: type[TaskClock] | type[CgroupClock], disowner: Disowner
) -> None:
    clock = allowed(kind, disowner.process.pid)
    before = clock.read_s()
    disowner.work()
    assert clock.read_s() - before >= LEAST_S
    disowner.process.communicate()
    clock.close()


def test_a_group_that_is_left_is_removed(disowner: Disowner) -> None:
    clock = allowed(CgroupClock, disowner.process.pid)
    disowner.process.communicate()
    clock.close()
    assert not clock._group.exists()  # type: ignore[union-attr]


def test_polling_misses_them_and_knows_that_it_did(disowner: Disowner) -> None:
    """Ids are handed out to the whole namespace; here that is the machine's, so others may add to the number."""
    clock = PolledClock(os.getpid(), own_namespace=True)
    clock.begin()
    before = clock.read_s()
    disowner.work()
    assert clock.read_s() - before < LEAST_S + 0.5
    assert clock.hidden() >= 30


@pytest.mark.parametrize(
    ("membership", "files", "due"),
    [
        ("0::/pod\n", {"cgroup.controllers": "", "pod/cgroup.procs": ""}, "pod"),
        ("3:cpu,cpuacct:/docker/x\n1:pids:/\n", {"cpu,cpuacct/docker/x/cgroup.procs": ""}, "cpu,cpuacct/docker/x"),
    ],
    ids=["version 2", "version 1"],
)
def test_the_judges_own_group_is_found(tmp_path: Path, membership: str, files: dict[str, str], due: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_time._own_group(tmp_path, membership) == tmp_path / due


def test_both_kinds_of_group_are_read(tmp_path: Path) -> None:
    clock = CgroupClock.__new__(CgroupClock)
    clock._group = tmp_path
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    assert clock.read_s() == 1.5
    (tmp_path / "cpuacct.usage").write_text("2500000000\n")
    assert clock.read_s() == 2.5


def test_a_machine_without_either_is_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(cpu_time, "TaskClock", refuse)
    monkeypatch.setattr(cpu_time, "CgroupClock", refuse)
    assert open_cpu_clock(os.getpid(), own_namespace=False).name == "polled"


def test_a_clock_never_runs_backwards(disowner: Disowner) -> None:
    clock = open_cpu_clock(disowner.process.pid, own_namespace=False)
    readings = [clock.read_s()]
    disowner.work()
    wait_until(lambda: readings.append(clock.read_s()) or len(readings) > 50, "fifty readings")
    assert readings == sorted(readings)
    clock.close()


def test_work_before_the_start_is_charged(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.use(with_limits(rig.contract, free_startup_s=0.05))
    burn = "import time\nwhile time.process_time() < 0.8: pass\n"
    judged = rig.judge(rig.write(burn + (CANDIDATES / "bigram.py").read_text()))
    # The judge may look before the candidate is done: then its time is over while it trains.
    assert judged.result["status"] in ("invalid: over-budget", "timeout: train")
    assert judged.result["budget"]["used_s"] > 0.7


def write_stat(folder: Path, *, user: int = 0, system: int = 0, idle: int = 0, irq: int = 0, steal: int = 0) -> None:
    """Ticks of the second of two cores; the first is busy all the time, the guests' share is in the user's."""
    second = f"cpu1 {user} 0 {system} {idle} {idle} {irq} 0 {steal} {user} 0"
    (folder / "stat").write_text(f"cpu  9999 0 0 0 0 0 0 0 0 0\ncpu0 9000 0 0 0 0 0 0 0 0 0\n{second}\nintr 1\n")


def test_the_times_of_cores_are_what_the_kernel_counts(tmp_path: Path) -> None:
    write_stat(tmp_path, user=300, system=100, idle=200, irq=50, steal=150)
    second = read_core_times([1], tmp_path)
    assert (second.busy_s, second.stolen_s, second.total_s) == (4.5, 1.5, 10.0)
    both = read_core_times([0, 1], tmp_path)
    assert (both.busy_s, both.total_s) == (94.5, 100.0)
    assert read_core_times([], tmp_path).busy_s == 99.99
    here = read_core_times([])
    assert 0 < here.busy_s <= here.total_s


def test_others_have_what_the_run_does_not_use_of_its_core(tmp_path: Path) -> None:
    others = OthersShare([1], looks=2, proc=tmp_path)
    seen = []
    for busy_s, own_s in [(10, 0.0), (12, 2.0), (14, 3.0), (18, 3.0), (18, 3.0), (20, 9.0)]:
        write_stat(tmp_path, user=75 * busy_s, irq=15 * busy_s, steal=10 * busy_s, idle=1000 * busy_s)
        seen.append(others.look(own_s))
    assert seen == [0.0, 0.0, 0.25, pytest.approx(5 / 6), 1.0, 0.0]


@pytest.mark.parametrize("cpus", [(), (0, 1), (7,)])
def test_a_run_without_one_core_of_its_own_shares_none(tmp_path: Path, cpus: tuple[int, ...]) -> None:
    others = OthersShare(cpus, looks=1, proc=tmp_path)
    for busy_s in (1, 5):
        write_stat(tmp_path, user=100 * busy_s)
        assert others.look(0.0) == 0.0


@pytest.mark.parametrize("text", [None, "", "cpu1 x y z\n", "cpu1 1 2\n"])
def test_where_the_kernel_says_nothing_others_have_nothing(tmp_path: Path, text: str | None) -> None:
    others = OthersShare([1], looks=1, proc=tmp_path)
    if text is not None:
        (tmp_path / "stat").write_text(text)
    assert (others.look(0.0), others.look(1.0)) == (0.0, 0.0)
