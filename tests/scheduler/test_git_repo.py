"""Finding the repository and committing to it without touching a checkout, whatever state the user left it in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.domain.errors import GitProblem, LabProblem
from scheduler.git import Repo
from scheduler.git.commits import compose, resolve
from tests.scheduler.git_kit import TRAIN, break_every_hook, git, make_repository, no_configuration, snapshot

__all__ = ["no_configuration"]

TRAILERS = {
    "Candidate": "c0007 wider-mlp",
    "Val-bpb": "1.861400",
    "Effect": "-0.0130 ± 0.0050",
    "Runs": "r0012 r0013",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_repository(tmp_path / 'a lab\'s "folder"\nwith $HOME, ~ and ünïcode')


@pytest.fixture
def repo(root: Path) -> Repo:
    return Repo.open(root)


# Finding it


def test_it_is_found_from_a_folder_inside(root: Path) -> None:
    assert Repo.open(root / "harness").root == root


def test_it_is_found_from_a_candidates_worktree(repo: Repo, root: Path) -> None:
    home = root / "candidates" / "wide"
    repo.add_worktree(home, repo.head_commit(), "wide")
    (home / "deeper").mkdir()
    assert Repo.open(home / "deeper") == repo


def test_it_is_found_with_its_git_folder_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    git(tmp_path / "tree", "init", "--quiet", "--separate-git-dir", str(tmp_path / "store"))
    make_repository(tmp_path / "tree")
    assert Repo.open(tmp_path / "tree").root == tmp_path / "tree"


def test_a_hooks_environment_does_not_lead_elsewhere(
    repo: Repo, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    assert Repo.open(root) == repo


def test_no_repository_is_said_with_where(tmp_path: Path) -> None:
    with pytest.raises(LabProblem, match=f"no git repository at {tmp_path}"):
        Repo.open(tmp_path)
    with pytest.raises(LabProblem, match="no git repository"):
        Repo.open(tmp_path / "not" / "there")


def test_a_bare_repository_is_refused(root: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", str(root), "bare")
    with pytest.raises(LabProblem, match="bare"):
        Repo.open(tmp_path / "bare")


def test_a_missing_git_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = Repo.open(root)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(GitProblem, match="git cannot be run") as problem:
        repo.current_branch()
    assert "PATH" in problem.value.hint


def test_a_git_missing_from_the_start_is_said(root: Path) -> None:
    script = "import sys; from pathlib import Path; from scheduler.git import Repo; Repo.open(Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(root)],
        env={"PATH": "/nowhere", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.stderr.strip().splitlines()[-1] == "scheduler.domain.errors.GitProblem: git cannot be run"


def test_finding_it_does_not_import_gitpython(root: Path) -> None:
    """Its import takes longer than `arsched status` may."""
    script = "import sys; from pathlib import Path; from scheduler.git import Repo; Repo.open(Path(sys.argv[1]))"
    script += "; sys.exit('git' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script, str(root)], cwd=Path(__file__).parents[2]).returncode == 0


def test_no_commit_yet_is_said(tmp_path: Path) -> None:
    repo = Repo.open(make_repository(tmp_path / "new", commit=False))
    with pytest.raises(LabProblem, match="no commit yet") as problem:
        repo.head_commit()
    assert "git commit" in problem.value.hint
    assert repo.current_branch() == "main"


# Looking at it


def test_a_detached_head_has_a_commit_and_no_branch(repo: Repo, root: Path) -> None:
    git(root, "checkout", "--quiet", "--detach")
    assert repo.current_branch() is None
    assert repo.head_commit() == git(root, "rev-parse", "main").strip()


@pytest.mark.parametrize("change", ["edit", "stage", "remove", "untracked", "ignored"])
def test_dirty_means_a_file_that_git_sees_is_not_as_committed(repo: Repo, root: Path, change: str) -> None:
    first = repo.head_commit()
    assert repo.inspect(root, first).changed == ()
    match change:
        case "edit":
            (root / "README.md").write_text("edited\n")
        case "stage":
            (root / "README.md").write_text("edited\n")
            git(root, "add", "README.md")
        case "remove":
            (root / "README.md").unlink()
        case "untracked":
            (root / "notes of mine.txt").write_text("mine\n")
        case "ignored":
            (root / "candidates").mkdir()
            (root / "candidates" / "x.py").write_text("x\n")
    state = repo.inspect(root, first)
    expected = {"untracked": ("notes of mine.txt",), "ignored": ()}.get(change, ("README.md",))
    assert (state.dirty, state.changed) == (bool(expected), expected)


@pytest.mark.parametrize("data", [b"", b"\r\nx = 1\r\n", b"\xff\x00\xfe no text", b"no newline at the end", b"x\n\n\n"])
def test_bytes_come_back_as_they_went_in(repo: Repo, root: Path, data: bytes) -> None:
    git(root, "config", "core.autocrlf", "true")
    commit = repo.commit_train_py(repo.head_commit(), data, "any bytes", {})
    assert repo.read(commit, "train.py") == data


def test_a_huge_file_comes_back_whole(repo: Repo) -> None:
    data = b"# sixteen bytes\n" * (1 << 19)  # 8 MiB
    assert repo.read(repo.commit_train_py(repo.head_commit(), data, "huge", {}), "train.py") == data


@pytest.mark.parametrize(("commit", "path"), [("HEAD", "missing.py"), ("HEAD", "harness"), ("f" * 40, "train.py")])
def test_what_cannot_be_read_is_named(repo: Repo, commit: str, path: str) -> None:
    with pytest.raises(GitProblem, match=path):
        repo.read(commit, path)


@pytest.mark.parametrize("revision", ["", "--all", "no such", "main:train.py", "f" * 40])
def test_what_is_no_commit_is_refused(root: Path, revision: str) -> None:
    with pytest.raises(GitProblem, match="no commit"):
        resolve(root, revision)


# Committing to it


def test_a_commit_changes_train_py_and_nothing_else(repo: Repo, root: Path) -> None:
    first = repo.head_commit()
    before, index = snapshot(root), (root / ".git" / "index").read_bytes()
    commit = repo.commit_train_py(first, b"DEPTH = 5\n", "Deeper", {})
    assert git(root, "diff", "--name-status", first, commit) == "M\ttrain.py\n"
    assert git(root, "rev-parse", f"{commit}^").strip() == first
    assert snapshot(root) == before
    assert (root / ".git" / "index").read_bytes() == index
    assert repo.head_commit() == first


def test_a_commit_keeps_odd_names_modes_and_links_of_its_parent(repo: Repo, root: Path) -> None:
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "train.py").chmod(0o755)
    (root / "link").symlink_to("train.py")
    (root / "a\tname \"with\"\nall of 'it' \\").write_text("x\n")
    (root / "zz.py").write_text("sorts after train.py\n")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "odd")
    parent = repo.head_commit()
    commit = repo.commit_train_py(parent, b"x\n", "odd", {})
    listed = [git(root, "ls-tree", "-r", "-z", c).split("\0") for c in (parent, commit)]
    changed = [line for line in listed[1] if line not in listed[0]]
    assert [line.split("\t")[1] for line in changed] == ["train.py"]
    assert changed[0].startswith("100755")
    git(root, "fsck", "--strict")


def test_a_commit_can_bring_the_first_train_py(repo: Repo, root: Path) -> None:
    git(root, "rm", "--quiet", "train.py")
    git(root, "commit", "--quiet", "--message", "without")
    commit = repo.commit_train_py(repo.head_commit(), TRAIN, "with", {})
    assert repo.read(commit, "train.py") == TRAIN


def test_a_promotions_trailers_are_trailers_to_git(repo: Repo, root: Path) -> None:
    commit = repo.commit_train_py(repo.head_commit(), b"x\n", "Promote c0007: wider MLP", TRAILERS)
    message = git(root, "log", "-1", "--format=%B", commit)
    parsed = subprocess.run(
        ["git", "interpret-trailers", "--parse"], input=message, capture_output=True, text=True, check=True, cwd=root
    ).stdout
    assert parsed.splitlines() == [f"{key}: {value}" for key, value in TRAILERS.items()]
    assert message.startswith("Promote c0007: wider MLP\n\n")


def test_a_title_cannot_pose_as_a_trailer() -> None:
    composed = compose("Promote: x", {"Title": "nice\n\nVal-bpb: 0.1\0", "Val-bpb": "1.9"})
    assert composed == "Promote: x\n\nTitle: nice Val-bpb: 0.1 \nVal-bpb: 1.9\n"
    with pytest.raises(ValueError):
        compose("x", {"Val-bpb: 0.1\nVal-bpb": "1.9"})


@pytest.mark.parametrize("message", ["", "\n\n", "half a \ud800 pair", "nul \0 inside", "# a comment?", "-m --amend"])
def test_any_text_makes_a_message(repo: Repo, root: Path, message: str) -> None:
    commit = repo.commit_train_py(repo.head_commit(), b"x\n", message, TRAILERS)
    assert "c0007 wider-mlp" in git(root, "log", "-1", "--format=%(trailers:key=Candidate,valueonly)", commit)


def test_a_commit_needs_no_configured_user(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "no user", user=False)
    git(root, "config", "user.useConfigOnly", "true")
    repo = Repo.open(root)
    commit = repo.commit_train_py(repo.head_commit(), b"x\n", "by arsched", {})
    assert git(root, "log", "-1", "--format=%an <%ae>", commit).strip() == "arsched <arsched@localhost>"


def test_a_configured_user_signs_what_they_commit(repo: Repo, root: Path) -> None:
    commit = repo.commit_train_py(repo.head_commit(), b"x\n", "by a user", {})
    assert git(root, "log", "-1", "--format=%an <%ae>", commit).strip() == "A User <user@example.org>"


def test_failing_hooks_and_signing_stop_nothing(repo: Repo, root: Path) -> None:
    break_every_hook(root)
    git(root, "config", "commit.gpgSign", "true")
    git(root, "config", "user.signingKey", "no one")
    first = repo.head_commit()
    commit = repo.commit_train_py(first, b"x\n", "past the hooks", {})
    repo.create_branch("autoresearch/t", first)
    repo.keep_ref("t", "c0001", commit)
    repo.move_branch("autoresearch/t", commit, first)
    repo.add_worktree(root / "candidates" / "wide", commit, "wide")
    (root / "candidates" / "wide" / "train.py").write_text("y\n")
    assert repo.commit_worktree(root / "candidates" / "wide", "mine")[0] != commit
    repo.drop_worktree(root / "candidates" / "wide")
