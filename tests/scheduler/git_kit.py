"""Real repositories in a temporary folder for the tests of git, made without the machine's own configuration."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TRAIN = b"DEPTH = 4\n"


def git(folder: Path, *arguments: str, check: bool = True) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=False)
    assert not check or done.returncode == 0, done.stderr.decode()
    return os.fsdecode(done.stdout)


@pytest.fixture(autouse=True)
def no_configuration(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No user, no system and no hook's settings reach the tests."""
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    yield


def make_repository(folder: Path, *, user: bool = True, commit: bool = True) -> Path:
    """A clone as a user has it: train.py, another file, an ignored folder for candidates."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    if user:
        git(folder, "config", "user.name", "A User")
        git(folder, "config", "user.email", "user@example.org")
    (folder / "train.py").write_bytes(TRAIN)
    (folder / "README.md").write_text("the lab\n")
    (folder / ".gitignore").write_text("/candidates/\n__pycache__/\n/.arsched/\n")
    (folder / "harness").mkdir(exist_ok=True)
    (folder / "harness" / "judge.py").write_text("SCORE = 1\n")
    if commit:
        git(folder, "add", "--all")
        who = ("-c", "user.name=A User", "-c", "user.email=user@example.org")
        git(folder, *who, "commit", "--quiet", "--message", "first")
    return folder


def break_every_hook(folder: Path) -> None:
    """Hooks of the user that refuse everything."""
    hooks = folder / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("pre-commit", "commit-msg", "post-checkout", "reference-transaction", "prepare-commit-msg"):
        (hooks / name).write_text("#!/bin/sh\necho no >&2\nexit 1\n")
        (hooks / name).chmod(stat.S_IRWXU)


def git_that_dies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Puts a git on the PATH of which the n-th command from now on is killed; 0: none is."""
    counter, program = folder / "git-commands", folder / "dying-git" / "git"
    program.parent.mkdir()
    dies = f'[ $(wc -l < {counter}) -eq "$GIT_DIES_AT" ] && kill -9 $$'
    program.write_text(f'#!/bin/sh\necho x >> {counter}\n{dies}\nexec {shutil.which("git")} "$@"\n')
    program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    def die_at(number: int) -> None:
        counter.write_text("")
        monkeypatch.setenv("GIT_DIES_AT", str(number))

    return die_at


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file of a worktree, git's own left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(folder).parts
    }
