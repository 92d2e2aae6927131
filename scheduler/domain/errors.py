"""Everything that can go wrong in a way a user should read about. Printed in one place, the command line's main.

    ArschedError                     exit 1
    ├── UsageProblem                 exit 2   the command itself cannot be carried out as typed
    ├── LabProblem                   exit 1   no repository, no `arsched init`, a branch in the wrong state
    ├── GitProblem                   exit 1   git refused
    ├── LedgerProblem                exit 1   the ledger is locked, newer than this program, or unreadable
    ├── CacheProblem                 exit 1   the contract's cache is missing or is another one
    ├── PoolProblem                  exit 1   no slot can run this, or Ray cannot be reached
    ├── ProposerProblem              exit 1   a source of ideas cannot be started
    ├── ResultError                  exit 1   a result.json is none, or of an unknown format (scheduler.domain.run)
    ├── CandidateRejected            exit 3   a candidate breaks a rule of the game
    └── NotYet                       exit 3   the answer is no: a run failed, a wait ran out

Does not cover defects of the program: those stay ordinary exceptions.
"""

from __future__ import annotations


class ArschedError(Exception):
    """A problem with a message (what, where) and a hint (what to do next)."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageProblem(ArschedError):
    exit_code = 2


class LabProblem(ArschedError):
    pass


class GitProblem(ArschedError):
    pass


class LedgerProblem(ArschedError):
    pass


class CacheProblem(ArschedError):
    pass


class PoolProblem(ArschedError):
    pass


class ProposerProblem(ArschedError):
    pass


class CandidateRejected(ArschedError):
    exit_code = 3


class NotYet(ArschedError):
    exit_code = 3
