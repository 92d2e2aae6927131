"""The git adapter: commits, branches, refs and worktrees. Nothing else imports GitPython or runs git."""

from scheduler.adapters.git.repo import Repo
from scheduler.adapters.git.worktrees import WorktreeState

__all__ = ["Repo", "WorktreeState"]
