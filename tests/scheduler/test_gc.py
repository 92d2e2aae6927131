"""`arsched gc`: what is left over goes, with its size; refs, ledgers, whatever is in use or uncommitted stays."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from click.testing import CliRunner

from scheduler.actions import gc
from scheduler.actions.candidate import new_worktree
from scheduler.actions.gc import REMOVED, Sweep, collect_garbage
from scheduler.actions.submit import SubmitRequest, submit
from scheduler.cli.main import main
from scheduler.domain.slot import RunOrder
from scheduler.git import worktrees
from scheduler.node.spool import ACKNOWLEDGED, ALIVE, Spool, SpoolRoot
from scheduler.queue.runtime import SchedulerLock
from tests.scheduler.git_kit import git, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab
from tests.scheduler.memory_pool import VirtualClock
from tests.scheduler.supervisor_pool import fake_order

OLD_S = 90 * 86400.0
TRACED = {gc.__file__, worktrees.__file__}


class Leftovers:
    """A lab whose queue has run, with worktrees: `good` is decided, `draft` was never submitted."""

    def __init__(self, folder: Path) -> None:
        self.played = PlayedLab(folder)
        self.space, self.root = self.played.space, self.played.space.repo.root
        self.cache, self.spool = folder / "cache", SpoolRoot(folder / "cache" / "spool")
        self.good, self.draft = self.worktree("good", "SCORE = 1.95\n"), self.worktree("draft")
        submit(self.space, SubmitRequest((self.good,)))
        self.played.run()

    def worktree(self, name: str, source: str | None = None) -> Path:
        path = new_worktree(self.space, name).path
        if source:
            (path / "train.py").write_text(source)
        return path

    def attempt(self, key: str, lab_id: str | None = None) -> Spool:
        run_id, _, attempt = key.partition(".")
        order: RunOrder = fake_order(run_id, "score 1.0")
        lab_id = lab_id or self.space.lab.lab_id
        return self.spool.create("node/cpu0", replace(order, lab_id=lab_id, attempt=int(attempt)))

    def contract_cache(self, name: str, age_s: float = OLD_S) -> Path:
        folder = self.cache / name
        folder.mkdir(parents=True)
        manifest = folder / gc.MANIFEST
        manifest.write_text("{}")
        (folder / "rows").write_bytes(bytes(100_000))
        os.utime(manifest, (time.time() - age_s,) * 2)
        return folder

    def sweep(self, days: float = 30, *, dry_run: bool = False) -> Sweep:
        return collect_garbage(days, dry_run=dry_run, start=self.root)

    def all_paths(self) -> list[str]:
        kept = [path for path in self.played.folder.rglob("*") if ".git/worktrees" not in str(path)]
        return sorted(str(path) for path in kept if path.suffix not in (".lock", ".db-shm", ".db-wal", ".db-journal"))

    def refs(self) -> str:
        return git(self.root, "for-each-ref")


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Leftovers:
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ARSCHED_SPOOL", raising=False)
    monkeypatch.chdir(tmp_path)
    return Leftovers(tmp_path)


def test_a_dry_run_names_what_a_real_one_removes_and_changes_nothing(left: Leftovers) -> None:
    left.attempt("r0001.1")
    left.contract_cache("gone-000000000000")
    (left.space.paths.proposals / "agent" / "p0001").mkdir(parents=True)
    before, refs = left.all_paths(), left.refs()
    would = left.sweep(dry_run=True)
    assert left.all_paths() == before and left.refs() == refs
    assert {one.kind for one in would.removed} == {"worktree", "lab", "cache", "scratch"}
    assert {one.kind: one.bytes > 0 for one in would.removed} == dict.fromkeys(
        ("worktree", "lab", "cache", "scratch"), True
    )
    done = left.sweep()
    assert done.removed == would.removed and not [one for one in done.removed if one.path.exists()]
    assert left.refs() == refs and left.draft.is_dir()
    assert left.space.ledger.candidates.get("good", "t").name == "good"
    again = left.sweep()
    assert again.removed == [] and again.kept == done.kept
    assert str(left.good) not in git(left.root, "worktree", "list")


def test_a_branch_whose_worktree_went_can_be_checked_out_again(left: Leftovers) -> None:
    left.sweep()
    assert not left.good.exists()
    git(left.root, "worktree", "add", str(left.good), "arsched/t/good")
    assert (left.good / "train.py").read_text() == "SCORE = 1.95\n"


def edit(path: Path) -> None:
    (path / "train.py").write_text("SCORE = 1.0\n")


def edit_unseen(path: Path) -> None:
    git(path, "update-index", "--assume-unchanged", "README.md")
    (path / "README.md").write_text("mine\n")


def add_file(path: Path) -> None:
    (path / "notes.txt").write_text("mine\n")


def add_ignored(path: Path) -> None:
    git(path, "config", "core.excludesFile", str(path.parent.parent / ".ignored"))
    (path.parent.parent / ".ignored").write_text("*.pt\n")
    (path / "weights.pt").write_text("mine\n")


def stage(path: Path) -> None:
    edit(path)
    git(path, "add", "train.py")


def commit(path: Path) -> None:
    stage(path)
    git(path, "commit", "-qm", "one more")


def lock(path: Path) -> None:
    git(path, "worktree", "lock", str(path))


def bisect(path: Path) -> None:
    git(path, "bisect", "start")


@pytest.mark.parametrize("act", [edit, edit_unseen, add_file, add_ignored, stage, commit, lock, bisect])
def test_a_worktree_with_anything_of_the_users_in_it_stays(left: Leftovers, act: Callable[[Path], None]) -> None:
    act(left.good)
    before = left.all_paths()
    sweep = left.sweep()
    assert left.good in [one.path for one in sweep.kept] and not sweep.removed
    assert left.all_paths() == before


def test_bytecode_in_a_worktree_is_nobodys_work(left: Leftovers) -> None:
    (left.good / "__pycache__").mkdir()
    (left.good / "__pycache__" / "train.cpython-311.pyc").write_bytes(b"x")
    assert [one.path for one in left.sweep().removed] == [left.good]


def test_what_is_written_while_it_is_removed_stays(left: Leftovers, monkeypatch: pytest.MonkeyPatch) -> None:
    hide = gc._hidden

    def written(path: Path) -> Path:
        add_file(path)
        return hide(path)

    monkeypatch.setattr(gc, "_hidden", written)
    sweep = left.sweep()
    assert not sweep.removed and (left.good / "notes.txt").read_text() == "mine\n"


def test_a_worktree_that_moves_on_while_it_is_looked_at_stays(left: Leftovers, monkeypatch: pytest.MonkeyPatch) -> None:
    real = gc._Collector._why_kept

    def look_then_commit(self: Any, path: Path, decided: Any) -> str:
        said = real(self, path, decided)
        if path == left.good and not said:
            commit(path)
        return said

    monkeypatch.setattr(gc._Collector, "_why_kept", look_then_commit)
    sweep = left.sweep()
    assert left.good.is_dir() and left.good in [one.path for one in sweep.kept]


def test_a_candidate_with_runs_to_come_keeps_its_worktree(left: Leftovers) -> None:
    submit(left.space, SubmitRequest((left.good,), again=True))
    assert not left.sweep().removed
    left.played.run()
    assert [one.path for one in left.sweep().removed] == [left.good]


def test_while_a_queue_runs_its_spools_and_scratch_folders_stay(left: Leftovers) -> None:
    scratch, spool = left.space.paths.proposals / "agent" / "p0001", left.attempt("r0001.1")
    scratch.mkdir(parents=True)
    turn = SchedulerLock(left.space.paths.scheduler_lock)
    assert turn.try_take()
    try:
        assert [one.path for one in left.sweep().removed] == [left.good]
    finally:
        turn.release()
    assert scratch.is_dir() and spool.directory.is_dir()
    left.sweep()
    assert not scratch.exists() and not spool.directory.exists()


def test_a_living_judge_and_an_attempt_that_was_not_harvested_keep_their_spools(left: Leftovers) -> None:
    submit(left.space, SubmitRequest((left.worktree("late", "SCORE = 1.8\n"),)))
    (run,) = left.space.ledger.runs.queued("t")
    assert left.space.ledger.runs.lease(run.id, left.played.pool.slots()[0], 2000.0) == 1
    held, alive, over = (left.attempt(key) for key in (f"{run.id}.1", "r0001.1", "r0002.1"))
    with (alive.directory / ALIVE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        sweep = left.sweep()
        assert over.directory in [one.path for one in sweep.removed]
        assert held.directory.is_dir() and alive.directory.is_dir() and not over.directory.exists()
    assert alive.directory in [one.path for one in left.sweep().removed]
    assert (held.directory.parent / ACKNOWLEDGED).is_dir()


def test_spools_of_other_labs_are_not_looked_into(left: Leftovers) -> None:
    other = left.attempt("r0001.1", "other-5f5f5f5f5f5f")
    left.sweep()
    assert other.directory.is_dir()


def test_caches_that_something_uses_or_used_lately_stay(left: Leftovers) -> None:
    lab = left.space.lab
    own = left.contract_cache(f"{lab.contract_name}-{lab.contract_digest[:12]}")
    old, fresh = left.contract_cache("small-000000000000"), left.contract_cache("x-111111111111", age_s=86400.0)
    (left.cache / "mine").mkdir()
    assert old in [one.path for one in left.sweep().removed]
    assert own.is_dir() and fresh.is_dir() and (left.cache / "mine").is_dir() and not old.exists()
    assert fresh in [one.path for one in left.sweep(0.5).removed]


def test_a_cache_that_is_being_prepared_stays(left: Leftovers) -> None:
    cache = left.contract_cache("x-111111111111")
    with (left.cache / f"{cache.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(file.fileno(), (1, 1))
        sweep = left.sweep()
    assert cache.is_dir() and [one.path for one in sweep.kept if one.path == cache]


def test_a_cache_that_is_being_prepared_says_so(left: Leftovers) -> None:
    cache = left.contract_cache("x-111111111111")
    with (left.cache / f"{cache.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(file.fileno(), (1, 1))
        (kept,) = (one for one in left.sweep().kept if one.path == cache)
    assert "arsched prepare" in kept.reason and "Errno" not in kept.reason


def test_folders_that_a_candidate_left_closed_are_removed_by_an_ordinary_user() -> None:
    """In a process of its own, because root is stopped by no rights."""
    place = Path(tempfile.mkdtemp())
    closed = place / "spool" / "a" / "b"
    closed.mkdir(parents=True)
    (closed / "file").write_text("x")
    for folder in (place, place / "spool", closed.parent, closed):
        os.chown(folder, 65534 if os.geteuid() == 0 else -1, -1)
    for folder in (closed, closed.parent, place / "spool"):
        folder.chmod(0)
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        assert not list(place.iterdir())
        place.rmdir()
        return
    code = 1
    try:
        if os.geteuid() == 0:
            os.setuid(65534)
        gc._delete(place / "spool")
        code = 0
    finally:
        os._exit(code)


def test_no_copy_of_a_ledger_is_ever_removed(left: Leftovers) -> None:
    truth, state = left.space.paths.truth, left.space.paths.state
    copies = [truth / "ledger-saved-1.db", truth / "ledger-damaged-1.db", state / "ledger-backup.db"]
    for path in copies:
        shutil.copyfile(left.space.paths.ledger, path)
    left.sweep()
    assert all(path.is_file() for path in copies)


def test_the_command_prints_a_line_for_each_or_one_json_value(left: Leftovers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(left.root)
    said = CliRunner().invoke(main, ["gc", "--dry-run"])
    assert said.exit_code == 0 and "worktree" in said.stdout and "would free" in said.stdout, said.stderr
    assert "candidates/draft: its commit is of no decided candidate" in said.stderr
    value = json.loads(CliRunner().invoke(main, ["gc", "--json"]).stdout)
    assert value["dry_run"] is False and [one["path"] for one in value["removed"]] == [str(left.good)]
    assert value["bytes"] == value["removed"][0]["bytes"] > 0


def killed_at_line(root: Path, number: int) -> bool:
    """A gc in a process of its own, ended without a word at that line of its files; False when it ended before."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in TRACED:
            return None
        lines += event == "line"
        if lines > number:
            os._exit(9)
        return trace

    sys.settrace(trace)
    with suppress(BaseException):
        collect_garbage(30, start=root)
        os._exit(0)
    os._exit(1)


@pytest.mark.slow
def test_killed_at_any_line_the_next_goes_on_and_nothing_else_is_lost(left: Leftovers) -> None:
    left.attempt("r0001.1")
    manifest = left.contract_cache("gone-000000000000") / gc.MANIFEST
    left.space.ledger.close()
    saved, refs = shutil.copytree(left.played.folder, left.played.folder.parent / "saved", symlinks=True), left.refs()
    number, wanted = 0, None
    while True:
        shutil.rmtree(left.played.folder)
        shutil.copytree(saved, left.played.folder, symlinks=True)
        os.utime(manifest, (1, 1))  # to copy it was to use it
        if not killed_at_line(left.root, number):
            break
        left.sweep()
        assert not [path for path in left.all_paths() if REMOVED in path], number
        wanted = wanted or left.all_paths()
        assert left.all_paths() == wanted and left.refs() == refs, number
        assert left.draft.is_dir() and str(left.good) not in git(left.root, "worktree", "list")
        number += 7
    assert number > 60


def test_times_of_another_clock_do_not_matter(left: Leftovers) -> None:
    clock = VirtualClock(time.time() - OLD_S * 4)
    cache = left.contract_cache("x-111111111111")
    assert cache not in [one.path for one in collect_garbage(30, start=left.root, clock=clock).removed]
