"""The lab's own files are hidden from git in this clone alone: the user's .gitignore and exclude lines stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.domain.errors import GitProblem
from scheduler.git import Repo
from tests.scheduler.git_kit import git, make_repository, no_configuration, snapshot

__all__ = ["no_configuration"]

PATTERNS = ("/.arsched/", "/candidates/*", "/results.tsv")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_repository(tmp_path / "lab")
    (root / ".gitignore").write_text("/.arsched/\n")
    git(root, "commit", "--quiet", "--all", "--message", "ignores one of them")
    return root


def test_what_was_not_ignored_is_from_now_on(root: Path) -> None:
    before = snapshot(root)
    assert Repo.open(root).exclude(PATTERNS) == ("/candidates/*", "/results.tsv")
    assert snapshot(root) == before
    for path in (".arsched/ledger.db", "candidates/wide/train.py", "results.tsv"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x\n")
    assert git(root, "status", "--porcelain") == ""


def test_asking_again_writes_nothing(root: Path) -> None:
    repo = Repo.open(root)
    repo.exclude(PATTERNS)
    written = (root / ".git" / "info" / "exclude").read_bytes()
    assert repo.exclude(PATTERNS) == ()
    assert (root / ".git" / "info" / "exclude").read_bytes() == written


def test_lines_of_the_user_are_kept_byte_for_byte(root: Path) -> None:
    exclude = root / ".git" / "info" / "exclude"
    exclude.write_bytes(b"*.swp\n\xff latin-1 \xe9\nno newline at the end")
    Repo.open(root).exclude(PATTERNS)
    assert exclude.read_bytes().startswith(b"*.swp\n\xff latin-1 \xe9\nno newline at the end\n")


def test_a_tracked_file_does_not_hide_that_its_folder_is_not_ignored(root: Path) -> None:
    (root / "candidates").mkdir()
    (root / "candidates" / "README.md").write_text("x\n")
    git(root, "add", "--force", "candidates/README.md")
    git(root, "commit", "--quiet", "--message", "a tracked readme")
    assert "/candidates/*" in Repo.open(root).exclude(PATTERNS)


def test_an_exclude_file_that_cannot_be_written_is_named(root: Path) -> None:
    exclude = root / ".git" / "info" / "exclude"
    exclude.unlink(missing_ok=True)
    exclude.mkdir()
    with pytest.raises(GitProblem, match="exclude"):
        Repo.open(root).exclude(PATTERNS)
