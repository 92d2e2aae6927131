"""The head of a real cluster dies under a submit and a search, and another one begins at its address: both go on.

Every run has one result in the end, and what Ray says of it is in the lab's file, not on the screen.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.domain.run import Cancelled, Finished
from scheduler.ledger import Ledger
from tests.processes import command_of, descendants
from tests.ray.ray_head import RayHead, start_head
from tests.scheduler import test_app_processes
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.ledger_kit import broken_invariants
from tests.scheduler.test_app_processes import Lab, wait_for_line, watched_lab
from tests.scheduler.test_search_processes import IDEAS
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SAID_WITHIN_S = 15.0
CPLUSPLUS = ("StackTrace", "Check failed", "gcs_client", "WrongClusterID", "raylet", "rpc_client", "*** ")


class Cluster:
    """One address, at which heads follow each other."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        self.head: RayHead | None = start_head(2, self.cache)
        self.address = self.head.address

    def signal_gcs(self, number: signal.Signals) -> None:
        assert self.head is not None
        family = descendants(self.head.node.process.pid)
        (gcs,) = (pid for pid in family if "gcs_server" in command_of(pid).partition(" ")[0])
        os.kill(gcs, number)

    def end(self) -> None:
        if self.head is not None:
            self.head.node.end()
            self.head = None

    def start(self) -> None:
        self.end()
        self.head = start_head(2, self.cache, int(self.address.rpartition(":")[2]))


@pytest.fixture
def cluster_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("head"))
    yield made
    made.end()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    program = [sys.executable, str(Path(__file__).resolve().parent / "arsched_on_ray.py")]
    monkeypatch.setattr(test_app_processes, "PROGRAM", program)
    monkeypatch.setattr("tests.scheduler.test_app_processes.PATIENCE_S", 240.0, raising=False)
    yield from watched_lab(tmp_path)


def finish(process: subprocess.Popen[str], printed: str) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    err = printed + err
    assert not [word for word in (*CPLUSPLUS, "Traceback") if word in out + err], err
    return process.returncode, out, err


def check_each_has_one_result(lab: Lab) -> None:
    assert not broken_invariants(lab.ledger_path)
    with Ledger.open(lab.ledger_path) as ledger:
        assert not [one for one in ledger.candidates.list("t") if one.state.undecided]
        assert all(isinstance(run.state, Finished | Cancelled) for run in ledger.runs.list("t"))
    wait_until(lambda: not lab.judges())


def test_a_submit_waits_for_a_head_that_was_killed_and_reruns_nothing_that_has_a_result(
    cluster_of_its_own: Cluster, lab: Lab
) -> None:
    paths = [lab.write(f"idea-{n}", f"SCORE = {2.0 + n / 100}\nTAKES_S = 4.0\n") for n in range(4)]
    submit = lab.start("submit", *paths, "--address", cluster_of_its_own.address)
    printed = wait_for_line(submit, "result ")
    wait_until(lambda: lab.running() == 2)
    killed_at = time.monotonic()
    cluster_of_its_own.signal_gcs(signal.SIGKILL)
    printed += wait_for_line(submit, "is gone; nothing is lost")
    assert time.monotonic() - killed_at < SAID_WITHIN_S
    wait_until(lambda: not lab.judges())  # done while the head is away, or ended with their supervisors
    done = {result.parent.parent.name for result in (lab.folder / "spool").rglob("result.json")}
    cluster_of_its_own.start()
    code, out, err = finish(submit, printed)
    assert code == 0 and "answers after" in err
    assert [out.count(f"idea-{n}") for n in range(4)] == [1] * 4
    check_each_has_one_result(lab)
    with Ledger.open(lab.ledger_path) as ledger:
        runs = {run.id: run.attempts for run in ledger.runs.list("t")}
    assert max(runs.values()) <= 2
    assert {key: runs[key.partition(".")[0]] for key in done} == {key: int(key.partition(".")[2]) for key in done}


def test_a_head_that_hangs_is_said_and_what_runs_goes_on(cluster_of_its_own: Cluster, lab: Lab) -> None:
    paths = [lab.write(f"idea-{n}", f"SCORE = {2.0 + n / 100}\nTAKES_S = 4.0\n") for n in range(4)]
    submit = lab.start("submit", *paths, "--address", cluster_of_its_own.address)
    printed = wait_for_line(submit, "result ")
    stopped_at = time.monotonic()
    cluster_of_its_own.signal_gcs(signal.SIGSTOP)
    printed += wait_for_line(submit, "does not answer; nothing is lost")
    said_after_s = time.monotonic() - stopped_at
    cluster_of_its_own.signal_gcs(signal.SIGCONT)
    code, out, err = finish(submit, printed)
    assert said_after_s < SAID_WITHIN_S, said_after_s
    assert code == 0 and "answers again" in err
    assert [out.count(f"idea-{n}") for n in range(4)] == [1] * 4
    check_each_has_one_result(lab)
    with Ledger.open(lab.ledger_path) as ledger:
        assert max(run.attempts for run in ledger.runs.list("t")) == 1


def test_a_search_goes_on_under_the_next_head_at_the_same_address(cluster_of_its_own: Cluster, lab: Lab) -> None:
    address = ("--address", cluster_of_its_own.address)
    search = lab.start("search", "--runs", "16", "--claim-runs", "1", *IDEAS, *address)
    printed = wait_for_line(search, "result ")
    cluster_of_its_own.start()  # as `ray up` does: the old one ends, and another session begins
    code, out, err = finish(search, printed)
    assert code == 0 and "search 1 ended" in out, err
    assert "nothing is lost" in err
    check_each_has_one_result(lab)
    with Ledger.open(lab.ledger_path) as ledger:
        assert len(ledger.searches.list("t")) == len(ledger.claims.list("t")) == 1


def test_stop_ends_the_wait_for_a_head_at_once(cluster_of_its_own: Cluster, lab: Lab) -> None:
    paths = [lab.write("idea", "SCORE = 2.0\nTAKES_S = 2.0\n")]
    submit = lab.start("submit", *paths, "--address", cluster_of_its_own.address)
    printed = wait_for_line(submit, "result ")
    cluster_of_its_own.end()
    printed += wait_for_line(submit, "is gone; nothing is lost")
    status = lab.finish(lab.start("status"))
    assert f"yes, process {submit.pid}" in status[1]
    assert lab.finish(lab.start("stop", "--timeout", "20"))[0] == 0
    code, _, err = finish(submit, printed)
    assert code == 4 and "nothing is lost" in err
