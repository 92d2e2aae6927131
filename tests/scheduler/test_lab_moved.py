"""Where a lab lies: in git's common directory, however the clone was made; an earlier version's is moved there once."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from scheduler import lab as lab_module
from scheduler.actions.candidate import new_worktree
from scheduler.actions.init import InitRequest, create_lab
from scheduler.domain.candidate import CandidateState
from scheduler.domain.errors import LabProblem, LedgerProblem
from scheduler.lab import LabPaths, open_workspace, show_runs
from scheduler.ledger import copies, db
from scheduler.queue.runtime import SchedulerLock
from tests.scheduler.git_kit import git, make_repository, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab
from tests.scheduler.ledger_kit import broken_invariants, open_ledger
from tests.scheduler.test_app_init import ContractFile, contract  # noqa: F401

TRACED = {lab_module.__file__, copies.__file__, db.__file__}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A finished lab, laid out as by an earlier version."""
    played = PlayedLab(tmp_path)
    played.submit("better", "SCORE = 1.7\n")
    played.run()
    played.space.ledger.close()
    paths = played.space.paths
    paths.shown_runs.unlink()
    for path in list(paths.truth.iterdir()):
        path.rename(paths.state / path.name)
    paths.truth.rmdir()
    yield paths.root


def check_whole(root: Path) -> None:
    paths = LabPaths(root)
    with open_workspace(start=root) as space:
        assert [one.name for one in space.ledger.candidates.list("t")] == ["baseline", "better"]
        runs = space.ledger.runs.list("t")
        assert space.baseline().name == "better" and space.paths.ledger == paths.ledger
    assert not broken_invariants(paths.ledger) and not paths.old_ledger.exists()
    for run in runs:
        log = paths.log(run.id, 1)
        assert log.read_text() == f"log of {run.id}.1\n"
        assert os.path.samefile(log, root / ".arsched" / "runs" / f"{run.id}.1" / "run.log")


def test_it_is_moved_over_once_with_one_line_that_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_whole(root)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(root / ".git" / "arsched") in said and "ledger-moved-1.db" in said
    assert (root / ".git" / "arsched" / "contract.json").is_file()
    check_whole(root)
    assert not capsys.readouterr().err
    git(root, "clean", "-fdxq")
    show_runs(LabPaths(root))
    check_whole(root)


def killed_at_line(root: Path, number: int) -> bool:
    """Open the lab in a child that dies before the line of that number in the files traced; False when it ended."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    left = number

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in TRACED:
            return None
        left -= event == "line"
        if left < 0:
            os._exit(1)
        return trace

    sys.settrace(trace)
    with open_workspace(start=root):
        os._exit(0)


@pytest.mark.slow
def test_killed_at_any_line_one_place_is_whole_and_the_next_command_goes_on(root: Path, tmp_path: Path) -> None:
    saved = shutil.copytree(root, tmp_path / "saved", symlinks=True)
    number, both = 0, 0
    while True:
        shutil.rmtree(root)
        shutil.copytree(saved, root, symlinks=True)
        if not killed_at_line(root, number):
            break
        paths = LabPaths(root)
        current = paths.ledger if paths.ledger.exists() else paths.old_ledger
        assert current.exists() and not broken_invariants(current), number
        both += paths.ledger.exists() and paths.old_ledger.exists()
        check_whole(root)
        number += 4 if both > 2 else 1  # what comes after the move changes nothing of it
    assert number > 60 and both
    check_whole(root)


def test_while_a_command_of_the_earlier_version_runs_nothing_is_moved(root: Path) -> None:
    for name in ("scheduler.lock", "submit.lock"):
        held = SchedulerLock(root / ".arsched" / name, with_folder=False)
        assert held.try_take()
        with pytest.raises(LabProblem, match="an earlier arsched is at work"), open_workspace(start=root):
            pass
        held.release()
        assert not LabPaths(root).ledger.exists()
    check_whole(root)


def test_what_an_earlier_version_writes_during_the_move_is_refused_and_before_it_moves_along(root: Path) -> None:
    paths = LabPaths(root)
    with open_ledger(paths.old_ledger) as earlier:
        earlier.candidates.set_state("c0001", CandidateState.PROMOTED, CandidateState.DISCARDED, "its log is not empty")
        with open_workspace(start=root) as space:
            assert space.ledger.candidates.get("c0001", "t").state is CandidateState.DISCARDED
        with pytest.raises(LedgerProblem, match="deleted or moved away"):
            earlier.candidates.set_state("c0001", CandidateState.DISCARDED, CandidateState.PROMOTED, "too late")


def test_of_several_that_come_at_once_one_moves_it(root: Path) -> None:
    code = "import sys; from scheduler.lab import open_workspace\nwith open_workspace() as space: print(space.tag)"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        )
        for _ in range(3)
    ]  # fmt: skip
    said = [process.communicate(timeout=60) for process in started]
    assert [out for out, _ in said] == ["t\n"] * 3, said
    assert sum("note: the lab lies in" in err for _, err in said) == 1
    check_whole(root)


def test_an_old_ledger_that_is_put_back_changes_nothing_and_is_kept(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = LabPaths(root)
    with closing(sqlite3.connect(paths.old_ledger)) as old, closing(sqlite3.connect(root / "copy.db")) as copy:
        old.backup(copy)
    check_whole(root)
    (root / "copy.db").rename(paths.old_ledger)
    capsys.readouterr()
    check_whole(root)
    assert "another ledger" in capsys.readouterr().err
    assert sorted(path.name for path in paths.state.glob("ledger-moved-*.db")) == [
        "ledger-moved-1.db",
        "ledger-moved-2.db",
    ]


def test_the_lab_of_a_clone_whose_git_folder_is_elsewhere_lies_there(
    tmp_path: Path,
    contract: ContractFile,  # noqa: F811
) -> None:
    root = make_repository(tmp_path / "clone")
    git(root, "init", "--quiet", "--separate-git-dir", str(tmp_path / "elsewhere"))
    create_lab(InitRequest("t", contract()), root)
    with open_workspace(start=root) as space:
        assert space.paths.ledger == tmp_path / "elsewhere" / "arsched" / "ledger.db"
        new_worktree(space, "wide")
        contract_json = space.lab.contract_json
    assert sorted(path.name for path in (root / ".arsched").iterdir()) == ["runs"]
    code = "from harness.session import _contract_reference; print(_contract_reference())"
    for folder in (root, root / "harness", root / "candidates" / "wide"):
        found = subprocess.run(
            [sys.executable, "-P", "-c", code], cwd=folder, text=True, capture_output=True, check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        )  # fmt: skip
        assert Path(found.stdout.strip()).read_text() == contract_json
