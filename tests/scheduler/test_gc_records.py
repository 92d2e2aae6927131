"""`arsched gc` after one that was killed at a worktree, output of labs that ended, and what laptops' verbs left."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

import pytest

from scheduler.actions.gc import REMOVED, Sweep, collect_garbage
from scheduler.actions.gc_records import REMOTE_S
from scheduler.domain.lab import Lab
from scheduler.domain.run import RunKind
from scheduler.queue.runtime import exclusive
from tests.scheduler.git_kit import git, no_configuration  # noqa: F401
from tests.scheduler.ledger_kit import make_lab
from tests.scheduler.test_gc import Leftovers, add_file, edit, left  # noqa: F401

DAYS = 86400.0


def hide(path: Path) -> Path:
    """As a gc leaves it that was killed between its first and its second look."""
    return path.rename(path.with_name(f"{REMOVED}0123456789abcdef"))


def hidden_ones(left: Leftovers) -> list[Path]:  # noqa: F811
    return list(left.space.paths.candidates.glob(f"{REMOVED}*"))


@pytest.mark.parametrize("write", [edit, add_file])
def test_work_in_a_worktree_that_a_killed_gc_had_hidden_is_put_back(left: Leftovers, write: object) -> None:  # noqa: F811
    write(hide(left.good))  # type: ignore[operator]
    dry = left.sweep(dry_run=True)
    assert hidden_ones(left) and not left.good.exists()
    assert set(hidden_ones(left)) <= {one.path for one in dry.kept} and not dry.removed
    sweep = left.sweep()
    assert left.good.is_dir() and not hidden_ones(left) and not sweep.removed
    assert left.good in [one.path for one in sweep.kept]
    assert (left.good / "notes.txt").is_file() or (left.good / "train.py").read_text() == "SCORE = 1.0\n"
    git(left.good, "status")


def test_a_worktree_that_a_killed_gc_had_hidden_goes_where_nothing_is_in_it(left: Leftovers) -> None:  # noqa: F811
    hidden = hide(left.good)
    assert [one.path for one in left.sweep(dry_run=True).removed] == [hidden] and hidden.is_dir()
    sweep = left.sweep()
    assert [one.path for one in sweep.removed] == [left.good] and not hidden_ones(left) and not left.good.exists()
    assert str(left.good) not in git(left.root, "worktree", "list")
    assert git(left.root, "rev-parse", "arsched/t/good")


def test_one_whose_place_was_taken_stays_hidden_and_is_named(left: Leftovers) -> None:  # noqa: F811
    add_file(hide(left.good))
    left.good.mkdir()
    sweep = left.sweep()
    (hidden,) = hidden_ones(left)
    assert (hidden / "notes.txt").is_file() and hidden in [one.path for one in sweep.kept]


def another_lab(left: Leftovers) -> Lab:  # noqa: F811
    """A lab begun after the one of `left`, which is current from then on."""
    lab = make_lab("later")
    left.space.ledger.labs.create(lab)
    left.space.ledger.labs.set_current("later")
    return lab


def sweep_after(left: Leftovers, days: float, *, dry_run: bool = False) -> Sweep:  # noqa: F811
    """A sweep that many days after the runs of the played lab, whose clock began at 1000 s."""
    return collect_garbage(30, dry_run=dry_run, start=left.root, clock=lambda: 2000.0 + days * DAYS)


def outputs(sweep: Sweep) -> set[str]:
    return {one.path.name for one in sweep.removed if one.kind == "output"}


def test_output_of_a_lab_that_ended_goes_after_the_days_and_its_results_stay(left: Leftovers) -> None:  # noqa: F811
    runs, ledger = left.space.paths.runs, left.space.ledger
    stranger = runs / "r0999.1"
    stranger.mkdir()
    there = {path.name for path in runs.iterdir()} - {"r0999.1"}
    assert len(there) > 3 and not outputs(sweep_after(left, 40)), "it is the current lab"
    another_lab(left)
    assert not outputs(sweep_after(left, 20))
    before = [run.state for run in ledger.runs.list("t")]
    assert outputs(sweep_after(left, 40, dry_run=True)) == there
    assert there < {path.name for path in runs.iterdir()}
    assert outputs(sweep_after(left, 40)) == there
    assert [path.name for path in runs.iterdir()] == ["r0999.1"], "runs of no lab here are left alone"
    assert [run.state for run in ledger.runs.list("t")] == before


def test_output_of_a_lab_with_a_run_to_come_stays(left: Leftovers) -> None:  # noqa: F811
    another_lab(left)
    left.space.ledger.runs.add("c0001", RunKind.BASELINE, "again")
    assert not outputs(sweep_after(left, 400))


class Laptop:
    """What verbs of a laptop have left at the head, all of it old."""

    def __init__(self, left: Leftovers) -> None:  # noqa: F811
        self.left, self.remote = left, left.space.paths.truth / "remote"
        self.job, self.carried, self.report = (
            self.remote / place for place in ("jobs/abc", "files/0123456789ab", "report/laptop-1")
        )
        for folder, name in ((self.job, "lock"), (self.carried, "lines.py"), (self.report, "index.html")):
            folder.mkdir(parents=True)
            (folder / name).write_text("x")
        self.age(REMOTE_S * 2)

    def age(self, seconds: float) -> None:
        for path in (*self.remote.rglob("*"), self.remote):
            os.utime(path, (time.time() - seconds,) * 2)

    def removed(self, *, dry_run: bool = False) -> set[Path]:
        return {one.path for one in self.left.sweep(dry_run=dry_run).removed if one.kind == "remote"}


@pytest.fixture
def laptop(left: Leftovers) -> Laptop:  # noqa: F811
    return Laptop(left)


def test_what_a_laptops_verbs_left_goes_after_a_week(laptop: Laptop) -> None:
    all_three = {laptop.job, laptop.carried, laptop.report}
    assert laptop.removed(dry_run=True) == all_three and laptop.job.is_dir()
    laptop.age(REMOTE_S / 2)
    assert laptop.removed() == set()
    laptop.age(REMOTE_S * 2)
    assert laptop.removed() == all_three
    assert not any(path.exists() for path in all_three) and laptop.removed() == set()


def test_what_was_touched_in_a_folder_counts_too(laptop: Laptop) -> None:
    (laptop.carried / "lines.py").touch()
    assert laptop.removed() == {laptop.job, laptop.report}


def test_while_a_laptops_verb_is_at_work_nothing_of_it_goes(laptop: Laptop) -> None:
    with (laptop.job / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        laptop.age(REMOTE_S * 2)
        assert laptop.removed() == set()


def test_one_that_begins_just_now_is_waited_for(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.actions.gc.SUBMIT_LOCK_S", 0.1)
    with exclusive(laptop.remote / "jobs" / "start.lock", 1.0):
        sweep = laptop.left.sweep()
    assert laptop.job.is_dir() and [one.path for one in sweep.removed] == [laptop.left.good]
    assert any(one.path == laptop.remote and "start.lock" in one.reason for one in sweep.kept)


def test_reports_go_where_there_never_was_a_job(laptop: Laptop) -> None:
    shutil.rmtree(laptop.remote / "jobs")
    laptop.age(REMOTE_S * 2)
    assert laptop.removed(dry_run=True) == laptop.removed() == {laptop.carried, laptop.report}
