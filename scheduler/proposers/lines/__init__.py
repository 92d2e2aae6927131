"""Ideas from any program that answers JSON lines: one long-lived process, one line an ask, one line an answer."""

from scheduler.proposers.lines.proposer import make

__all__ = ["make"]
