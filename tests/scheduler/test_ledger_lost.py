"""A ledger that is deleted, moved, replaced or overwritten while it is open: noticed at once, not written to again."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.domain.candidate import CandidateState
from scheduler.domain.errors import LedgerProblem
from scheduler.ledger import Ledger
from scheduler.ledger.db import SAVED
from scheduler.ledger.presence import Header
from tests.scheduler.ledger_kit import (
    SLOT,
    add_candidate,
    broken_invariants,
    open_ledger,
    start_lab,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lab" / "ledger.db"


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a copy is saved that its lab has no place for."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def filled(path: Path, candidates: int = 0, tag: str = "t") -> Ledger:
    ledger = open_ledger(path)
    start_lab(ledger, tag)
    for number in range(candidates):
        add_candidate(ledger, f"idea{number}", tag, base_id=ledger.candidates.list(tag)[0].id)
    return ledger


def sibling(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def copy(source: Path, target: Path) -> None:
    """Into the same inode, and by another process: to close the file in this one would drop SQLite's locks."""
    subprocess.run(["cp", str(source), str(target)], check=True)


def unlink(path: Path) -> None:
    path.unlink()


def unlink_all(path: Path) -> None:
    for one in path.parent.iterdir():
        one.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def put_a_file_in_the_folders_place(path: Path) -> None:
    move_folder(path)
    path.parent.touch()


def rename_a_copy_over_it(path: Path) -> None:
    shutil.copyfile(path.with_name("old.db"), path.with_name("copy.db"))
    path.with_name("copy.db").rename(path)


def make_a_new_one(path: Path) -> None:
    unlink_all(path)
    filled(path, 20).close()


def overwrite_with_another(path: Path) -> None:
    """One that has grown as much: only what is inside tells them apart."""
    copy(path.with_name("other.db"), path)


def overwrite_with_an_older_copy(path: Path) -> None:
    copy(path.with_name("old.db"), path)


def truncate(path: Path) -> None:
    subprocess.run(["truncate", "-s", "0", str(path)], check=True)


def unlink_wal(path: Path) -> None:
    sibling(path, "-wal").unlink()


def unlink_shm(path: Path) -> None:
    sibling(path, "-shm").unlink()


def replace_wal(path: Path) -> None:
    shutil.copyfile(sibling(path, "-wal"), sibling(path, "-wal2"))
    sibling(path, "-wal2").rename(sibling(path, "-wal"))


GONE = (
    unlink,
    unlink_all,
    rename,
    remove_folder,
    move_folder,
    rename_a_copy_over_it,
    make_a_new_one,
    unlink_wal,
    unlink_shm,
)
LOSSES: list[Callable[[Path], None]] = [
    *(unlink, unlink_all, rename, remove_folder, move_folder, put_a_file_in_the_folders_place),
    *(rename_a_copy_over_it, make_a_new_one, overwrite_with_another, overwrite_with_an_older_copy, truncate),
    *(unlink_wal, unlink_shm, replace_wal),
]


@pytest.fixture
def ledger(path: Path) -> Ledger:
    """Open, of 30 candidates; next to it `old.db`, an earlier copy, and `other.db`, another lab's."""
    filled(path, 2).close()
    shutil.copyfile(path, path.with_name("old.db"))
    filled(path.with_name("other.db"), 60).close()
    with open_ledger(path) as grown:
        for number in range(28):
            add_candidate(grown, f"more{number}")
    return open_ledger(path)


LOST = re.compile("deleted or moved|replaced|overwritten")
ACTIONS: dict[str, Callable[[Ledger], object]] = {
    "add a candidate": lambda ledger: add_candidate(ledger, "late"),
    "lease a run": lambda ledger: ledger.runs.lease(ledger.runs.queued("t")[0].id, SLOT, 2000.0),
    "read the board": lambda ledger: ledger.board("t"),
    "read a run": lambda ledger: ledger.runs.get("r0001", "t"),
    "take a stamp": lambda ledger: ledger._database.stamp(),
    "look whether it is there": lambda ledger: ledger.ensure_present(),
}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
@pytest.mark.parametrize("lose", LOSSES)
def test_whatever_is_done_after_the_loss_is_refused_with_what_where_and_what_next(
    ledger: Ledger, path: Path, lose: Callable[[Path], None], action: Callable[[Ledger], object]
) -> None:
    ledger.board("t")
    lose(path)
    with pytest.raises(LedgerProblem, match=LOST) as problem:
        action(ledger)
    assert str(path) in problem.value.message
    for words in ("arsched restore", "autoresearch/<tag>", "refs/arsched/<tag>/"):
        assert words in problem.value.hint
    for saved in path.parent.parent.rglob(f"{SAVED}*.db"):
        assert not broken_invariants(saved) and str(saved) in problem.value.message
        with closing(sqlite3.connect(saved)) as copy:
            assert copy.execute("SELECT count(*) FROM candidate").fetchone()[0] == 31
    if lose in GONE:
        assert "is saved as" in problem.value.message
    with pytest.raises(LedgerProblem, match=LOST):  # and it stays refused
        action(ledger)
    ledger.close()


@pytest.mark.parametrize("lose", LOSSES)
def test_a_change_during_which_the_files_go_is_never_reported_as_made(
    ledger: Ledger, path: Path, lose: Callable[[Path], None]
) -> None:
    def change() -> None:
        with ledger.transaction():
            ledger.candidates.set_state("c0002", CandidateState.OPEN, CandidateState.CONTENDER, "")
            lose(path)

    with pytest.raises(LedgerProblem):
        change()
    ledger.close()


def test_a_loss_between_the_look_and_the_commit_is_reported_after_the_commit(ledger: Ledger, path: Path) -> None:
    """SQLite names a statement to the callback before it runs it."""
    commits: list[str] = []

    def spy(statement: str) -> None:
        if statement == "COMMIT":
            commits.append(statement)
            path.unlink()

    ledger._database._connection.set_trace_callback(spy)
    with pytest.raises(LedgerProblem, match="deleted"):
        add_candidate(ledger, "late")
    assert commits


def test_the_new_ledger_at_the_path_is_left_alone_by_the_process_that_lost_the_old_one(path: Path) -> None:
    old = filled(path, 5)
    unlink_all(path)
    code = f"""
import sys
from pathlib import Path
from tests.scheduler.test_ledger_lost import filled
ledger = filled(Path({str(path)!r}), 3, "new")
print("ready", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "ready\n"
        with pytest.raises(LedgerProblem, match="replaced"):
            add_candidate(old, "late")
        old.close()
        assert sibling(path, "-wal").stat().st_size  # its commits are nowhere else yet
        other.kill()
    assert not broken_invariants(path)
    with open_ledger(path) as new:
        assert [lab.tag for lab in new.labs.all()] == ["new"] and len(new.candidates.list("new")) == 4


@pytest.mark.parametrize("lose", [unlink_wal, unlink_shm])
def test_with_the_log_alone_gone_closing_saves_what_was_recorded(path: Path, lose: Callable[[Path], None]) -> None:
    ledger = filled(path, 5)
    lose(path)
    with pytest.raises(LedgerProblem):
        add_candidate(ledger, "late")
    ledger.close()
    assert not broken_invariants(path)
    with open_ledger(path) as again:
        assert len(again.candidates.list("t")) == 6


def test_a_ledger_that_grows_by_several_processes_and_is_checkpointed_is_no_loss(path: Path) -> None:
    with filled(path, 5) as ledger:
        sizes = {path.stat().st_size}
        for number in range(6):
            with open_ledger(path) as other:
                add_candidate(other, f"other{number}")
                ledger.ensure_present()
                other._database.execute("PRAGMA wal_checkpoint(TRUNCATE)" if number % 2 else "PRAGMA wal_checkpoint")
            ledger.board("t")
            with ledger.transaction():
                for _ in range(40):
                    ledger.events.write("t", "x", "a", "b", "r" * 400)
            sizes.add(path.stat().st_size)
        assert len(sizes) > 3


def test_a_folder_that_is_back_or_behind_a_link_is_no_loss(path: Path) -> None:
    ledger, moved = filled(path), path.parent.with_name("elsewhere")
    path.parent.rename(moved)
    moved.rename(path.parent)
    add_candidate(ledger, "one")
    path.parent.rename(moved)
    path.parent.symlink_to(moved)
    add_candidate(ledger, "two")
    ledger.close()
    assert not broken_invariants(path)


def test_to_look_drops_none_of_the_locks_this_process_has(path: Path) -> None:
    """The process that closes a file last deletes its log: with our lock gone that would be another process."""
    code = f"""
from pathlib import Path
from tests.scheduler.ledger_kit import add_candidate, open_ledger
with open_ledger(Path({str(path)!r})) as ledger:
    add_candidate(ledger, "others")
"""
    with filled(path) as ledger:
        ledger._database.execute("PRAGMA wal_checkpoint")
        ledger.ensure_present()  # the first look after a checkpoint is one into the header
        assert subprocess.run([sys.executable, "-c", code], cwd=Path.cwd()).returncode == 0
        assert sibling(path, "-wal").exists() and sibling(path, "-shm").exists()
        add_candidate(ledger, "ours")
        assert len(ledger.candidates.list("t")) == 3


def test_every_ledger_has_an_id_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    ids = []
    for name in ("one.db", "two.db", "three.db", "one.db"):
        open_ledger(tmp_path / name).close()
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            ids.append(connection.execute("PRAGMA user_version").fetchone()[0])
    assert ids[3] == ids[0] and len(set(ids)) == 3 and all(0 < one < 2**31 for one in ids)


def test_a_header_only_follows_one_of_the_same_database_that_is_not_younger() -> None:
    earlier = Header(5, 100, 7)
    assert earlier.may_follow(earlier, 7) and Header(6, 101, 7).may_follow(earlier, 7)
    assert Header(6, 100, 7).may_follow(Header(1, 1, 0), 7)  # the id was not on disk yet
    for other in (Header(4, 100, 7), Header(5, 99, 7), Header(6, 101, 8), Header(6, 101, 0)):
        assert not other.may_follow(earlier, 7)
    assert Header.parse(b"") is None and Header.parse(b"\0" * 100) is None


def test_a_ledger_without_an_id_that_cannot_be_written_now_is_read_all_the_same(path: Path) -> None:
    filled(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA user_version = 0")
        other.execute("BEGIN IMMEDIATE")
        with Ledger.open(path, busy_timeout_s=0.05) as ledger:
            assert len(ledger.runs.list("t")) == 3
            other.execute("ROLLBACK")
            add_candidate(ledger, "late")
            path.rename(path.with_name("elsewhere.db"))
            with pytest.raises(LedgerProblem, match="deleted or moved"):
                ledger.board("t")
