"""A supervisor dies and a new one finds its spools; starts are atomic; the disk may refuse. No attempt is forgotten."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import DIRTY, Busy, Done, Lost, Report, carries
from scheduler.node.judge_process import Commands
from scheduler.node.machine import lay_out
from scheduler.node.spool import SpoolRoot, default_spool_root, open_spool
from scheduler.node.supervisor import SlotSupervisor
from tests.scheduler.fake_judge import CACHE_DIGEST, CONTRACT_JSON
from tests.scheduler.pool_contract import NONCE
from tests.scheduler.supervisor_pool import FAKES, LAB_ID, MACHINE, fake_order, specs
from tests.waiting import wait_until

OTHER_DRIVER = """
import sys
from pathlib import Path
from scheduler.node.supervisor import SlotSupervisor
from tests.scheduler.supervisor_pool import FAKES, fake_order, specs
supervisor = SlotSupervisor(specs()[0], Path(sys.argv[1]), FAKES)
supervisor.start(fake_order("r0001", sys.argv[2]))
sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def supervisor(root: Path) -> Iterator[SlotSupervisor]:
    made = SlotSupervisor(specs()[0], root, FAKES)
    yield made
    made.close()


def only(reports: tuple[Report, ...]) -> Report:
    [report] = reports
    return report


def start_elsewhere(root: Path, train: str) -> subprocess.Popen[bytes]:
    """A supervisor in another process; it has started the run once its judge's pid is noted."""
    other = subprocess.Popen([sys.executable, "-c", OTHER_DRIVER, str(root), train], stdin=subprocess.PIPE)
    wait_until(lambda: any(root.glob("*/r0001.1/judge.pid")))
    return other


def successor(root: Path) -> SlotSupervisor:
    """A supervisor of the same slot that finds what is there now."""
    return SlotSupervisor(specs()[0], root, FAKES)


def leave_a_result(root: Path) -> None:
    """One of r0001, whole, by a supervisor that is gone."""
    with start_elsewhere(root, "score 1.25") as other:
        wait_until(lambda: any(root.glob("*/r0001.1/out/result.json")))
        other.kill()


def test_a_result_outlives_its_supervisor_with_the_nonce_that_tells_it_from_others(root: Path) -> None:
    leave_a_result(root)
    supervisor = successor(root)
    wait_until(lambda: isinstance(only(supervisor.poll(LAB_ID)), Done))
    done = only(supervisor.poll(LAB_ID))
    assert isinstance(done, Done) and carries(done.result_text, NONCE) and "step" in done.log
    supervisor.acknowledge(LAB_ID, "r0001", 1)
    assert supervisor.poll(LAB_ID) == () == successor(root).poll(LAB_ID)


def test_half_a_result_of_a_dead_supervisors_judge_is_lost(root: Path) -> None:
    with start_elsewhere(root, "forge 1.25\npython os.truncate(out / 'result.json', 20)\nhang") as other:
        wait_until(lambda: any(path.stat().st_size == 20 for path in root.glob("*/r0001.1/out/result.json")))
        other.kill()
    supervisor = successor(root)
    wait_until(lambda: not isinstance(only(supervisor.poll(LAB_ID)), Busy))
    lost = only(supervisor.poll(LAB_ID))
    assert isinstance(lost, Lost) and "before it could report" in lost.reason


def test_a_judge_dies_with_its_supervisor_and_is_lost(root: Path) -> None:
    with start_elsewhere(root, "hang") as other:
        supervisor = successor(root)
        assert isinstance(only(supervisor.poll(LAB_ID)), Busy)
        supervisor.acknowledge(LAB_ID, "r0001", 1)
        assert isinstance(only(supervisor.poll(LAB_ID)), Busy)
        other.kill()
    wait_until(lambda: isinstance(only(supervisor.poll(LAB_ID)), Lost))


def test_a_living_judge_of_another_supervisor_is_busy_and_can_be_stopped(root: Path) -> None:
    with start_elsewhere(root, "hang") as other:
        supervisor = successor(root)
        assert isinstance(only(supervisor.poll(LAB_ID)), Busy)
        with pytest.raises(PoolProblem, match="going on"):
            supervisor.start(fake_order("r0002", "score 1.9"))
        supervisor.stop(LAB_ID, "r0001", 1)
        assert isinstance(only(supervisor.poll(LAB_ID)), Lost)
        other.kill()


def test_a_pid_that_is_not_the_judges_is_not_signalled(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file with the pid lies where a candidate may write."""
    monkeypatch.setattr("scheduler.node.judge_process.TERMINATE_GRACE_S", 0.1)
    monkeypatch.setattr("scheduler.node.judge_process.KILL_WAIT_S", 0.1)
    with start_elsewhere(root, "hang") as other, subprocess.Popen(["sleep", "1000"]) as bystander:
        (root / LAB_ID / "r0001.1" / "judge.pid").write_text(str(bystander.pid))
        with pytest.raises(PoolProblem, match="does not die"):
            successor(root).stop(LAB_ID, "r0001", 1)
        assert bystander.poll() is None
        bystander.kill()
        other.kill()


def test_death_between_the_order_and_the_judge_is_lost_with_the_reason(root: Path) -> None:
    SpoolRoot(root).create(specs()[0].slot_id, fake_order("r0001", "score 1.9"))
    lost = only(successor(root).poll(LAB_ID))
    assert isinstance(lost, Lost) and "before it could start the judge" in lost.reason


def test_what_an_earlier_supervisor_left_can_be_started_again(root: Path) -> None:
    SpoolRoot(root).create(specs()[0].slot_id, fake_order("r0001", "score 1.9"))
    supervisor = successor(root)
    assert supervisor.start(fake_order("r0001", "score 1.5")) is True
    wait_until(lambda: isinstance(only(supervisor.poll(LAB_ID)), Done))


def test_an_order_that_was_never_whole_leaves_nothing(root: Path, supervisor: SlotSupervisor) -> None:
    half = root / LAB_ID / ".r0001.1.99999"
    half.mkdir(parents=True)
    (half / "train.py").write_text("half of")
    assert supervisor.poll(LAB_ID) == ()
    supervisor.start(fake_order("r0001", "score 1.9"))
    wait_until(lambda: isinstance(only(supervisor.poll(LAB_ID)), Done))


def test_an_acknowledgement_survives_the_supervisor(root: Path, supervisor: SlotSupervisor) -> None:
    order = fake_order("r0001", "score 1.9")
    assert supervisor.start(order) is True
    wait_until(lambda: isinstance(only(supervisor.poll(LAB_ID)), Done))
    supervisor.acknowledge(LAB_ID, "r0001", 1)
    again = SlotSupervisor(specs()[0], root, FAKES)
    assert again.start(order) is False
    assert again.poll(LAB_ID) == ()


def test_an_interrupted_removal_is_finished_and_not_reported(root: Path) -> None:
    spool = SpoolRoot(root).create(specs()[0].slot_id, fake_order("r0001", "score 1.9"))
    (root / LAB_ID / "acknowledged" / "r0001.1").touch()
    assert successor(root).poll(LAB_ID) == ()
    assert not spool.directory.exists()


def test_the_first_slot_answers_for_slots_that_are_no_longer_offered(root: Path) -> None:
    both = [SlotSupervisor(spec, root, FAKES) for spec in specs(2)]
    both[1].start(fake_order("r0001", "score 1.9"))
    wait_until(lambda: isinstance(only(both[1].poll(LAB_ID)), Done))
    assert both[0].poll(LAB_ID) == ()
    both.clear()
    found_by(SlotSupervisor(specs(1)[0], root, FAKES), root)


def found_by(supervisor: SlotSupervisor, root: Path) -> None:
    """It reports the result under its own name, or the acknowledgement would not find it, and keeps nothing then."""
    done = only(supervisor.poll(LAB_ID))
    assert isinstance(done, Done) and done.slot_id == supervisor.spec.slot_id and carries(done.result_text, NONCE)
    supervisor.acknowledge(LAB_ID, "r0001", 1)
    assert supervisor.poll(LAB_ID) == () and [entry.name for entry in (root / LAB_ID).iterdir()] == ["acknowledged"]


def renamed(root: Path) -> SlotSupervisor:
    """The only slot of the same machine after Ray was started there again, maybe called otherwise for a while."""
    return SlotSupervisor(lay_out(MACHINE, "node-3fd2a0", "cpu", 1)[0], root, FAKES)


def test_a_result_is_found_by_a_node_that_is_called_otherwise_since(root: Path) -> None:
    leave_a_result(root)
    supervisor = renamed(root)
    wait_until(lambda: isinstance(only(supervisor.poll(LAB_ID)), Done))
    found_by(supervisor, root)


def test_a_run_of_a_node_that_is_called_otherwise_since_is_lost_at_once(root: Path) -> None:
    with start_elsewhere(root, "hang") as other:
        other.kill()
    supervisor = renamed(root)
    wait_until(lambda: isinstance(only(supervisor.poll(LAB_ID)), Lost))


def test_what_a_living_supervisor_of_another_name_runs_is_left_to_it(root: Path) -> None:
    with start_elsewhere(root, "hang") as other:
        assert renamed(root).poll(LAB_ID) == () and not renamed(root).busy()
        other.kill()


def refuse_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)


def test_a_full_disk_is_one_clear_problem_and_leaves_nothing(
    root: Path, supervisor: SlotSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        refuse_to_write(patch)
        with pytest.raises(PoolProblem, match="No space left on device") as caught:
            supervisor.start(fake_order("r0001", "score 1.9"))
    assert "ARSCHED_SPOOL" in caught.value.hint
    assert supervisor.poll(LAB_ID) == ()
    assert [entry.name for entry in (root / LAB_ID).iterdir()] == ["acknowledged"]
    supervisor.start(fake_order("r0001", "score 1.9"))


def test_a_nearly_full_disk_breaks_the_slot_before_a_run_is_lost_to_it(
    supervisor: SlotSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.node.supervisor.LEAST_FREE_MB", 1e12)
    assert "MB left on the disk" in supervisor.probe(CONTRACT_JSON).problem
    with pytest.raises(PoolProblem, match="MB left on the disk"):
        supervisor.start(fake_order("r0001", "score 1.9"))


def test_a_spool_that_cannot_be_made_is_a_problem_of_the_slot(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    supervisor = SlotSupervisor(specs()[0], tmp_path / "file" / "spool", FAKES)
    assert "cannot be written" in supervisor.probe(CONTRACT_JSON).problem


def test_a_judge_that_cannot_be_started_leaves_the_attempt_startable(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.node.judge_process.shutil.which", lambda name: None)
    supervisor = SlotSupervisor(specs()[0], root, Commands(("/nowhere/python",), FAKES.cache))
    with pytest.raises(PoolProblem, match="could not be started"):
        supervisor.start(fake_order("r0001", "score 1.9"))
    assert supervisor.poll(LAB_ID) == ()


def test_a_judge_started_elsewhere_breaks_the_slot_while_it_holds_the_core(
    root: Path, supervisor: SlotSupervisor
) -> None:
    (root / "locks").mkdir(parents=True, exist_ok=True)
    with (root / "locks" / "cpu-0.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert supervisor.probe(CONTRACT_JSON).problem.startswith(DIRTY)
        with pytest.raises(PoolProblem, match="is held by"):
            supervisor.start(fake_order("r0001", "score 1.9"))
    assert supervisor.probe(CONTRACT_JSON).problem == ""


def test_probe_names_the_pool_and_says_what_the_cache_lacks(supervisor: SlotSupervisor) -> None:
    slot = supervisor.probe(CONTRACT_JSON)
    assert (slot.id, slot.device, slot.boot_id, slot.cache_digest) == ("node/cpu0", "cpu", "boot-1", CACHE_DIGEST)
    assert "test processor" in slot.pool and "tiny-beefbeefbeef" in slot.pool and CACHE_DIGEST[:12] in slot.pool
    bare = supervisor.probe('{"name": "bare", "device": "cpu"}')
    assert bare.problem == "no cache for contract bare; run: arsched prepare --contract bare"
    assert (bare.pool, bare.cache_digest) == ("", "")
    assert "the harness itself fails" in supervisor.probe('{"name": "broken", "device": "cpu"}').problem


def test_names_that_would_leave_the_spool_are_refused(supervisor: SlotSupervisor) -> None:
    for lab_id in ("../elsewhere", "a/b", "", ".hidden"):
        with pytest.raises(PoolProblem, match="cannot name a folder"):
            supervisor.start(fake_order("r0001", "score 1.9", lab_id=lab_id))


def test_closing_ends_runs_of_every_lab(root: Path) -> None:
    one, two = (SlotSupervisor(spec, root, FAKES) for spec in lay_out(MACHINE, "node", "cpu", 2))
    one.start(fake_order("r0001", "hang", lab_id="lab-2"))
    two.start(fake_order("r0001", "hang"))
    one.close()
    wait_until(lambda: isinstance(only(one.poll("lab-2")), Lost))
    assert isinstance(only(two.poll(LAB_ID)), Busy)
    two.close()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"ARSCHED_SPOOL": "/a"}, "/a"),
        ({"ARSCHED_SPOOL": "~/a"}, os.path.expanduser("~/a")),
        ({"ARSCHED_SPOOL": "a"}, os.path.abspath("a")),
        ({"ARSCHED_CACHE": "/b"}, "/b/spool"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/arsched/spool"),
    ],
)
def test_where_spools_are(environ: dict[str, str], expected: str) -> None:
    assert default_spool_root(environ) == Path(expected)


def test_a_supervisor_killed_at_any_point_of_a_start_leaves_a_run_that_is_whole_or_absent(root: Path) -> None:
    """Kill after growing delays; every spool found afterwards has its whole order, and no judge is left."""
    for number in range(9):
        other = subprocess.Popen([sys.executable, "-c", OTHER_DRIVER, str(root), "hang"], stdin=subprocess.PIPE)
        waits = (lambda: (root / LAB_ID).exists(), lambda: any(root.glob("*/r0001.1")), lambda: True)
        wait_until(waits[number % 3])
        other.send_signal(signal.SIGKILL)
        other.communicate()
        supervisor = successor(root)
        wait_until(
            lambda supervisor=supervisor: not any(isinstance(report, Busy) for report in supervisor.poll(LAB_ID))
        )
        for report in supervisor.poll(LAB_ID):
            spool = open_spool(SpoolRoot(root).place(LAB_ID, report.run_id, report.attempt))
            assert spool is not None and (spool.directory / "train.py").read_text() == "hang"
            SpoolRoot(root).discard(spool.directory)
