"""The real command whose ledger or lock is deleted while it runs: it ends with an error, and nothing stays lost."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from scheduler.cli.main import main
from tests.processes import carrying, command_of, has_open
from tests.scheduler.git_kit import git, no_configuration  # noqa: F401
from tests.scheduler.ledger_kit import broken_invariants
from tests.scheduler.test_app_processes import Lab, wait_for_line, watched_lab
from tests.scheduler.test_search_processes import BUDGET, IDEAS
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
NOTICED_S = 20.0  # a second or two, on a machine that is busy with other things


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    yield from watched_lab(tmp_path)


def remove(lab: Lab) -> None:
    """As `rm -rf` does: the command that runs makes and removes files there meanwhile."""
    wait_until(lambda: shutil.rmtree(lab.ledger_path.parent, ignore_errors=True) or not lab.ledger_path.exists())


def unlink(lab: Lab) -> None:
    lab.ledger_path.unlink()


def replace(lab: Lab) -> None:
    copy = lab.ledger_path.with_name("copy.db")
    shutil.copyfile(lab.ledger_path, copy)
    copy.rename(lab.ledger_path)


def left_behind(lab: Lab) -> list[str]:
    """Command lines of all processes that were started from this lab's commands, proposers and judges too."""
    return [command_of(pid) for pid in carrying(str(lab.connections))]


def refused(process: subprocess.Popen[str]) -> tuple[str, str]:
    """stdout and stderr of a command that ends with an error in time."""
    out, err = process.communicate(timeout=NOTICED_S)
    assert process.returncode == 1 and "Traceback" not in err and "defect" not in err, err
    assert "error: " in err and "hint: " in err, err
    return out, err


@pytest.mark.parametrize("lose", [unlink, remove, replace])
def test_a_search_whose_ledger_is_deleted_ends_with_an_error_and_no_claim(
    lab: Lab, lose: Callable[[Lab], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = lab.start("search", *BUDGET, *IDEAS)
    wait_for_line(search, "result ")
    wait_until(lambda: bool(lab.judges()) and bool(git(lab.root, "for-each-ref", "refs/arsched/")))
    assert left_behind(lab)
    lose(lab)
    out, err = refused(search)
    assert re.search(r"ledger\.db(-wal|-shm)? was (deleted or moved away|replaced)", err), err
    assert "is saved as" in err and "arsched restore" in err, err
    assert out == "" and "claim " not in err and "is over:" not in err
    wait_until(lambda: not left_behind(lab))
    monkeypatch.chdir(lab.root)
    if lose is replace:
        return
    for verb in ("status", "leaderboard", "submit", "watch", "report"):
        done = CliRunner().invoke(main, [verb])
        assert done.exit_code == 1 and "defect" not in done.stderr, done.stderr
        assert "git still keeps every candidate and promotion of: t" in done.stderr
    assert not lab.ledger_path.exists()
    done = CliRunner().invoke(main, ["restore"])
    assert done.exit_code == 0, done.stderr
    code, _, err = lab.finish(lab.start("search"))
    assert code == 0 and "claim " in err and not broken_invariants(lab.ledger_path), err


def test_all_who_run_watch_or_wait_notice_and_with_a_saved_copy_back_the_queue_is_finished(lab: Lab) -> None:
    gate = lab.folder / "gate"
    paths = [lab.write(f"idea-{n}", f"SCORE = {1.7 + n / 10}\nGATE = {str(gate)!r}\n") for n in range(2)]
    driver = lab.start("submit", *paths)
    wait_until(lambda: lab.running() == 2 and len(lab.judges()) >= 2 and lab.attempts("c0002") > 0)
    others = [lab.start("submit", paths[0]), lab.start("wait"), lab.start("logs", "-f", "c0002")]
    wait_until(lambda: all(has_open(process.pid, lab.ledger_path) for process in others))
    remove(lab)
    for process in (driver, *others):
        _, err = refused(process)
        assert "was deleted or moved away" in err
    wait_until(lambda: not left_behind(lab))
    assert lab.finish(lab.start("restore"))[0] == 0
    gate.touch()
    assert lab.finish(lab.start("submit"))[0] == 0
    lab.check_everything_ended_once({"idea-0", "idea-1"})


def test_a_queue_whose_lock_is_deleted_ends_with_an_error_and_the_next_finishes_it(lab: Lab) -> None:
    gate = lab.folder / "gate"
    path = lab.write("slow", f"SCORE = 1.8\nGATE = {str(gate)!r}\n")
    first = lab.start("submit", path)
    wait_until(lambda: lab.attempts("c0002") > 0 and bool(lab.judges()))
    (lab.root / ".git" / "arsched" / "scheduler.lock").unlink()
    second = lab.start("submit", path)  # has the turn when the first has ended
    _, err = refused(first)
    assert "scheduler.lock was deleted or replaced" in err
    gate.touch()
    assert lab.finish(second)[0] == 0
    lab.check_everything_ended_once({"slow"})
