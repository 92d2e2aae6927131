"""One git command at a time, through GitPython: bytes in, bytes out, errors translated.

Every command runs without the user's hooks (a failing one must not stop the lab), without prompts and in plain
English. Knows nothing of candidates or worktrees.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scheduler.domain.errors import GitProblem

# Set by git for its hooks: they would lead every command to another repository or index than the one named.
_INHERITED = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX"),
    *("GIT_NAMESPACE", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_CEILING_DIRECTORIES"),
)
_OPTIONS = ("-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false", "-c", "core.quotePath=false")
_HINTS = {
    "dubious ownership": "the repository belongs to another user; see `git help config`, safe.directory",
    "index.lock": "another git command is at work in this repository, or one was killed: remove the file if none is",
    "No space left": "the disk is full: make room and try again",
}


def library() -> Any:
    """GitPython, imported on first use. Raises GitProblem when the git program itself is missing."""
    for name in _INHERITED:
        os.environ.pop(name, None)
    try:
        import git
    except ImportError as problem:
        raise GitProblem("git cannot be run", "install git, and see that it is on the PATH") from problem
    return git


def run_git(folder: Path, *arguments: str, data: bytes = b"", environment: Mapping[str, str] | None = None) -> bytes:
    """Standard output of `git ARGUMENTS` in `folder`, with `data` on its input. Raises GitProblem when it fails."""
    status, output, errors = try_git(folder, *arguments, data=data, environment=environment)
    if status != 0:
        raise _problem(arguments[0], errors)
    return output


def try_git(
    folder: Path, *arguments: str, data: bytes = b"", environment: Mapping[str, str] | None = None
) -> tuple[int, bytes, str]:
    """Exit status, output and error text, for commands whose failure is an answer."""
    git = library()
    with tempfile.TemporaryFile() as source:
        source.write(data)
        source.seek(0)
        try:
            status, output, errors = git.Git(folder).execute(
                ["git", *_OPTIONS, *arguments],
                istream=source,
                with_extended_output=True,
                with_exceptions=False,
                stdout_as_string=False,
                strip_newline_in_stdout=False,
                env={"GIT_TERMINAL_PROMPT": "0", "GIT_LITERAL_PATHSPECS": "1", **(environment or {})},
            )
        except git.exc.GitCommandNotFound as problem:
            missing = f"the folder {folder} is gone" if not folder.is_dir() else "git cannot be run"
            raise GitProblem(missing, "see that git is on the PATH and the folder exists") from problem
    return status, output, errors if isinstance(errors, str) else errors.decode("utf-8", "replace")


def git_version() -> str:
    """Like "git version 2.43.0". Raises GitProblem when git cannot be run."""
    return line(run_git(Path.cwd(), "version"))


def line(output: bytes) -> str:
    """The one line a command printed."""
    return os.fsdecode(output).removesuffix("\n")


def names(output: bytes) -> tuple[str, ...]:
    """What a command printed with -z: names ended by NUL, whatever bytes they hold."""
    return tuple(os.fsdecode(name) for name in output.split(b"\0") if name)


def identity(folder: Path) -> dict[str, str]:
    """Environment that lets git commit: empty where the user is configured, arsched's own name where not."""
    for name in ("user.name", "user.email"):
        status, value, _ = try_git(folder, "config", "--get", name)
        if status != 0 or not value.strip():
            return {
                variable: os.environ.get(variable, fallback)
                for variable, fallback in (
                    ("GIT_AUTHOR_NAME", "arsched"),
                    ("GIT_AUTHOR_EMAIL", "arsched@localhost"),
                    ("GIT_COMMITTER_NAME", "arsched"),
                    ("GIT_COMMITTER_EMAIL", "arsched@localhost"),
                )
            }
    return {}


def _problem(command: str, errors: str) -> GitProblem:
    said = [text for text in errors.strip().splitlines() if text.strip()]
    hint = next((hint for sign, hint in _HINTS.items() if sign in errors), "")
    what = "; ".join(text.removeprefix("fatal: ").removeprefix("error: ") for text in said[:3]) or "no reason given"
    return GitProblem(f"git {command} failed: {what}", hint)
