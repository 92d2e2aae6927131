"""A disk that is full or read-only, and a ledger that is damaged: reading goes on, writing says what is in the way.

The real disks are in a mount namespace of their own; without the rights for that those tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from scheduler.actions.restore import restore
from scheduler.cli.main import main
from scheduler.domain.errors import LabProblem, LedgerProblem
from scheduler.lab import open_workspace
from scheduler.ledger import Ledger, db
from scheduler.ledger.copies import copy_database
from scheduler.ledger.db import Database, LedgerUnwritable
from scheduler.ledger.ledger import DAMAGED, set_aside
from scheduler.queue.runner import run_queue
from scheduler.queue.runtime import PollIntervals
from tests.scheduler.disk_script import READING
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab
from tests.scheduler.ledger_kit import add_candidate, broken_invariants, open_ledger, start_lab
from tests.scheduler.test_app_init import ContractFile, contract  # noqa: F401
from tests.scheduler.test_restore import Rig, rig  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = ("unshare", "--mount", "--propagation", "private")


def can_mount() -> bool:
    return not subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode


@pytest.mark.slow
def test_on_a_full_or_read_only_disk_reading_works_writing_says_why_and_nothing_is_lost(tmp_path: Path) -> None:
    if not shutil.which("unshare") or not can_mount():
        pytest.skip("may not mount here")
    disk = tmp_path / "disk"
    disk.mkdir()
    script = [*NAMESPACE, sys.executable, "-m", "tests.scheduler.disk_script", str(disk)]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "No space left" in found["queue"] or "full" in found["queue"], found["queue"]
    assert found["broken"] == found["broken after"] == []
    assert found["again"] == "done" and found["states"] == ["Finished"]
    for state in ("full", "full, with a log", "read-only, with a log"):
        for verb, (code, out, err) in found[state].items():
            assert "defect" not in err and "Traceback" not in err, (state, verb, err)
            if verb in READING:
                assert code == 0 and out, (state, verb, err)
            else:
                assert code == 1 and "error: " in err and "hint: " in err, (state, verb, err)
    for state in ("full, with a log", "read-only, with a log"):
        assert "paused" in found[state]["status"][1], found[state]["status"]  # what only the log has


def refuse(database: Database) -> None:
    """As SQLite does while the ledger's own file is what is used."""
    if database.unwritable is None:
        raise LedgerUnwritable("cannot use the ledger: its disk is full", "make room")


@pytest.fixture
def unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ledger.db"
    with open_ledger(path) as ledger:
        start_lab(ledger)
    monkeypatch.setattr(Database, "use_write_ahead_log", refuse)
    return path


def test_a_ledger_that_cannot_be_written_is_read_and_every_change_says_why(unwritable: Path) -> None:
    before = unwritable.read_bytes()
    with Ledger.open(unwritable) as ledger:
        assert ledger.unwritable and [one.name for one in ledger.candidates.list("t")] == ["baseline"]
        for change in (
            lambda: ledger.labs.pause("t", "now"),
            lambda: add_candidate(ledger, "idea"),
            lambda: ledger.runs.cancel("r0001", "why"),
        ):
            with pytest.raises(LedgerProblem, match="its disk is full"):
                change()
        assert len(ledger.runs.list("t")) == 3
    assert unwritable.read_bytes() == before


def test_what_only_the_log_has_is_read_too(unwritable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = db._into_memory

    def without_lock_file(uri: str) -> sqlite3.Connection:
        if uri == f"{unwritable.as_uri()}?mode=ro":
            raise sqlite3.OperationalError("disk I/O error")
        return real(uri)

    with closing(sqlite3.connect(unwritable)) as other:
        other.execute("UPDATE lab SET paused_at = 5.0")
        other.commit()
        with Ledger.open(unwritable) as ledger:
            assert ledger.labs.get("t").paused_at == 5.0
        monkeypatch.setattr(db, "_into_memory", without_lock_file)
        assert unwritable.with_name("ledger.db-wal").stat().st_size
        with Ledger.open(unwritable) as ledger:
            assert ledger.labs.get("t").paused_at == 5.0


def test_without_a_ledger_to_read_the_refusal_stays_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Database, "use_write_ahead_log", refuse)
    with pytest.raises(LedgerUnwritable):
        Ledger.open(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists() or not (tmp_path / "none.db").stat().st_size


def scribble(path: Path) -> None:
    """Over an index and what lies behind the header."""
    data = bytearray(path.read_bytes())
    for place in range(4096 * 3 + 100, len(data), 4096):
        data[place : place + 200] = b"\xff" * 200
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 4096 * 5])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def no_database(path: Path) -> None:
    path.write_bytes(b"\0" * 20_000)


DAMAGE = (scribble, cut, no_database)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_ledger_is_said_at_the_start_of_a_queue_and_restored_with_it_kept(
    rig: Rig,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
) -> None:
    with open_workspace(start=rig.root) as space:
        runs = space.ledger.runs.list("t")
    damage(rig.paths.ledger)
    kept = rig.paths.ledger.read_bytes()
    monkeypatch.chdir(rig.root)
    for verb in ("submit", "search --runs 3 --proposer tpe"):
        done = CliRunner().invoke(main, verb.split())
        assert done.exit_code == 1 and "damaged" in done.stderr and "arsched restore" in done.stderr, done.stderr
    assert rig.paths.ledger.read_bytes() == kept
    done = CliRunner().invoke(main, ["restore"])
    assert done.exit_code == 0 and "kept as" in done.stdout, done.stderr
    (aside,) = rig.paths.truth.glob(f"{DAMAGED}*.db")
    assert aside.read_bytes() == kept and str(aside) in done.stdout
    with open_workspace(start=rig.root) as space:
        assert space.ledger.runs.list("t") == runs
    assert not broken_invariants(rig.paths.ledger)
    again = restore(rig.root)
    assert again.damaged is None and again.labs == (("t", (), ()),)


def test_an_empty_file_in_the_ledgers_place_does_not_hide_its_copies(rig: Rig) -> None:  # noqa: F811
    empty(rig.paths.ledger)
    with pytest.raises(LabProblem, match="new one without a lab") as problem, open_workspace(start=rig.root):
        pass
    assert "arsched restore" in problem.value.hint
    done = restore(rig.root)
    assert done.copy == rig.paths.backup and done.damaged is not None and done.labs == (("t", (), ()),)


def test_a_folder_in_the_ledgers_place_is_named_and_nothing_is_touched(rig: Rig) -> None:  # noqa: F811
    rig.paths.ledger.unlink()
    (rig.paths.ledger / "inside").mkdir(parents=True)
    with pytest.raises(LedgerProblem, match=r"a folder lies at .*ledger\.db") as problem:
        restore(rig.root)
    assert "move it away" in problem.value.hint and (rig.paths.ledger / "inside").is_dir()
    shutil.rmtree(rig.paths.ledger)
    assert restore(rig.root).copy == rig.paths.backup


@pytest.mark.parametrize("lost", ["migration", "event", "lab"])
def test_a_ledger_without_one_of_its_tables_is_damaged_and_restored(rig: Rig, lost: str) -> None:  # noqa: F811
    with closing(sqlite3.connect(rig.paths.ledger)) as source, source:
        source.execute(f"DROP TABLE {lost}")

    def read() -> None:
        with open_workspace(start=rig.root) as space:
            space.ledger.events.list("t")

    with pytest.raises(LedgerProblem, match=f"damaged: no such table: .*{lost}"):
        read()
    assert restore(rig.root).damaged is not None
    read()


def test_a_new_ledger_does_not_replace_the_only_copy_of_a_lost_one(rig: Rig) -> None:  # noqa: F811
    """Another lab is begun in its place: its copies are made where those of the first one are, and are its own."""
    with open_workspace(start=rig.root) as space:
        runs = space.ledger.runs.list("t")
    rig.paths.ledger.unlink()
    for number in (1, 2):
        with open_ledger(rig.paths.ledger) as ledger:
            start_lab(ledger)
            ledger.back_up(rig.paths.backup)
            ledger.back_up(rig.paths.backup)
        rig.paths.ledger.unlink()
        assert len(list(rig.paths.state.glob("lost-ledger-backup-*.db"))) == number
    done = restore(rig.root, rig.paths.state / "lost-ledger-backup-1.db")
    assert done.copy is not None and done.damaged is None
    with open_workspace(start=rig.root) as space:
        assert space.ledger.runs.list("t") == runs


def test_what_is_sound_or_cannot_be_read_now_is_never_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    assert set_aside(path) is None
    with open_ledger(path) as ledger:
        start_lab(ledger)
        assert set_aside(path) is None
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE mine (x)")
    assert set_aside(tmp_path / "other.db") is None
    folder = tmp_path / "folder.db"
    folder.mkdir()
    assert set_aside(folder) is None
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerProblem, match="cannot read"):
            set_aside(path)
    assert path.is_file() and [one.name for one in tmp_path.glob(f"{DAMAGED}*")] == []


def test_a_copy_is_never_made_of_a_damaged_ledger(tmp_path: Path) -> None:
    """Of one that opens: its schema is whole, the page of its history is not."""
    played = PlayedLab(tmp_path)
    played.run()
    copy, ledger = played.space.paths.backup, played.space.paths.ledger
    before = copy.read_bytes()
    played.space.ledger.close()
    with closing(sqlite3.connect(ledger)) as source:
        ((page,),) = source.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'event'")
    with ledger.open("r+b") as file:
        file.seek(4096 * (page - 1))
        file.write(b"\xff" * 300)
    with closing(Database(ledger)) as database, pytest.raises(LedgerProblem, match="is damaged"):
        database.back_up(copy)
    assert copy.read_bytes() == before and os.listdir(copy.parent).count(copy.name) == 1


def test_that_no_copy_can_be_kept_is_said_once_and_again_after_one_was(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path)
    copy, tries = played.space.paths.backup, 0
    copy.mkdir()  # a folder is in the way of root, too
    means = replace(played.means, intervals=PollIntervals(round_s=1.0, show_s=1.0, back_up_s=1.0))

    def count_tries(database: Database, path: Path) -> None:
        nonlocal tries
        tries += 1
        if tries == 4:
            copy.rmdir()
        if tries == 6:
            copy.unlink()
            copy.mkdir()
        real(database, path)

    real = Database.back_up
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Database, "back_up", count_tries)
        run_queue(played.space, played.screen, means, lambda: False)
    assert tries > 8
    said = [line for line in played.screen.lines if str(copy) in line]
    assert len(said) == 2 and all("could not be copied" in line and "room" in line for line in said), said
    assert [name for name in os.listdir(copy.parent) if name.startswith(".ledger")] == []


def test_a_folder_that_was_deleted_is_no_failed_copy(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path)
    played.each_round = lambda: shutil.rmtree(played.space.paths.state, ignore_errors=True)
    played.run()
    assert not broken_invariants(played.space.paths.backup)
    assert not [line for line in played.screen.lines if "could not be copied" in line]


DIES_COPYING = """
import os, signal, sqlite3, sys
from pathlib import Path
from scheduler.ledger.copies import copy_database
Path.rename = lambda *of: os.kill(os.getpid(), signal.SIGKILL)
copy_database(sqlite3.connect(sys.argv[1]), Path(sys.argv[2]))
"""


def test_what_a_killed_copy_left_goes_with_the_next_one_and_a_copy_being_made_stays(tmp_path: Path) -> None:
    ledger, target = tmp_path / "ledger.db", tmp_path / "copies" / "ledger-backup.db"
    target.parent.mkdir()
    with open_ledger(ledger) as opened:
        start_lab(opened)
    killed = subprocess.run([sys.executable, "-c", DIES_COPYING, str(ledger), str(target)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL and len(os.listdir(target.parent)) == 1
    parent = os.getppid()
    at_work, of_another_pid, other = (
        target.with_name(name)
        for name in (f".ledger-backup.db.{parent}", f".ledger-saved-1.db.{parent}", ".notes.db.x")
    )
    for path in (at_work, of_another_pid, other):
        path.touch()
    os.utime(of_another_pid, (1e9, 1e9))
    with closing(sqlite3.connect(ledger)) as source:
        copy_database(source, target)
    assert set(os.listdir(target.parent)) == {target.name, at_work.name, other.name}
    assert not broken_invariants(target)
