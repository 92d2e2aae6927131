"""Optuna's part: a study rebuilt from points, asked once. Knobs are whole numbers to it: the rungs of their ladders.

Failed points are pruned trials, worse than every score, so that what crashes is avoided; pending ones are running
trials, which the constant liar takes for bad ones, so that slots do not try the same thing. TPE after Bergstra et al.
2011, multivariate after Falkner et al. 2018.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from scheduler.domain.errors import ProposerProblem
from scheduler.proposers.tpe.history import Point, Rungs
from scheduler.proposers.tpe.knobs import Knob


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


def suggest(points: Sequence[Point], knobs: Mapping[str, Knob], free: Sequence[str], seed: int) -> Rungs:
    """TPE's next rungs, every knob that is not free at the baseline's. The same arguments give the same answer."""
    optuna = load_optuna()
    space = {name: optuna.distributions.IntDistribution(0, len(knob.values) - 1) for name, knob in knobs.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # multivariate, group and the constant liar are marked experimental
        tpe = optuna.samplers.TPESampler(
            n_startup_trials=1, multivariate=True, group=True, constant_liar=True, seed=seed % 2**32
        )
        fixed = {name: knob.at for name, knob in knobs.items() if name not in free}
        sampler = optuna.samplers.PartialFixedSampler(fixed, tpe) if fixed else tpe
        study = optuna.create_study(sampler=sampler)
        study.add_trials([_trial(optuna, point, space) for point in points])
        asked = study.ask(space)
    return tuple(int(asked.params[name]) for name in knobs)


def _trial(optuna: Any, point: Point, space: Mapping[str, Any]) -> Any:
    states = optuna.trial.TrialState
    is_scored = point.score is not None and math.isfinite(point.score)
    return optuna.trial.create_trial(
        state=states.RUNNING if point.pending else states.COMPLETE if is_scored else states.PRUNED,
        params=dict(zip(space, point.rungs, strict=True)),
        distributions=dict(space),
        value=point.score if is_scored else None,
    )
