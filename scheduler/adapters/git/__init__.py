"""The git adapter: commits, branches, refs and worktrees. Nothing else imports GitPython or runs git."""

from scheduler.adapters.git.create import create_repo
from scheduler.adapters.git.plumbing import git_version
from scheduler.adapters.git.repo import Repo
from scheduler.adapters.git.worktrees import WorktreeState

__all__ = ["Repo", "WorktreeState", "create_repo", "git_version"]
