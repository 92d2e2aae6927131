"""Submitting while git or its disk fails: never called a refusal of the candidate, and nothing is half recorded."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scheduler.queue.decide import keep_refs
from tests.scheduler.git_kit import break_every_hook, git, git_that_dies, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab, send, worktree
from tests.scheduler.ledger_kit import broken_invariants


@pytest.fixture
def played(tmp_path: Path) -> PlayedLab:
    return PlayedLab(tmp_path)


def lock_of_ref(played: PlayedLab) -> Path:
    return played.space.repo.root / ".git" / "refs" / "arsched" / "t" / "c0002.lock"


def lock_of_branch(played: PlayedLab) -> Path:
    return played.space.repo.root / ".git" / "refs" / "heads" / "arsched" / "t" / "wider.lock"


@pytest.mark.parametrize("lock", [lock_of_ref, lock_of_branch])
def test_a_lock_that_git_left_is_the_machines_fault_and_nothing_is_recorded(
    played: PlayedLab, lock: Callable[[PlayedLab], Path]
) -> None:
    path, file = worktree(played, "wider", "SCORE = 1.8\n"), played.folder / "good.py"
    file.write_text("SCORE = 1.81\n")
    left = lock(played)
    left.parent.mkdir(parents=True, exist_ok=True)
    left.touch()
    done = send(played, path)
    (failure,) = done.failed
    assert not done.refused and not done.candidates and not done.matched_nothing
    assert str(left) in failure.hint
    assert len(played.space.ledger.candidates.list("t")) == 1 and not broken_invariants(played.space.paths.ledger)
    left.unlink()
    assert [one.name for one in send(played, path, file).queued] == ["wider", "good"]
    root = played.space.repo.root
    assert git(root, "rev-parse", "refs/arsched/t/c0002").strip() == played.candidate("wider").commit


def test_a_git_that_is_killed_is_the_machines_fault(
    played: PlayedLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the commands it is; afterwards everything is as before, or recorded whole."""
    path, die_at = worktree(played, "wider", "SCORE = 1.8\n"), git_that_dies(tmp_path, monkeypatch)
    for number in range(1, 30):
        die_at(number)
        done = send(played, path)
        assert not done.refused
        if done.queued:
            break
        assert len(played.space.ledger.candidates.list("t")) == 1
        assert "killed by signal 9" in done.failed[0].reason
    assert number > 5, "no command was killed"
    assert not broken_invariants(played.space.paths.ledger)


def test_a_disk_without_room_is_the_machines_fault(played: PlayedLab, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = worktree(played, "wider", "SCORE = 1.8\n"), Path.read_bytes

    def full(file: Path) -> bytes:
        if file.name == "train.py":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return read(file)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", full)
        (failure,) = send(played, path).failed
    assert "Input/output error" in failure.reason and failure.hint
    assert len(send(played, path).queued) == 1


def test_a_ref_that_a_crash_left_out_is_made_up_for(played: PlayedLab) -> None:
    played.submit("idea", "SCORE = 1.8\n")
    root = played.space.repo.root
    git(root, "update-ref", "-d", "refs/arsched/t/c0002")
    keep_refs(played.space)
    assert git(root, "rev-parse", "refs/arsched/t/c0002").strip() == played.candidate("c0002").commit
