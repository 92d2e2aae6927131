"""Ideas from a coding agent, or any command that edits train.py in a worktree of its own."""

from scheduler.proposers.agent.proposer import make

__all__ = ["make"]
