"""What a command ends with: exit codes, and everything that can go wrong in a way a user should read about.

Problems are printed in one place, the command line's main.

Does not cover defects of the program: those stay ordinary exceptions. `ResultError` is scheduler.domain.run's.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Of every command; each means one thing (MEANINGS)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    ANSWER_IS_NO = 3
    STOP_LOOPING = 4
    INTERRUPTED = 130


# As README.md and program.md show them.
MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "something is in the way: disk, git, cache, lab, slots",
    ExitCode.USAGE: "the command was wrong",
    ExitCode.ANSWER_IS_NO: "it ran and the answer is no: refused, no score, not yet",
    ExitCode.STOP_LOOPING: "stop looping: the lab is paused, its budget is spent, or it was stopped by .arsched/stop",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C or a signal; nothing is lost",
}


class ArschedError(Exception):
    """A problem with a message (what, where) and a hint (what to do next). The command exits with `exit_code`."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageProblem(ArschedError):
    """The command itself cannot be carried out as typed."""

    exit_code = ExitCode.USAGE


class LabProblem(ArschedError):
    """No repository, no `arsched init`, a branch in the wrong state."""


class NameTaken(LabProblem):
    """A tag, a branch or a folder of that name is there already."""

    exit_code = ExitCode.USAGE


class GitProblem(ArschedError):
    """Git refused."""


class LedgerProblem(ArschedError):
    """The ledger is locked, newer than this program, or unreadable."""


class CacheProblem(ArschedError):
    """The contract's cache is missing or is another one."""


class PoolProblem(ArschedError):
    """No slot can run this, or Ray cannot be reached."""


class NoSlots(PoolProblem):
    """A cluster was joined and none of its slots came up. `addresses`: of the nodes that are there."""

    addresses: frozenset[str] = frozenset()


class HeadGone(PoolProblem):
    """The head of a Ray cluster that was joined is away; the queue goes on when it is back."""


class ProposerProblem(ArschedError):
    """A source of ideas cannot be started."""


class CandidateRejected(ArschedError):
    """A candidate breaks a rule of the game."""

    exit_code = ExitCode.ANSWER_IS_NO


class NotYet(ArschedError):
    """The answer is no: a run failed, a wait ran out."""

    exit_code = ExitCode.ANSWER_IS_NO
