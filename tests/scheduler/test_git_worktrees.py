"""Candidates' worktrees: made by many at once, looked into honestly, committed without taking anything else along."""

from __future__ import annotations

import multiprocessing
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from git import Git as GitCommand

from scheduler.domain.errors import CandidateRejected, GitProblem, LabProblem
from scheduler.git import Repo, WorktreeState, commits
from scheduler.git.worktrees import list_worktrees
from tests.scheduler.git_kit import TRAIN, git, make_repository, no_configuration

__all__ = ["no_configuration"]

CONTEXT = multiprocessing.get_context("forkserver")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "lab")


@pytest.fixture
def repo(root: Path) -> Repo:
    return Repo.open(root)


@pytest.fixture
def base(repo: Repo) -> str:
    return repo.head_commit()


@pytest.fixture
def home(repo: Repo, root: Path, base: str) -> Path:
    """A candidate's worktree on a branch of its own."""
    repo.add_worktree(root / "candidates" / "wide", base, "candidates/wide")
    return root / "candidates" / "wide"


# Making and removing


@pytest.mark.parametrize("name", ["two words", 'it\'s "quoted"', "line\nbreak", "-dash", "ünï", "$(touch x)", "%s"])
def test_any_folder_name_will_do(repo: Repo, root: Path, base: str, name: str) -> None:
    repo.add_worktree(root / "candidates" / name, base, None)
    home = root / "candidates" / name
    assert (home / "train.py").read_bytes() == TRAIN
    assert repo.has_worktree(home)
    repo.drop_worktree(home)
    assert not home.exists() and len(list_worktrees(root)) == 1


@pytest.mark.parametrize("branch", ["wide", None])
def test_a_worktree_that_was_only_half_made_is_taken_back(
    repo: Repo, root: Path, base: str, monkeypatch: pytest.MonkeyPatch, branch: str | None
) -> None:
    home, run = root / "candidates" / "wide", commits.run_git

    def killed_afterwards(folder: Path, *arguments: str, **more: Any) -> bytes:
        done = run(folder, *arguments, **more)
        if arguments[:2] == ("worktree", "add"):
            (home / "train.py").unlink()
            raise GitProblem("git worktree was killed by signal 9")
        return done

    with monkeypatch.context() as patch:
        patch.setattr(commits, "run_git", killed_afterwards)
        with pytest.raises(GitProblem, match="killed"):
            repo.add_worktree(home, base, branch)
    assert not home.exists() and len(list_worktrees(root)) == 1
    repo.add_worktree(home, base, branch)
    assert (home / "train.py").read_bytes() == TRAIN


def test_a_worktree_starts_clean_on_its_branch(repo: Repo, home: Path, base: str) -> None:
    state = repo.inspect(home, base)
    assert (state.head, state.branch, state.changed, state.dirty) == (base, "candidates/wide", (), False)


def test_the_main_checkout_does_not_notice(repo: Repo, root: Path, home: Path) -> None:
    assert git(root, "status", "--porcelain") == ""
    assert repo.current_branch() == "main"


@pytest.mark.parametrize("what", ["file", "full folder", "link"])
def test_what_is_already_there_is_kept(repo: Repo, root: Path, base: str, what: str) -> None:
    place = root / "candidates" / "taken"
    place.parent.mkdir()
    match what:
        case "file":
            place.write_text("mine\n")
        case "full folder":
            place.mkdir()
            (place / "train.py").write_text("mine\n")
        case "link":
            place.symlink_to(root / "harness")
    with pytest.raises(GitProblem, match="exists already"):
        repo.add_worktree(place, base, "taken")
    assert repo.branch_commit("taken") is None
    assert place.is_symlink() or (place if place.is_file() else place / "train.py").read_text() == "mine\n"


def test_a_branch_with_commits_of_its_own_is_kept(repo: Repo, root: Path, home: Path, base: str) -> None:
    (home / "train.py").write_text("mine\n")
    mine, _ = repo.commit_worktree(home, "mine")
    shutil.rmtree(home)
    with pytest.raises(GitProblem, match="holds other commits"):
        repo.add_worktree(home, base, "candidates/wide")
    assert repo.branch_commit("candidates/wide") == mine


def test_a_worktree_deleted_by_hand_is_made_again(repo: Repo, home: Path, base: str) -> None:
    shutil.rmtree(home)
    repo.add_worktree(home, base, "candidates/wide")
    assert repo.inspect(home, base).branch == "candidates/wide"


def test_a_branch_checked_out_elsewhere_is_not_taken(repo: Repo, root: Path, base: str) -> None:
    with pytest.raises(GitProblem, match="already"):
        repo.add_worktree(root / "candidates" / "second", base, "main")
    assert not (root / "candidates" / "second" / "train.py").exists()


def test_many_threads_make_worktrees_at_once(repo: Repo, root: Path, base: str) -> None:
    problems: list[BaseException] = []

    def add(number: int) -> None:
        try:
            repo.add_worktree(root / "candidates" / f"n{number}", base, f"candidates/n{number}")
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert all(repo.inspect(root / "candidates" / f"n{number}", base).head == base for number in range(8))


def add_worktrees(root: Path, process: int) -> None:
    repo = Repo.open(root)
    for number in range(4):
        name = f"p{process}-{number}"
        repo.add_worktree(root / "candidates" / name, repo.head_commit(), f"candidates/{name}")


def test_many_processes_make_worktrees_at_once(repo: Repo, root: Path, base: str) -> None:
    processes = [CONTEXT.Process(target=add_worktrees, args=(root, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list((root / "candidates").iterdir())) == 12
    git(root, "fsck", "--strict")


# Looking into one


def test_every_kind_of_change_is_seen(repo: Repo, home: Path, base: str) -> None:
    (home / "train.py").write_text("edited\n")
    (home / "README.md").unlink()
    (home / "staged.py").write_text("staged\n")
    git(home, "add", "staged.py")
    (home / 'un\ntracked "file".py').write_text("untracked\n")
    (home / "new folder").mkdir()
    (home / "new folder" / "inside.py").write_text("untracked\n")
    (home / "__pycache__").mkdir()
    (home / "__pycache__" / "x.pyc").write_bytes(b"ignored")
    state = repo.inspect(home, base)
    names = {"train.py", "README.md", "staged.py", 'un\ntracked "file".py', "new folder/inside.py"}
    assert set(state.changed) == names
    assert state.dirty


def test_committed_changes_are_seen_even_if_taken_back_in_the_folder(repo: Repo, home: Path, base: str) -> None:
    (home / "harness" / "judge.py").write_text("SCORE = 100\n")
    git(home, "commit", "--quiet", "--all", "--message", "cheat")
    assert repo.inspect(home, base).changed == ("harness/judge.py",)
    assert not repo.inspect(home, base).dirty
    git(home, "checkout", "--quiet", base, "--", "harness/judge.py")
    assert repo.inspect(home, base).changed == ("harness/judge.py",)


def test_a_renamed_file_is_two_changes(repo: Repo, home: Path, base: str) -> None:
    git(home, "config", "status.renames", "copies")
    git(home, "mv", "harness/judge.py", "judge.py")
    assert repo.inspect(home, base).changed == ("harness/judge.py", "judge.py")


def test_settings_of_the_user_do_not_hide_untracked_files(repo: Repo, home: Path, base: str) -> None:
    git(home, "config", "status.showUntrackedFiles", "no")
    git(home, "config", "status.relativePaths", "true")
    (home / "hidden.py").write_text("x\n")
    assert repo.inspect(home, base).changed == ("hidden.py",)


def test_a_touched_file_is_no_change(repo: Repo, home: Path, base: str) -> None:
    (home / "train.py").write_bytes(TRAIN)
    assert repo.inspect(home, base).changed == ()


def test_a_detached_worktree_has_no_branch(repo: Repo, root: Path, base: str) -> None:
    repo.add_worktree(root / "candidates" / "loose", base, None)
    assert repo.inspect(root / "candidates" / "loose", base).branch is None


def test_a_plain_folder_is_no_worktree(repo: Repo, root: Path, home: Path, base: str, tmp_path: Path) -> None:
    """One inside the main worktree must not be taken for it."""
    plain = root / "candidates" / "plain"
    plain.mkdir()
    (plain / "train.py").write_text("x\n")
    stranger = make_repository(tmp_path / "stranger")
    for place in (plain, home / "harness", tmp_path, stranger, root / "nowhere", root / "train.py"):
        assert not repo.has_worktree(place)
        with pytest.raises(LabProblem, match="no worktree"):
            repo.inspect(place, base)


@pytest.fixture
def line(repo: Repo, base: str) -> list[str]:
    """Baselines one after the other, the first at the main worktree's commit."""
    commits = [base]
    for depth in (5, 6, 7):
        commits.append(repo.commit_train_py(commits[-1], f"DEPTH = {depth}\n".encode(), f"depth {depth}", {}))
    return commits


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_it_is_seen_against_the_last_baseline_it_descends_from(
    repo: Repo, root: Path, line: list[str], index: int
) -> None:
    home = root / "candidates" / "idea"
    repo.add_worktree(home, line[index], "idea")
    assert repo.inspect(home, *line) == WorktreeState(line[index], "idea", line[index], (), False)
    (home / "train.py").write_text("DEPTH = 9\n")
    commit, _ = repo.commit_worktree(home, "nine")
    (home / "notes.txt").write_text("mine\n")
    state = repo.inspect(home, *line)
    assert state == WorktreeState(commit, "idea", line[index], ("notes.txt", "train.py"), True)


def test_one_that_descends_from_no_baseline_is_seen_against_the_last(repo: Repo, root: Path, line: list[str]) -> None:
    git(root, "checkout", "--quiet", "--orphan", "unrelated")
    git(root, "commit", "--quiet", "--message", "unrelated")
    git(root, "checkout", "--quiet", "main")
    home = root / "candidates" / "stranger"
    repo.add_worktree(home, git(root, "rev-parse", "unrelated").strip(), None)
    state = repo.inspect(home, *line)
    assert (state.base, state.branch, state.changed) == (line[-1], None, ("train.py",))


def test_a_submit_takes_few_git_commands(
    repo: Repo, root: Path, line: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs some milliseconds, and two hundred worktrees are submitted at once."""
    home = root / "candidates" / "idea"
    repo.add_worktree(home, line[-1], "idea")
    calls: list[str] = []
    execute = GitCommand.execute

    def counted(self: GitCommand, command: list[str], **more: object) -> object:
        calls.append(next(word for word in command[1:] if not word.startswith("-") and "=" not in word))
        return execute(self, command, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(GitCommand, "execute", counted)
    (home / "train.py").write_text("DEPTH = 9\n")
    assert repo.has_worktree(home) and repo.inspect(home, *line).dirty
    commit, _ = repo.commit_worktree(home, "nine")
    repo.keep_ref("t", "c0007", commit)
    assert len(calls) <= 11, calls
    calls.clear()
    state = repo.inspect(home, *line)  # now committed by hand
    assert not state.dirty and repo.read(state.head, "train.py") and repo.subject(state.head) == "nine"
    repo.keep_ref("t", "c0008", state.head)
    assert len(calls) <= 7, calls


# Committing in one


def test_a_commit_takes_train_py_and_leaves_the_rest_as_it_was(repo: Repo, home: Path, base: str) -> None:
    (home / "train.py").write_text("DEPTH = 6\n")
    (home / "README.md").write_text("edited\n")
    (home / "staged.py").write_text("staged\n")
    git(home, "add", "staged.py")
    commit, _ = repo.commit_worktree(home, "try six")
    assert repo.branch_commit("candidates/wide") == commit
    assert git(home, "diff", "--name-only", base, commit) == "train.py\n"
    assert git(home, "status", "--porcelain") == " M README.md\nA  staged.py\n"
    assert git(home, "rev-parse", f"{commit}^").strip() == base


def test_nothing_to_commit_is_the_commit_there_is(repo: Repo, home: Path, base: str) -> None:
    assert repo.commit_worktree(home, "nothing")[0] == base
    (home / "train.py").write_text("x\n")
    commit, _ = repo.commit_worktree(home, "something")
    assert repo.commit_worktree(home, "nothing")[0] == commit != base


def test_a_detached_worktree_is_committed_too(repo: Repo, root: Path, base: str) -> None:
    loose = root / "candidates" / "loose"
    repo.add_worktree(loose, base, None)
    (loose / "train.py").write_text("x\n")
    commit, _ = repo.commit_worktree(loose, "loose")
    assert repo.inspect(loose, base).head == commit
    assert repo.read(commit, "train.py") == b"x\n"
    assert git(loose, "status", "--porcelain") == ""


@pytest.mark.parametrize("autocrlf", ["true", "input", "false"])
def test_line_ends_go_in_as_git_add_would_have_them(repo: Repo, home: Path, base: str, autocrlf: str) -> None:
    git(home, "config", "core.autocrlf", autocrlf)
    git(home, "config", "core.safecrlf", "false")
    (home / "train.py").write_bytes(b"a\r\nb\r\n")
    commit, data = repo.commit_worktree(home, "from a Windows editor")
    assert data == repo.read(commit, "train.py") == (b"a\r\nb\r\n" if autocrlf == "false" else b"a\nb\n")
    assert git(home, "status", "--porcelain") == ""
    assert repo.commit_worktree(home, "again")[0] == commit


@pytest.mark.parametrize("what", ["nothing", "folder", "link", "dangling link"])
def test_only_a_regular_train_py_is_committed(repo: Repo, home: Path, base: str, what: str) -> None:
    (home / "train.py").unlink()
    match what:
        case "folder":
            (home / "train.py").mkdir()
        case "link":
            (home / "train.py").symlink_to("README.md")
        case "dangling link":
            (home / "train.py").symlink_to("nowhere")
    with pytest.raises(CandidateRejected, match="no regular file"):
        repo.commit_worktree(home, "what?")
    assert repo.inspect(home, base).head == base


def test_an_index_locked_by_a_dead_git_does_not_stop_a_commit(repo: Repo, home: Path) -> None:
    (home / "train.py").write_text("x\n")
    lock = Path(git(home, "rev-parse", "--path-format=absolute", "--git-path", "index.lock").rstrip("\n"))
    lock.touch()
    commit, _ = repo.commit_worktree(home, "in spite of it")
    lock.unlink()
    assert repo.read(commit, "train.py") == b"x\n"
    assert repo.commit_worktree(home, "again")[0] == commit


def test_an_unknown_user_can_work_in_a_worktree(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "no user", user=False)
    repo = Repo.open(root)
    home = root / "candidates" / "wide"
    repo.add_worktree(home, repo.head_commit(), "wide")
    (home / "train.py").write_text("x\n")
    commit, _ = repo.commit_worktree(home, "without a user")
    assert git(root, "log", "-1", "--format=%cn", commit).strip() == "arsched"
