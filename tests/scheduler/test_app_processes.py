"""The real command in real processes: killed anywhere, started several times at once, interrupted. Nothing is lost,
nothing is recorded twice, no process is left."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.domain.run import Finished
from scheduler.ledger import Ledger
from tests.scheduler.fake_judge import CACHE_DIGEST, CONTRACT_JSON
from tests.scheduler.git_kit import git, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import make_space
from tests.scheduler.ledger_kit import broken_invariants, make_lab
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, str(Path(__file__).resolve().parent / "arsched_without_ray.py")]


class Lab:
    """A repository with candidates in it, and the command as a person would use it there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        lab = replace(make_lab(), contract_json=CONTRACT_JSON, cache_digest=CACHE_DIGEST, contract_digest="beef" * 16)
        space = make_space(folder, time.time, lab)
        space.ledger.close()
        self.root, self.ledger_path = space.repo.root, space.paths.ledger
        self.connections = folder / "connections"
        self.environ = {**os.environ, "PYTHONPATH": str(ROOT), "ARSCHED_SPOOL": str(folder / "spool"),
                        "ARSCHED_TEST_CONNECTIONS": str(self.connections)}  # fmt: skip
        self.started: list[subprocess.Popen[str]] = []

    def write(self, name: str, source: str) -> str:
        path = self.root / "candidates" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        return str(path.relative_to(self.root))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*PROGRAM, *arguments], cwd=self.root, env=self.environ, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err, err
        return process.returncode, out, err

    def events(self) -> int:
        with closing(sqlite3.connect(self.ledger_path)) as connection:
            return int(connection.execute("SELECT count(*) FROM event").fetchone()[0])

    def running(self) -> int:
        with closing(sqlite3.connect(self.ledger_path)) as connection:
            return int(connection.execute("SELECT count(*) FROM run WHERE state = 'running'").fetchone()[0])

    def attempts(self, candidate_id: str) -> int:
        with closing(sqlite3.connect(self.ledger_path)) as connection:
            query = "SELECT max(attempts) FROM run WHERE candidate = ?"
            return int(connection.execute(query, (int(candidate_id[1:]),)).fetchone()[0] or 0)

    def judges(self) -> list[str]:
        """Processes that still work on a spool of this lab."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = entry.read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(self.folder / "spool") in command:
                found.append(command)
        return found

    def check_everything_ended_once(self, names: set[str]) -> None:
        assert not broken_invariants(self.ledger_path)
        with Ledger.open(self.ledger_path) as ledger:
            candidates = ledger.candidates.list("t")
            assert {candidate.name for candidate in candidates} == names | {"baseline"}
            assert not [candidate for candidate in candidates if candidate.state.undecided]
            assert all(isinstance(run.state, Finished) for run in ledger.runs.list("t"))
        wait_until(lambda: not self.judges())


def watched_lab(folder: Path) -> Iterator[Lab]:
    """A lab; whatever was started in it is dead afterwards."""
    made = Lab(folder)
    yield made
    for process in made.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    wait_until(lambda: not made.judges())


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    yield from watched_lab(tmp_path)


def test_a_submit_without_paths_watches_whoever_runs_the_queue(lab: Lab) -> None:
    first = lab.start("submit", *some_candidates(lab))
    wait_for_line(first, "result ")
    code, _, said = lab.finish(lab.start("submit"))
    assert code == 0 and "watching it" in said
    with Ledger.open(lab.ledger_path) as ledger:
        assert not any(one.state.undecided for one in ledger.candidates.list("t"))
    lab.finish(first)


def some_candidates(lab: Lab, count: int = 4) -> list[str]:
    scores = [1.95, 1.7, 1.899, 2.2, 1.5, 1.6]
    return [lab.write(f"idea-{n}", f"SCORE = {scores[n]}\n") for n in range(count)]


@pytest.mark.parametrize("events_before_the_kill", [5, 10, 16, 23, 31])
def test_killed_in_the_middle_and_submitted_again_every_candidate_has_one_result(
    lab: Lab, events_before_the_kill: int
) -> None:
    paths = some_candidates(lab)
    first = lab.start("submit", *paths)
    wait_until(lambda: lab.events() >= events_before_the_kill or first.poll() is not None)
    first.kill()
    first.communicate()
    code, out, _ = lab.finish(lab.start("submit", *paths, "--json"))
    assert code == 0
    assert len(json.loads(out)["candidates"]) == 4
    lab.check_everything_ended_once({f"idea-{n}" for n in range(4)})


def test_killed_again_and_again_it_still_gets_there(lab: Lab) -> None:
    paths = some_candidates(lab, 6)
    for kill in range(4):
        process = lab.start("submit", *paths)
        events = lab.events()
        wait_until(lambda p=process, e=events, k=kill: lab.events() >= e + 3 + k or p.poll() is not None)  # type: ignore[misc]
        process.kill()
        process.communicate()
    assert lab.finish(lab.start("submit", *paths))[0] == 0
    lab.check_everything_ended_once({f"idea-{n}" for n in range(6)})
    with Ledger.open(lab.ledger_path) as ledger:
        outcomes = [a.outcome for run in ledger.runs.list("t") for a in ledger.runs.attempts(run.id)]
    assert set(outcomes) <= {"ok", "lost", "stopped"}


def test_a_run_that_loses_its_scheduler_many_times_is_not_given_up(lab: Lab) -> None:
    gate = lab.folder / "gate"
    path = lab.write("slow", f"SCORE = 1.8\nGATE = {str(gate)!r}\n")
    for attempt in range(1, 5):
        process = lab.start("submit", path)
        wait_until(lambda n=attempt: lab.attempts("c0002") == n and _is_running(lab, "c0002"))  # type: ignore[misc]
        wait_until(lambda: bool(lab.judges()))
        process.kill()
        process.communicate()
    gate.touch()
    assert lab.finish(lab.start("submit", path))[0] == 0
    lab.check_everything_ended_once({"slow"})


def test_several_at_once_share_one_scheduler_and_all_is_recorded_once(lab: Lab) -> None:
    paths = some_candidates(lab, 6)
    processes = [lab.start("submit", *paths[n : n + 2], "--json") for n in (0, 2, 4)]
    ended = [lab.finish(process) for process in processes]
    assert [code for code, _, _ in ended] == [0, 0, 0]
    for _, out, _ in ended:
        assert all(one["state"] not in ("open", "contender") for one in json.loads(out)["candidates"])
    lab.check_everything_ended_once({f"idea-{n}" for n in range(6)})


def test_a_watcher_takes_over_when_the_one_it_watched_is_killed(lab: Lab) -> None:
    gate = lab.folder / "gate"
    slow, quick = lab.write("slow", f"SCORE = 1.8\nGATE = {str(gate)!r}\n"), lab.write("quick", "SCORE = 2.1\n")
    driver = lab.start("submit", slow)
    wait_until(lambda: lab.running() > 0)
    watcher = lab.start("submit", quick)
    wait_until(lambda: lab.events() > 0 and b"quick" in (lab.ledger_path.read_bytes() + _wal(lab)))
    driver.kill()
    driver.communicate()
    wait_until(lambda: len(lab.connections.read_text().split()) == 2)
    gate.touch()
    assert lab.finish(watcher)[0] == 0
    lab.check_everything_ended_once({"slow", "quick"})
    assert len(lab.connections.read_text().split()) == 2


def _wal(lab: Lab) -> bytes:
    path = lab.ledger_path.with_name("ledger.db-wal")
    return path.read_bytes() if path.exists() else b""


def test_ctrl_c_once_finishes_what_runs_twice_stops_it_and_the_code_says_so(lab: Lab) -> None:
    gate = lab.folder / "gate"
    path = lab.write("slow", f"SCORE = 1.8\nGATE = {str(gate)!r}\n")
    process = lab.start("submit", path, "--slots", "1")
    wait_until(lambda: _is_running(lab, "c0002"))
    process.send_signal(signal.SIGINT)
    seen = wait_for_line(process, "finishing 1 run")
    process.send_signal(signal.SIGINT)
    code, _, err = lab.finish(process)
    err = seen + err
    assert code == 130
    assert "goes back to the queue" in err and re.search(r"Go on with: \S*arsched submit", err)
    assert lab.judges() == []
    gate.touch()
    assert lab.finish(lab.start("submit"))[0] == 0
    lab.check_everything_ended_once({"slow"})


def wait_for_line(process: subprocess.Popen[str], words: str) -> str:
    """Read what it says until it says this."""
    assert process.stderr is not None
    seen = ""
    while words not in seen:
        line = process.stderr.readline()
        assert line, f"it ended without saying {words!r}: {seen}"
        seen += line
    return seen


def _is_running(lab: Lab, candidate_id: str) -> bool:
    with closing(sqlite3.connect(lab.ledger_path)) as connection:
        row = connection.execute(
            "SELECT count(*) FROM run WHERE state = 'running' AND candidate = ?", (int(candidate_id[1:]),)
        ).fetchone()
    return bool(row[0])


def test_a_third_ctrl_c_leaves_at_once_and_nothing_is_lost(lab: Lab) -> None:
    path = lab.write("slow", f"SCORE = 1.8\nGATE = {str(lab.folder / 'gate')!r}\n")
    process = lab.start("submit", path, "--slots", "1")
    wait_until(lambda: _is_running(lab, "c0002"))
    process.send_signal(signal.SIGINT)
    wait_for_line(process, "finishing 1 run")
    while process.poll() is None:  # signals of one kind that come at once are one signal
        process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    wait_until(lambda: not lab.judges())
    (lab.folder / "gate").touch()
    assert lab.finish(lab.start("submit"))[0] == 0
    lab.check_everything_ended_once({"slow"})


def test_no_wait_queues_and_a_bare_submit_runs(lab: Lab) -> None:
    paths = some_candidates(lab, 2)
    code, out, err = lab.finish(lab.start("submit", *paths, "--no-wait", "--json"))
    assert code == 0 and not lab.connections.exists()
    assert [one["state"] for one in json.loads(out)["candidates"]] == ["open", "open"]
    assert "arsched submit" in err
    assert lab.finish(lab.start("submit"))[0] == 0
    lab.check_everything_ended_once({"idea-0", "idea-1"})


def test_run_from_inside_a_candidates_worktree_it_is_the_same_lab(lab: Lab) -> None:
    assert lab.finish(lab.start("new", "inside"))[0] == 0
    worktree = lab.root / "candidates" / "inside"
    (worktree / "train.py").write_text("SCORE = 1.6\n")
    process = subprocess.Popen(
        [*PROGRAM, "submit", "."], cwd=worktree, env=lab.environ, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    lab.started.append(process)
    assert lab.finish(process)[0] == 0
    lab.check_everything_ended_once({"inside"})
    assert git(lab.root, "show", "autoresearch/t:train.py") == "SCORE = 1.6\n"
