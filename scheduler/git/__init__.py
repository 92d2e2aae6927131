"""The git adapter: commits, branches, refs and worktrees. Nothing else imports GitPython or runs git."""

from scheduler.git.commits import CommitFacts, git_version
from scheduler.git.repo import Repo, begin_empty, create_repo
from scheduler.git.worktrees import WorktreeState

__all__ = ["CommitFacts", "Repo", "WorktreeState", "begin_empty", "create_repo", "git_version"]
