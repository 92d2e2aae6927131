"""Everything that can go wrong in a way a user should read about. Printed in one place, the command line's main.

Does not cover defects of the program: those stay ordinary exceptions. `ResultError` is scheduler.domain.run's.
"""

from __future__ import annotations


class ArschedError(Exception):
    """A problem with a message (what, where) and a hint (what to do next). The command exits with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageProblem(ArschedError):
    """The command itself cannot be carried out as typed."""

    exit_code = 2


class LabProblem(ArschedError):
    """No repository, no `arsched init`, a branch in the wrong state."""


class NameTaken(LabProblem):
    """A tag, a branch or a folder of that name is there already."""

    exit_code = 2


class GitProblem(ArschedError):
    """Git refused."""


class LedgerProblem(ArschedError):
    """The ledger is locked, newer than this program, or unreadable."""


class CacheProblem(ArschedError):
    """The contract's cache is missing or is another one."""


class PoolProblem(ArschedError):
    """No slot can run this, or Ray cannot be reached."""


class ProposerProblem(ArschedError):
    """A source of ideas cannot be started."""


class CandidateRejected(ArschedError):
    """A candidate breaks a rule of the game."""

    exit_code = 3


class NotYet(ArschedError):
    """The answer is no: a run failed, a wait ran out."""

    exit_code = 3
