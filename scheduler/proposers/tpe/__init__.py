"""Ideas without a model: Optuna's TPE over the constants at the top of train.py."""

from scheduler.proposers.tpe.proposer import make

__all__ = ["make"]
