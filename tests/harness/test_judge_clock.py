"""Clocks and process trees: each process counts once, time never runs backwards, limits fall where they should."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from harness import processes
from harness.contract import Budget
from harness.core_probe import FASTEST, FOLLOWS, SHARING, Reading
from harness.judge import clock as clock_module
from harness.judge.clock import BudgetClock, CoreSpeed, PhaseTimeline, SpeedRange
from harness.judge.cpu_time import OthersShare, PolledClock
from harness.judge.evaluation import Transports
from harness.judge.launch import CandidateProcess
from harness.judge.protocol_session import ProtocolSession
from harness.processes import TreeClock, children, cpu_clock_s, descendants, reaped_children_s
from tests.waiting import wait_until

FAMILY = """
import os, sys
read_end, write_end = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
    os.close(write_end)
    os.read(0, 1)
    os._exit(0)
print(flush=True)
sys.stdin.read(1)
"""


class FakeTree(PolledClock):
    """A tree whose CPU time the test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def read_s(self) -> float:
        return self.seconds


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the wall clock the judge reads."""
    state = {"now": 1000.0}
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: state["now"])
    return lambda seconds: state.update(now=1000.0 + seconds)


CPU = Budget(seconds=20, clock="cpu", grace_s=1, wall_limit_s=240)
WALL = Budget(seconds=20, clock="wall", grace_s=1, wall_limit_s=240)


def test_nothing_is_used_before_the_start(now: Callable[[float], None]) -> None:
    clock = BudgetClock(WALL, FakeTree())
    now(500)
    assert (clock.begun, clock.used_s(), clock.wall_s(), clock.overrun()) == (False, 0.0, 0.0, None)


def test_a_cpu_clock_counts_from_the_start_and_ignores_the_wall(now: Callable[[float], None]) -> None:
    tree = FakeTree()
    clock = BudgetClock(CPU, tree)
    assert clock.begin() == 0.0
    tree.seconds = 120.0
    now(200)
    assert (clock.used_s(), clock.allows(20.0), clock.overrun()) == (20.0, True, None)
    tree.seconds = 120.9
    assert not clock.allows(clock.used_s())
    assert clock.overrun() is None, "within the grace a run is late, not lost"
    tree.seconds = 121.1
    assert "did not stop" in str(clock.overrun())


def test_startup_is_free_up_to_a_limit_and_then_charged(now: Callable[[float], None]) -> None:
    clock = BudgetClock(CPU, FakeTree())
    assert clock.begin(free_startup_s=94.0) == clock.used_s() == 6.0
    clock = BudgetClock(CPU, FakeTree())
    assert clock.begin(free_startup_s=101.0) == clock.used_s() == 0.0
    clock = BudgetClock(WALL, FakeTree())
    assert clock.begin(free_startup_s=1.0) == clock.used_s() == 0.0


def test_a_cpu_clock_has_a_wall_limit(now: Callable[[float], None]) -> None:
    clock = BudgetClock(CPU, FakeTree())
    clock.begin()
    now(239)
    assert clock.overrun() is None
    now(241)
    assert "240 s of wall time" in str(clock.overrun())


def test_a_wall_clock_ignores_cpu_time(now: Callable[[float], None]) -> None:
    tree = FakeTree()
    clock = BudgetClock(WALL, tree)
    assert clock.begin() == 0.0
    tree.seconds = 1e6
    now(20)
    assert (clock.used_s(), clock.allows(20.0), clock.overrun()) == (20.0, True, None)
    now(20.5)
    assert not clock.allows(clock.used_s())


def test_phases_add_up_to_the_time_between_spawn_and_end(now: Callable[[float], None]) -> None:
    timeline = PhaseTimeline(entered_at=1000.0, spawned_at=1000.0)
    for at, phase in ((2, "context"), (3, "compile"), (7, "train")):
        now(at)
        timeline.enter(phase)  # type: ignore[arg-type]
    now(20)
    timeline.close()
    assert timeline.spent_s == {"import": 2.0, "context": 1.0, "compile": 4.0, "train": 13.0}
    assert timeline.since_spawn_s() == 20.0


def test_the_phases_begin_with_the_launch_not_with_the_listening() -> None:
    """On a GPU contract the judge imports torch in between, for seconds."""
    judge, child = socket.socketpair()
    with judge, child:
        process = SimpleNamespace(pid=os.getpid())
        candidate = CandidateProcess(process, -1, judge, own_namespace=False)  # type: ignore[arg-type]
        os.close(candidate.pidfd)
        args = SimpleNamespace(contract=None, expect_attention=None, seed=1)
        clock = BudgetClock(WALL, FakeTree())
        session = ProtocolSession(args, None, candidate, clock, Transports(1, ()))  # type: ignore[arg-type]
    assert session.timeline is candidate.timeline


def burn(seconds: float) -> list[str]:
    return [sys.executable, "-S", "-c", f"import time\nwhile time.process_time() < {seconds}: pass"]


def test_a_process_clock_is_the_processes_own() -> None:
    before = time.process_time()
    assert before <= cpu_clock_s(os.getpid()) <= time.process_time()


def test_a_tree_counts_a_child_while_it_lives_and_after() -> None:
    clock = TreeClock(os.getpid(), include_root=True)
    before = clock.read_s()
    child = subprocess.Popen(burn(0.3))
    wait_until(lambda: clock.read_s() - before > 0.2, "the living child to be counted")
    child.wait()
    # Reaped children are booked in ticks: two roundings of 10 ms.
    assert clock.read_s() - before >= 0.28
    assert reaped_children_s(os.getpid()) >= 0.28


def test_a_tree_clock_never_runs_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that vanishes unbooked (no process waited for it) keeps the time it was seen to use."""
    readings = {1: 5.0, 2: 3.0}
    monkeypatch.setattr(processes, "tree", lambda root: iter(readings))
    monkeypatch.setattr(processes, "_process_s", lambda pid: readings[pid])
    clock = TreeClock(1, include_root=True)
    assert clock.read_s() == 8.0
    del readings[2]
    assert clock.read_s() == 8.0
    readings[1] = 6.0
    assert clock.read_s() == 9.0
    clock.add_reaped(2.0)
    assert clock.read_s() == 11.0


def test_descendants_are_found_across_sessions() -> None:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as family:
        assert family.stdout is not None
        family.stdout.readline()
        wait_until(lambda: len(descendants(family.pid)) == 2, "child and grandchild")
        child = children(family.pid)
        assert len(child) == 1
        assert children(child[0]) == list(descendants(family.pid).keys() - set(child))
        assert processes._sightings()[family.pid][0] == os.getpid()
        assert {family.pid, *descendants(family.pid)} <= set(processes.tree(os.getpid()))
        assert family.stdin is not None
        family.stdin.close()


def test_without_lists_of_children_they_are_found_by_their_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel may be built without /proc/PID/task/TID/children."""
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as child:
        real_open, real_exists = open, os.path.exists

        def open_without(path, *rest):
            if str(path).endswith("/children"):
                raise FileNotFoundError(path)
            return real_open(path, *rest)

        monkeypatch.setattr("builtins.open", open_without)
        monkeypatch.setattr(os.path, "exists", lambda path: not str(path).endswith("/children") and real_exists(path))
        assert child.pid in children(os.getpid())
        monkeypatch.undo()
        assert child.stdin is not None
        child.stdin.close()


def test_a_pid_that_has_passed_to_another_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        started = descendants(os.getpid())[stranger.pid]
        seen = iter([{stranger.pid: started - 1}, {}, {stranger.pid: started}, {}])
        monkeypatch.setattr(processes, "descendants", lambda root: next(seen) if root == os.getpid() else {})
        monkeypatch.setattr(processes, "tree", lambda root: iter([root]))  # the quick look would see the true one
        assert processes._kill_tree(time.monotonic() + 10)
        state = processes._stat_fields(stranger.pid)[0]
        assert state in "RSD" and stranger.poll() is None
        assert processes._kill_tree(time.monotonic() + 10)
        assert stranger.wait(10) == -signal.SIGKILL


def test_a_name_full_of_parentheses_does_not_confuse_the_parser() -> None:
    rename = "import ctypes; ctypes.CDLL(None).prctl(15, b') R 1 (', 0, 0, 0); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as odd:
        assert odd.stdout is not None
        odd.stdout.readline()
        assert processes._sightings()[odd.pid][0] == os.getpid()
        odd.communicate(b"\n")


WORK = Budget(seconds=20, clock="work", grace_s=1, wall_limit_s=240)


class FakeProbe:
    """A core whose speed the test sets; the calibrated one reads 1.0."""

    crowded = False  # another process runs in the middle

    def __init__(self, tree: FakeTree) -> None:
        self.tree = tree
        self.speed, self.looks = 1.0, 0
        self.cut_in: Callable[[int], bool] = lambda look: False  # whether the candidate runs in the middle

    def __call__(self) -> Reading:
        self.looks += 1
        cut_in = self.cut_in(self.looks)
        self.tree.seconds += 0.001 * cut_in
        reading_s = max(0.0, 1 + (1 / self.speed - 1) / FOLLOWS)
        return Reading((10.0 if cut_in else 1.0) * reading_s, cut_in or self.crowded)


def work_clock(tree: FakeTree, probe: FakeProbe) -> BudgetClock:
    return BudgetClock(WORK, tree, CoreSpeed(probe, 1.0))


def test_a_work_clock_counts_cpu_seconds_at_the_speed_of_the_core(now: Callable[[float], None]) -> None:
    tree = FakeTree()
    probe = FakeProbe(tree)
    clock = work_clock(tree, probe)
    assert clock.begin(free_startup_s=97.0) == clock.used_s() == clock.cpu_s() == 3.0
    tree.seconds += 4.0
    assert (clock.used_s(), clock.cpu_s()) == (7.0, 7.0)
    probe.speed = 0.5
    for _ in range(5):  # until the mean of the readings is the new speed
        tree.seconds += 1.0
        done = clock.look()
        assert done is not None and done.used_s == clock.used_s()
    before_s = clock.used_s()
    tree.seconds += 2.0
    assert clock.used_s() == pytest.approx(before_s + 1.0)
    assert done.used_at(clock.done().cpu_s) == pytest.approx(clock.used_s()), "both sides count alike"
    assert clock.cpu_s() == 14.0
    now(241)
    assert "240 s of wall time" in str(clock.overrun())


def test_a_candidate_that_computes_nothing_is_not_measured() -> None:
    tree = FakeTree()
    probe = FakeProbe(tree)
    clock = work_clock(tree, probe)
    assert clock.look() is None and not probe.looks, "before the start"
    clock.begin()
    looks = probe.looks
    tree.seconds += 0.1
    assert clock.look() is None and probe.looks == looks
    tree.seconds += 0.1
    assert clock.look() is not None and probe.looks == looks + 1


@pytest.mark.parametrize(("speed", "rate"), [(1e-6, 0.2), (0.7, 0.7), (1e6, FASTEST)])
def test_no_speed_is_beyond_what_is_possible(speed: float, rate: float) -> None:
    tree = FakeTree()
    probe = FakeProbe(tree)
    probe.speed = speed
    clock = work_clock(tree, probe)
    clock.begin()
    tree.seconds += 1.0
    assert clock.used_s() == pytest.approx(rate)


def test_a_reading_that_the_candidate_cut_in_two_is_taken_again() -> None:
    tree = FakeTree()
    probe = FakeProbe(tree)
    probe.cut_in = lambda look: look % 3 != 0
    clock = work_clock(tree, probe)
    clock.begin()
    assert (probe.looks, clock.speeds()) == (15, SpeedRange(1.0, 1.0, 1.0))


@pytest.mark.parametrize(("speed", "rate"), [(1.0, 1.0), (0.5, 1.0), (20.0, FASTEST)])
def test_a_candidate_that_always_cuts_in_is_never_slower_than_calibrated(speed: float, rate: float) -> None:
    tree = FakeTree()
    probe = FakeProbe(tree)
    probe.speed, probe.cut_in = speed, lambda look: True
    clock = work_clock(tree, probe)
    clock.begin()
    before_s = clock.used_s()
    tree.seconds += 1.0
    assert clock.used_s() - before_s == pytest.approx(rate)


class FakeShare(OthersShare):
    """What others have of the core, and what it was asked with."""

    def __init__(self, share: float) -> None:
        super().__init__((), looks=1)
        self.share, self.own_s = share, list[float]()

    def look(self, own_s: float) -> float:
        self.own_s.append(own_s)
        return self.share


def test_a_core_that_others_have_too_is_slower_by_their_share(now: Callable[[float], None]) -> None:
    tree, others = FakeTree(), FakeShare(0.5)
    clock = BudgetClock(WORK, tree, CoreSpeed(FakeProbe(tree), 1.0, others))
    tree.seconds += 2.0
    clock.begin()
    tree.seconds += 3.0
    assert clock.used_s() == pytest.approx(3.0 / (1 + SHARING / 2))
    before_s, at_begin_s = others.own_s
    assert 102.0 <= at_begin_s - before_s < 103.0, "the judge's own seconds and the candidate's, from before its birth"


def test_a_neighbour_that_cuts_in_counts() -> None:
    tree = FakeTree()
    probe = FakeProbe(tree)
    probe.speed, probe.crowded = 0.5, True
    clock = work_clock(tree, probe)
    clock.begin()
    tree.seconds += 1.0
    assert (clock.used_s(), probe.looks) == (0.5, 5)


@pytest.mark.parametrize("seed", range(5))
def test_a_work_clock_never_runs_backwards(seed: int) -> None:
    draw = random.Random(seed)
    tree = FakeTree()
    probe = FakeProbe(tree)
    clock = work_clock(tree, probe)
    used_s = clock.begin()
    for _ in range(500):
        tree.seconds += draw.choice((0.0, 0.01, 0.3))
        probe.speed = draw.choice((1e-3, 0.5, 1.0, 50.0))
        if draw.random() < 0.5:
            clock.look()
        assert clock.used_s() >= used_s
        used_s = clock.used_s()
