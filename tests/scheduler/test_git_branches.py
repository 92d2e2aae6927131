"""Branches that move only from where they were thought to be, and checkouts that follow without losing an edit."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from scheduler.domain.errors import ArschedError, GitProblem, LabProblem
from scheduler.git import Repo
from tests.scheduler.git_kit import TRAIN, git, make_repository, no_configuration, snapshot

__all__ = ["no_configuration"]

BRANCH = "autoresearch/t"
BETTER = b"DEPTH = 5\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "lab")


@pytest.fixture
def repo(root: Path) -> Repo:
    return Repo.open(root)


@pytest.fixture
def first(repo: Repo) -> str:
    repo.create_branch(BRANCH, repo.head_commit())
    return repo.head_commit()


@pytest.fixture
def better(repo: Repo, first: str) -> str:
    return repo.commit_train_py(first, BETTER, "Promote c0002", {"Candidate": "c0002"})


@pytest.fixture
def checked_out(root: Path, first: str) -> Path:
    git(root, "checkout", "--quiet", BRANCH)
    return root


def test_a_branch_is_created_once(repo: Repo, first: str) -> None:
    assert repo.branch_commit(BRANCH) == first
    with pytest.raises(LabProblem, match="exists already"):
        repo.create_branch(BRANCH, first)


@pytest.mark.parametrize("name", ["", "two words", "a..b", "line\nbreak", "-x.lock", "ends.lock", "tilde~1", "a//b"])
def test_a_name_git_does_not_take_is_refused(repo: Repo, name: str) -> None:
    with pytest.raises(GitProblem, match="no valid name"):
        repo.create_branch(name, repo.head_commit())
    with pytest.raises(GitProblem, match="no valid name"):
        repo.keep_ref(name, "c0001", repo.head_commit())
    assert repo.branch_commit(name) is None


def test_a_branch_next_to_a_namesake_folder_is_refused(repo: Repo, first: str) -> None:
    with pytest.raises(GitProblem):
        repo.create_branch("autoresearch", first)


def test_a_branch_that_is_nowhere_checked_out_moves_alone(repo: Repo, root: Path, first: str, better: str) -> None:
    before = snapshot(root)
    assert repo.move_branch(BRANCH, better, first) == ""
    assert repo.branch_commit(BRANCH) == better
    assert snapshot(root) == before
    assert not repo.inspect(root, first).dirty


def test_moving_twice_is_moving_once(repo: Repo, first: str, better: str) -> None:
    repo.move_branch(BRANCH, better, first)
    repo.move_branch(BRANCH, better, first)
    assert repo.branch_commit(BRANCH) == better


def test_a_branch_someone_moved_stays_where_they_put_it(repo: Repo, first: str, better: str) -> None:
    theirs = repo.commit_train_py(first, b"theirs\n", "theirs", {})
    repo.move_branch(BRANCH, theirs, first)
    with pytest.raises(LabProblem, match=theirs[:12]):
        repo.move_branch(BRANCH, better, first)
    assert repo.branch_commit(BRANCH) == theirs


def test_a_branch_that_is_gone_is_not_made_again(repo: Repo, root: Path, first: str, better: str) -> None:
    git(root, "branch", "--delete", "--force", BRANCH)
    with pytest.raises(LabProblem, match="no commit"):
        repo.move_branch(BRANCH, better, first)


def test_a_clean_checkout_follows(repo: Repo, checked_out: Path, first: str, better: str) -> None:
    assert repo.move_branch(BRANCH, better, first) == str(checked_out)
    assert (checked_out / "train.py").read_bytes() == BETTER
    assert git(checked_out, "status", "--porcelain") == ""
    assert repo.head_commit() == better


def test_a_checkout_in_a_worktree_elsewhere_follows(repo: Repo, tmp_path: Path, first: str, better: str) -> None:
    home = tmp_path / "look at\nthe baseline"
    repo.add_worktree(home, first, BRANCH)
    assert repo.move_branch(BRANCH, better, first) == str(home)
    assert (home / "train.py").read_bytes() == BETTER
    assert git(home, "status", "--porcelain") == ""


def test_a_deleted_worktree_does_not_hold_the_branch(repo: Repo, tmp_path: Path, first: str, better: str) -> None:
    home = tmp_path / "gone"
    repo.add_worktree(home, first, BRANCH)
    home.rename(tmp_path / "moved away")
    assert repo.move_branch(BRANCH, better, first) == ""
    assert repo.branch_commit(BRANCH) == better


@pytest.mark.parametrize("staged", [False, True])
def test_an_edit_of_train_py_is_never_lost(
    repo: Repo, checked_out: Path, first: str, better: str, staged: bool
) -> None:
    (checked_out / "train.py").write_bytes(b"my own idea\n")
    if staged:
        git(checked_out, "add", "train.py")
    before, status = snapshot(checked_out), git(checked_out, "status", "--porcelain")
    with pytest.raises(GitProblem, match="in the way") as problem:
        repo.move_branch(BRANCH, better, first)
    assert "train.py" in problem.value.message
    assert "stash" in problem.value.hint
    assert repo.branch_commit(BRANCH) == first
    assert (snapshot(checked_out), git(checked_out, "status", "--porcelain")) == (before, status)


def test_an_untracked_file_in_the_way_is_never_lost(repo: Repo, checked_out: Path, first: str) -> None:
    """Even one that git ignores."""
    (checked_out / "candidates").mkdir()
    (checked_out / "candidates" / "mine.py").write_text("mine\n")
    git(checked_out, "checkout", "--quiet", "--detach")
    git(checked_out, "rm", "--quiet", "--cached", ".gitignore")
    git(checked_out, "add", "--force", "candidates/mine.py")
    git(checked_out, "commit", "--quiet", "--message", "brings a file")
    brings = repo.head_commit()
    git(checked_out, "checkout", "--quiet", "--force", BRANCH)
    (checked_out / "candidates").mkdir(exist_ok=True)
    (checked_out / "candidates" / "mine.py").write_text("edited since\n")
    with pytest.raises(GitProblem, match="in the way"):
        repo.move_branch(BRANCH, brings, first)
    assert (checked_out / "candidates" / "mine.py").read_text() == "edited since\n"
    assert repo.branch_commit(BRANCH) == first


def test_edits_of_other_files_stay_while_train_py_follows(
    repo: Repo, checked_out: Path, first: str, better: str
) -> None:
    (checked_out / "README.md").write_text("my notes\n")
    (checked_out / "harness" / "judge.py").write_text("staged\n")
    git(checked_out, "add", "harness/judge.py")
    (checked_out / "new.txt").write_text("untracked\n")
    status = git(checked_out, "status", "--porcelain")
    repo.move_branch(BRANCH, better, first)
    assert (checked_out / "train.py").read_bytes() == BETTER
    assert git(checked_out, "status", "--porcelain") == status
    assert (checked_out / "README.md").read_text() == "my notes\n"


def test_a_merge_under_way_is_left_alone(repo: Repo, checked_out: Path, first: str, better: str) -> None:
    git(checked_out, "checkout", "--quiet", "-b", "theirs")
    (checked_out / "train.py").write_text("theirs\n")
    git(checked_out, "commit", "--quiet", "--all", "--message", "theirs")
    git(checked_out, "checkout", "--quiet", "-b", "ours", first)
    (checked_out / "train.py").write_text("ours\n")
    git(checked_out, "commit", "--quiet", "--all", "--message", "ours")
    ours = repo.head_commit()
    git(checked_out, "merge", "theirs", check=False)
    conflicted = (checked_out / "train.py").read_bytes()
    with pytest.raises(GitProblem, match="in the way"):
        repo.move_branch("ours", better, ours)
    assert (checked_out / "train.py").read_bytes() == conflicted
    assert repo.branch_commit("ours") == ours


# A move cut short by a crash, at each of its steps, is finished by the next call.


def test_a_crash_after_the_file_was_written_is_healed(repo: Repo, checked_out: Path, first: str, better: str) -> None:
    (checked_out / "train.py").write_bytes(BETTER)
    repo.move_branch(BRANCH, better, first)
    assert git(checked_out, "status", "--porcelain") == ""


def test_a_crash_after_files_and_index_followed_is_healed(
    repo: Repo, checked_out: Path, first: str, better: str
) -> None:
    git(checked_out, "read-tree", "-m", "-u", first, better)
    repo.move_branch(BRANCH, better, first)
    assert git(checked_out, "status", "--porcelain") == ""
    assert repo.branch_commit(BRANCH) == better


def test_of_many_movers_at_once_one_wins(repo: Repo, root: Path, first: str) -> None:
    rivals = [repo.commit_train_py(first, f"rival {n}\n".encode(), f"rival {n}", {}) for n in range(6)]
    git(root, "checkout", "--quiet", BRANCH)
    won: list[str] = []
    lost: list[Exception] = []

    def move(commit: str) -> None:
        try:
            repo.move_branch(BRANCH, commit, first)
            won.append(commit)
        except ArschedError as problem:
            lost.append(problem)

    threads = [threading.Thread(target=move, args=(commit,)) for commit in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 5)
    assert repo.branch_commit(BRANCH) == won[0]
    assert git(root, "status", "--porcelain") == ""


def test_line_ends_converted_on_checkout_are_no_edit(repo: Repo, checked_out: Path, first: str, better: str) -> None:
    git(checked_out, "config", "core.autocrlf", "true")
    (checked_out / "train.py").unlink()
    git(checked_out, "checkout", "--quiet", "--", "train.py")
    assert (checked_out / "train.py").read_bytes() == TRAIN.replace(b"\n", b"\r\n")
    repo.move_branch(BRANCH, better, first)
    assert (checked_out / "train.py").read_bytes() == BETTER.replace(b"\n", b"\r\n")
    assert git(checked_out, "status", "--porcelain") == ""


def test_a_kept_ref_survives_its_branch_and_a_pruning(repo: Repo, root: Path, first: str, better: str) -> None:
    assert repo.keep_ref("t", "c0002", better) == "refs/arsched/t/c0002"
    repo.keep_ref("t", "c0002", better)
    git(root, "reflog", "expire", "--expire=now", "--all")
    git(root, "gc", "--quiet", "--prune=now")
    assert repo.read(better, "train.py") == BETTER
