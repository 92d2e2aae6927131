"""The tpe proposer: tunes the constants of train.py, a few at a time, and learns from every score on record.

It remembers nothing: each ask carries all trials, from which the study is rebuilt, so a search that was killed goes on
where it was. Young labs get probes of one or two constants around the baseline, later asks get TPE over a few. Changes
no code and reads none but the constants.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from scheduler.domain.proposal import Answer, Ask, NoIdea, Proposed, Proposer, Trouble
from scheduler.policy.constants import rewrite_constants
from scheduler.policy.literals import Constant
from scheduler.policy.validation import TRAIN_PY
from scheduler.proposers.setup import Options, ProposerSetup
from scheduler.proposers.titles import describe_values
from scheduler.proposers.tpe.history import Point, Reader, read_source
from scheduler.proposers.tpe.knobs import Knob
from scheduler.proposers.tpe.moves import moved
from scheduler.proposers.tpe.sampler import load_optuna
from scheduler.proposers.tpe.space import Space, read_space
from scheduler.proposers.tpe.strategy import next_rungs

OPTIONS = ("fix", "only", "space", "startup")
STARTUP = 12


def make(setup: ProposerSetup) -> Proposer:
    """Raises UsageProblem for the options, ProposerProblem without optuna."""
    options = Options(setup, OPTIONS)
    space = read_space(options, setup.repo_root, _constants(setup.repo_root / TRAIN_PY))
    startup = options.whole("startup", STARTUP, 0, 10_000)
    load_optuna()
    return TpeProposer(setup.name, space, startup=startup, capacity=max(1, setup.slots))


class TpeProposer:
    """See the module. Answers within the ask, some tens of milliseconds; `poll` hands the answers out."""

    def __init__(self, name: str, space: Space, *, startup: int, capacity: int) -> None:
        self.name, self.capacity = name, capacity
        self._space, self._startup = space, startup
        self._reader = Reader()
        self._answers: list[Answer] = []
        self._given: dict[str, bytes] = {}  # what was answered, until the ledger shows it as a trial

    def ask(self, ask: Ask) -> None:
        self._answers.append(self._answer(ask))

    def poll(self) -> tuple[Answer, ...]:
        answers, self._answers = tuple(self._answers), []
        return answers

    def close(self) -> None:
        self._answers.clear()

    def _answer(self, ask: Ask) -> Proposed | NoIdea:
        constants = self._reader.turn_to(ask.train_py)
        knobs = self._space.knobs(constants)
        if not knobs:
            return NoIdea(
                ask.id, Trouble.EXHAUSTED, "train.py has no constants to tune (see the options only and space)"
            )
        rungs = next_rungs(self._points(ask, knobs), knobs, random.Random(ask.seed), self._startup)
        if rungs is None:
            return NoIdea(ask.id, Trouble.EXHAUSTED, "every setting of the constants near the baseline was tried")
        values = moved(rungs, knobs)
        source = rewrite_constants(ask.train_py.decode(), values).encode()
        self._given[ask.id] = source
        title = describe_values(constants, values)
        return Proposed(ask.id, source, title, f"TPE over {len(knobs)} constants", "constants")

    def _points(self, ask: Ask, knobs: Mapping[str, Knob]) -> list[Point]:
        on_record = {trial.train_py for trial in ask.trials}
        self._given = {ask_id: source for ask_id, source in self._given.items() if source not in on_record}
        return self._reader.points(ask.trials, knobs) + self._reader.pending(self._given.values(), knobs)


def _constants(path: Path) -> Mapping[str, Constant]:
    """To check a user's names against; empty when there is nothing to check them against."""
    try:
        return read_source(path.read_bytes()) or {}
    except OSError:
        return {}
