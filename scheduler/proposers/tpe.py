"""The tpe proposer: tunes the constants of train.py, a few at a time, and learns from every score on record.

Young labs get probes of one or two constants around the baseline, later asks get TPE over a few: a search has tens of
runs, not thousands, and most settings of a dozen constants at once are bad. So what is not being tried is left at the
baseline's value, and the baseline moves when something holds. Changes no code and reads none but the constants.
"""

from __future__ import annotations

import math
import random
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from scheduler.domain.errors import ProposerProblem
from scheduler.domain.search import Answer, Ask, NoIdea, ProposalFailure, Proposed, Proposer
from scheduler.policy.constants import Constant, rewrite_constants
from scheduler.policy.source import TRAIN_PY
from scheduler.proposers.registry import Options, ProposerSetup, describe_values
from scheduler.proposers.tpe_space import Number, Parameter, Point, Reader, Space, Values, read_source, read_space

OPTIONS = ("fix", "only", "space", "startup")
STARTUP = 12
TRIES = 12  # repeats of known settings before chance takes over
FREE = (2, 3, 4)  # parameters that TPE turns at a time
# Two constants and whether they move alike (1: their ratio stays) or against each other (-1: their product stays), as
# a GPT's train.py ties them: a batch that fits the device and the whole batch, layers and the width each adds.
TIED = (("DEVICE_BATCH_SIZE", "TOTAL_BATCH_SIZE", 1), ("DEPTH", "ASPECT_RATIO", -1))
_FACTORS = (1.4, 2.0, 2.0, 4.0)


def make(setup: ProposerSetup) -> Proposer:
    """Raises UsageProblem for the options, ProposerProblem without optuna."""
    options = Options(setup, OPTIONS)
    space = read_space(options, setup.repo_root, _constants(setup.repo_root / TRAIN_PY))
    startup = options.whole("startup", STARTUP, 0, 10_000)
    load_optuna()
    return TpeProposer(setup.name, space, startup=startup, capacity=max(1, setup.slots))


class TpeProposer:
    """Answers within the ask, some tens of milliseconds; `poll` returns the answers.

    Each ask carries all trials, from which the study is rebuilt, so a search that was killed goes on where it was.
    """

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
        constants = self._reader.set_base(ask.train_py)
        parameters = self._space.parameters(constants)
        if not parameters:
            reason = "train.py has no constants to tune (see the options only and space)"
            return NoIdea(ask.id, ProposalFailure.EXHAUSTED, reason)
        on_record = {trial.train_py for trial in ask.trials}
        self._given = {ask_id: source for ask_id, source in self._given.items() if source not in on_record}
        points = self._reader.points(ask.trials, parameters)
        points += self._reader.pending(self._given.values(), parameters)
        values = next_values(points, parameters, random.Random(ask.seed), self._startup)
        if values is None:
            return NoIdea(
                ask.id, ProposalFailure.EXHAUSTED, "every setting of the constants near the baseline was tried"
            )
        changed = changed_values(values, parameters)
        source = rewrite_constants(ask.train_py.decode(), changed).encode()
        self._given[ask.id] = source
        title = describe_values(constants, changed)
        return Proposed(ask.id, source, title, f"TPE over {len(parameters)} constants", "constants")


def next_values(
    points: Sequence[Point], parameters: Mapping[str, Parameter], chance: random.Random, startup: int
) -> Values | None:
    """Values not tried yet; None when there are none left in reach."""
    base = tuple(one.base for one in parameters.values())
    taken = {base, *(point.values for point in points)}
    tried = [point for point in points if point.values != base]
    moves = Counter(name for point in tried for name in changed_values(point.values, parameters))
    for _ in range(TRIES):
        if len(tried) < startup:
            found = probe(parameters, chance, moves)
        else:
            free = chance.sample(list(parameters), min(len(parameters), chance.choice(FREE)))
            suggested = suggest(points, parameters, free, chance.getrandbits(32))
            found = settle(dict(zip(parameters, suggested, strict=True)), parameters)
        if found not in taken:
            return found
    return mutate(parameters, taken, chance)


def suggest(
    points: Sequence[Point], parameters: Mapping[str, Parameter], free: Collection[str], seed: int
) -> Values:  # fmt: skip
    """TPE's next values, every parameter that is not free at the baseline's. The same arguments give the same answer.

    A study is rebuilt from the points and asked once; a parameter is the index on its grid, whose order TPE uses.
    Failed points are pruned trials, worse than every score, so that what crashes is avoided; pending ones are running
    trials, which the constant liar takes for bad ones, so that slots do not try the same thing. TPE after Bergstra et
    al. 2011, multivariate after Falkner et al. 2018.
    """
    optuna = load_optuna()
    space = {name: optuna.distributions.IntDistribution(0, len(one.grid) - 1) for name, one in parameters.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # multivariate, group and the constant liar are marked experimental
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=1, multivariate=True, group=True, constant_liar=True, seed=seed % 2**32
        )
        fixed = {name: one.grid.index(one.base) for name, one in parameters.items() if name not in free}
        if fixed:
            sampler = optuna.samplers.PartialFixedSampler(fixed, sampler)
        study = optuna.create_study(sampler=sampler)
        for point in points:
            study.add_trial(_optuna_trial(optuna, point, parameters, space))
        asked = study.ask(space)
    return tuple(one.grid[int(asked.params[name])] for name, one in parameters.items())


def load_optuna() -> Any:
    """Imported on first use. Raises ProposerProblem without it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
    except ImportError as problem:
        raise ProposerProblem("tpe needs optuna, which cannot be imported", "pip install optuna") from problem
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def changed_values(values: Values, parameters: Mapping[str, Parameter]) -> dict[str, Number]:
    """The values that are not the baseline's."""
    pairs = zip(parameters.items(), values, strict=True)
    return {name: value for (name, parameter), value in pairs if value != parameter.base}


def probe(parameters: Mapping[str, Parameter], chance: random.Random, moves: Mapping[str, int]) -> Values:
    """One or two parameters away from the baseline; those moved least so far come first."""
    values = {name: parameter.base for name, parameter in parameters.items()}
    order = sorted(parameters, key=lambda name: (moves.get(name, 0), chance.random()))
    for name in order[: 1 if chance.random() < 0.6 else 2]:
        values[name] = step(parameters[name], chance)
    first = order[0]
    ties = [(b if a == first else a, sense) for a, b, sense in TIED if first in (a, b) and {a, b} <= parameters.keys()]
    if ties and chance.random() < 0.7:
        other, sense = ties[0]
        values[other] = parameters[other].base * (values[first] / parameters[first].base) ** sense
    return settle(values, parameters)


def step(parameter: Parameter, chance: random.Random) -> Number:
    """Another value on the grid: usually some tens of percent to a factor of four away, sometimes its lowest."""
    value = parameter.base
    others = [one for one in parameter.grid if one != value]
    if value == 0:
        return chance.choice(others[: len(others) // 2 + 1])
    if len(others) == 1 or chance.random() < 0.15:
        return chance.choice([others[0], others[0], others[-1]])
    wanted = value * chance.choice(_FACTORS) ** chance.choice((-1, 1))
    return min(others, key=lambda one: abs(one - wanted))


def settle(values: Mapping[str, Number], parameters: Mapping[str, Parameter]) -> Values:
    """The nearest values on the grids, with the whole batch kept a multiple of what the device takes."""
    wanted = dict(values)
    device, total = (parameters.get(name) for name in TIED[0][:2])
    if device and total:
        share = total.base / device.base
        if wanted[total.name] < wanted[device.name] * share:
            if wanted[device.name] > device.base and wanted[device.name] * share <= total.grid[-1]:
                wanted[total.name] = wanted[device.name] * share
            else:
                wanted[device.name] = wanted[total.name] / share
    return tuple(min(parameter.grid, key=lambda one: abs(one - wanted[name])) for name, parameter in parameters.items())


def mutate(
    parameters: Mapping[str, Parameter], taken: Collection[Values], chance: random.Random
) -> Values | None:  # fmt: skip
    """Values not tried yet, some steps from the baseline's; None when there are none in reach."""
    names = list(parameters)
    for reach in range(200):
        values = {name: parameter.base for name, parameter in parameters.items()}
        for name in chance.sample(names, min(len(names), 1 + reach // 50)):
            values[name] = chance.choice(parameters[name].grid)
        found = settle(values, parameters)
        if found not in taken:
            return found
    return None


def _optuna_trial(optuna: Any, point: Point, parameters: Mapping[str, Parameter], space: Mapping[str, Any]) -> Any:
    states = optuna.trial.TrialState
    is_scored = point.score is not None and math.isfinite(point.score)
    pairs = zip(parameters.items(), point.values, strict=True)
    return optuna.trial.create_trial(
        state=states.RUNNING if point.pending else states.COMPLETE if is_scored else states.PRUNED,
        params={name: parameter.grid.index(value) for (name, parameter), value in pairs},
        distributions=dict(space),
        value=point.score if is_scored else None,
    )


def _constants(path: Path) -> Mapping[str, Constant]:
    """To check a user's names against; empty when there is nothing to check them against."""
    try:
        return read_source(path.read_bytes()) or {}
    except OSError:
        return {}
