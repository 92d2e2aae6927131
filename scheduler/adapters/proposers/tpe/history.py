"""What earlier candidates teach: every trial that differs from the baseline in knobs alone, as rungs and a score.

Trials with other code, or with a value off the ladders, say nothing about the knobs and are left out. A source is
parsed once in a process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scheduler.adapters.proposers.tpe.knobs import Knob
from scheduler.domain.errors import CandidateRejected
from scheduler.domain.proposal import Trial
from scheduler.policy.constants import read_constants, rewrite_constants
from scheduler.policy.fingerprint import fingerprint
from scheduler.policy.literals import Constant

Rungs = tuple[int, ...]  # one for every knob, in their order


@dataclass(frozen=True, slots=True)
class Point:
    """One trial. `score` None: it failed, or (`pending`) is not over."""

    rungs: Rungs
    score: float | None
    pending: bool


@dataclass(frozen=True, slots=True)
class _Read:
    """A source taken apart: its constants, and the fingerprint of all the rest."""

    constants: Mapping[str, Constant]
    rest: str


class Reader:
    """Takes sources apart, each once."""

    def __init__(self) -> None:
        self._read: dict[bytes, _Read | None] = {}

    def constants(self, train_py: bytes) -> Mapping[str, Constant]:
        """Empty for a source that does not parse."""
        read = self._take_apart(train_py)
        return read.constants if read else {}

    def points(self, trials: Iterable[Trial], train_py: bytes, knobs: Mapping[str, Knob]) -> list[Point]:
        """The comparable ones among the trials of a baseline with this source, oldest first."""
        found = []
        for trial in trials:
            rungs = self._place(trial.train_py, train_py, knobs)
            if rungs is not None and (trial.pending or trial.val_bpb is not None or trial.failure):
                found.append(Point(rungs, None if trial.pending else trial.val_bpb, trial.pending))
        return found

    def pending(self, sources: Iterable[bytes], train_py: bytes, knobs: Mapping[str, Knob]) -> list[Point]:
        """Points of sources that are on no record yet."""
        placed = (self._place(source, train_py, knobs) for source in sources)
        return [Point(rungs, None, True) for rungs in placed if rungs is not None]

    def _place(self, train_py: bytes, base_py: bytes, knobs: Mapping[str, Knob]) -> Rungs | None:
        read, base = self._take_apart(train_py), self._take_apart(base_py)
        if read is None or base is None or read.rest != base.rest or read.constants.keys() != base.constants.keys():
            return None
        if any(read.constants[name] != value for name, value in base.constants.items() if name not in knobs):
            return None
        return place(read.constants, knobs)

    def _take_apart(self, train_py: bytes) -> _Read | None:
        if train_py not in self._read:
            self._read[train_py] = _take_apart(train_py)
        return self._read[train_py]


def place(constants: Mapping[str, Constant], knobs: Mapping[str, Knob]) -> Rungs | None:
    """The rungs of these values; None when one is off its ladder."""
    rungs = []
    for knob in knobs.values():
        value = constants[knob.name]
        rung = knob.place(value) if isinstance(value, int | float) else None
        if rung is None:
            return None
        rungs.append(rung)
    return tuple(rungs)


def _take_apart(train_py: bytes) -> _Read | None:
    try:
        source = train_py.decode()
        constants = read_constants(source)
        rest = rewrite_constants(source, dict.fromkeys(constants, 0))
    except (UnicodeDecodeError, CandidateRejected):
        return None
    return _Read(constants, fingerprint(rest))
