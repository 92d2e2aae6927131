"""A repository made from a folder's files: for labs that arsched sets up itself."""

from __future__ import annotations

from pathlib import Path

from scheduler.git.plumbing import identity, run_git, try_git


def create_repo(folder: Path, message: str) -> None:
    """Put everything in `folder` into the first commit of a repository there. One that has a commit stays as it is.

    Raises GitProblem. Works without a configured user and inside another repository's checkout.
    """
    run_git(folder, "init", "--quiet", "--initial-branch", "main")
    status, _, _ = try_git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    if status != 0:
        run_git(folder, "add", "--all")
        run_git(folder, "commit", "--quiet", "--no-gpg-sign", "--message", message, environment=identity(folder))
