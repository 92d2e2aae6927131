"""Three-way merges of a train.py: both changes or none, byte for byte, and nothing else of the repository touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.domain.errors import GitProblem
from scheduler.git import Repo
from scheduler.git.commits import merge_file
from tests.scheduler.git_kit import git, make_repository, no_configuration  # noqa: F401

BASE = b"".join(b"LINE_%d = %d\n" % (n, n) for n in range(12))


def changed(line: int, value: int, source: bytes = BASE) -> bytes:
    return source.replace(b"LINE_%d = %d\n" % (line, line), b"LINE_%d = %d\n" % (line, value))


def test_changes_far_apart_are_both_there() -> None:
    merged = merge_file(changed(1, 100), BASE, changed(9, 900))
    assert merged == changed(9, 900, changed(1, 100))


def test_changes_of_one_line_conflict_and_the_same_change_does_not() -> None:
    assert merge_file(changed(4, 100), BASE, changed(4, 200)) is None
    assert merge_file(changed(4, 100), BASE, changed(4, 100)) == changed(4, 100)


def test_many_conflicts_are_conflicts_not_a_failure() -> None:
    """git's status counts them, and counts no further than 127."""
    base = b"".join(b"A = %d\nB = 0\nC = 0\nD = 0\n" % n for n in range(300))
    ours, theirs = (base.replace(b"A = ", b"%b = " % name) for name in (b"OURS", b"THEIRS"))
    assert merge_file(ours, base, theirs) is None


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_line_ends_and_a_missing_last_one_stay_as_they_are(end: bytes) -> None:
    base = BASE.replace(b"\n", end)[: -len(end)]
    merged = merge_file(changed(1, 100).replace(b"\n", end)[: -len(end)], base, base.replace(b"LINE_9 = 9", b"X = 9"))
    assert merged == changed(1, 100).replace(b"\n", end)[: -len(end)].replace(b"LINE_9 = 9", b"X = 9")


def test_what_is_no_text_is_a_problem_not_a_conflict() -> None:
    with pytest.raises(GitProblem, match=r"merge-file failed: .*binary"):
        merge_file(b"\0\1", b"\0", b"\0\2")


@given(st.lists(st.booleans(), min_size=12, max_size=12), st.lists(st.booleans(), min_size=12, max_size=12))
def test_a_patch_on_its_own_base_is_itself_and_an_empty_one_changes_nothing(a: list[bool], b: list[bool]) -> None:
    one, other = (b"".join(b"LINE_%d = %d\n" % (n, n + 100 * on) for n, on in enumerate(flags)) for flags in (a, b))
    assert merge_file(BASE, BASE, one) == one == merge_file(one, BASE, BASE)
    forth, back = merge_file(one, BASE, other), merge_file(other, BASE, one)
    assert forth == back, "which of two is merged first must not matter where they do not conflict"


def test_the_repository_is_not_touched(tmp_path: Path) -> None:
    root = make_repository(tmp_path)
    before = git(root, "count-objects"), git(root, "status", "--porcelain"), sorted(p.name for p in root.iterdir())
    assert Repo.open(root).merge_train_py(changed(1, 100), BASE, changed(1, 200)) is None
    after = git(root, "count-objects"), git(root, "status", "--porcelain"), sorted(p.name for p in root.iterdir())
    assert after == before


def test_configuration_of_the_user_does_not_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".gitconfig").write_text("[merge]\n\tconflictStyle = nonsense\n[core]\n\tautocrlf = true\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert merge_file(changed(1, 100), BASE, changed(9, 900)) == changed(9, 900, changed(1, 100))
