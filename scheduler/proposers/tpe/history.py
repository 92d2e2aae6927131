"""What earlier candidates teach: every trial that differs from the baseline in knobs alone, as rungs and a score.

Trials with other code, or with a value off the ladders, say nothing about the knobs and are left out. A trial is looked
at once for each baseline; most differ in lines `NAME = value` alone, and those are read without parsing the whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scheduler.domain.errors import CandidateRejected
from scheduler.domain.proposal import Trial
from scheduler.policy.constants import read_constants, rewrite_constants
from scheduler.policy.fingerprint import fingerprint
from scheduler.policy.literals import Constant
from scheduler.proposers.tpe.knobs import Knob

Rungs = tuple[int, ...]  # one for every knob, in their order
Constants = Mapping[str, Constant]
_PLAIN = re.compile(rb"[A-Z][A-Z0-9_]* = \S")


@dataclass(frozen=True, slots=True)
class Point:
    """One trial. `score` None: it failed, or (`pending`) is not over."""

    rungs: Rungs
    score: float | None
    pending: bool


class Reader:
    """Sources as constants, against one baseline at a time."""

    def __init__(self) -> None:
        self._base_py = b""
        self._base: Constants = {}
        self._rest: str | None = None  # the fingerprint of the baseline without its constants, once it was needed
        self._known: dict[bytes, Constants | None] = {}

    def turn_to(self, base_py: bytes) -> Constants:
        """Take this source as the baseline. Returns its constants, none when it does not parse."""
        if base_py != self._base_py or not self._known:
            self._base_py, self._base, self._rest = base_py, read_source(base_py) or {}, None
            self._known = {base_py: self._base}
        return self._base

    def points(self, trials: Iterable[Trial], knobs: Mapping[str, Knob]) -> list[Point]:
        """The comparable ones among the trials, oldest first."""
        found = []
        for trial in trials:
            if trial.pending or trial.val_bpb is not None or trial.failure:
                rungs = self._place(trial.train_py, knobs)
                if rungs is not None:
                    found.append(Point(rungs, None if trial.pending else trial.val_bpb, trial.pending))
        return found

    def pending(self, sources: Iterable[bytes], knobs: Mapping[str, Knob]) -> list[Point]:
        """Points of sources that are on no record yet."""
        placed = (self._place(source, knobs) for source in sources)
        return [Point(rungs, None, True) for rungs in placed if rungs is not None]

    def _place(self, train_py: bytes, knobs: Mapping[str, Knob]) -> Rungs | None:
        if train_py not in self._known:
            self._known[train_py] = self._compare(train_py)
        constants = self._known[train_py]
        if constants is None or any(constants[name] != self._base[name] for name in self._base if name not in knobs):
            return None
        return place(constants, knobs)

    def _compare(self, train_py: bytes) -> Constants | None:
        """The constants of a source that is the baseline's in everything else; None for any other."""
        changed = _changed_lines(self._base_py, train_py)
        if changed is not None and changed.keys() <= self._base.keys():
            return {**self._base, **changed}
        constants = read_source(train_py)
        if constants is None or constants.keys() != self._base.keys():
            return None
        if self._rest is None:
            self._rest = _rest(self._base_py, self._base)
        return constants if _rest(train_py, constants) == self._rest else None


def place(constants: Constants, knobs: Mapping[str, Knob]) -> Rungs | None:
    """The rungs of these values; None when one is off its ladder."""
    rungs = []
    for knob in knobs.values():
        value = constants[knob.name]
        rung = knob.place(value) if isinstance(value, int | float) else None
        if rung is None:
            return None
        rungs.append(rung)
    return tuple(rungs)


def read_source(train_py: bytes) -> Constants | None:
    """None for what does not parse."""
    try:
        return read_constants(train_py.decode())
    except (UnicodeDecodeError, CandidateRejected):
        return None


def _changed_lines(before: bytes, after: bytes) -> dict[str, Constant] | None:
    """The constants of the lines that differ, when each is one `NAME = value` before and after; None otherwise."""
    old, new = before.split(b"\n"), after.split(b"\n")
    if len(old) != len(new):
        return None
    found: dict[str, Constant] = {}
    for was, now in zip(old, new, strict=True):
        if was == now:
            continue
        if not (_PLAIN.match(was) and _PLAIN.match(now)) or b";" in now:
            return None
        one, other = read_source(was), read_source(now)
        if not one or not other or len(other) != 1 or one.keys() != other.keys():
            return None
        found.update(other)
    return found


def _rest(train_py: bytes, constants: Constants) -> str:
    return fingerprint(rewrite_constants(train_py.decode(), dict.fromkeys(constants, 0)))
