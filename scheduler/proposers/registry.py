"""Which proposers there are, and making one: entry points of the group `arsched.proposers`, loaded when asked for.

arsched's own are entry points like any other, and known by heart too: an installation older than its source, or the
left-overs of a build, may not list them. `union` is listed with them because users name it the same way, but it is the
scheduler's own and never made here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

from scheduler.domain.errors import ArschedError, ProposerProblem, UsageProblem
from scheduler.domain.proposal import Proposer
from scheduler.domain.search import ProposerChoice
from scheduler.proposers.setup import ProposerSetup

GROUP = "arsched.proposers"
UNION = "union"
OWN = tuple(EntryPoint(name, f"scheduler.proposers.{name}:make", GROUP) for name in ("agent", "lines", "tpe"))


def known() -> Mapping[str, str]:
    """Name -> where it comes from, by name."""
    found = {point.name: point.value for point in _points()}
    return dict(sorted({**found, UNION: "built in"}.items()))


def check_name(name: str) -> None:
    """Raises UsageProblem naming the nearest when there is no proposer of that name."""
    if name != UNION:
        _find(name)


def make(choice: ProposerChoice, setup: ProposerSetup) -> Proposer:
    """The proposer a search chose.

    Raises UsageProblem for an unknown name or a bad option, ProposerProblem when the plug-in does not load or start.
    """
    point = _find(choice.name)
    try:
        proposer = point.load()(setup)
    except ArschedError:
        raise
    except Exception as problem:  # a plug-in is somebody else's code: its failure is theirs to read about
        what = f"{type(problem).__name__}: {problem}"
        raise ProposerProblem(
            f"the proposer {choice.name} ({point.value}) cannot be started: {what}",
            f"mend or uninstall {_origin(point)}",
        ) from problem
    missing = [name for name in ("name", "capacity", "ask", "poll", "close") if not hasattr(proposer, name)]
    if missing:
        raise ProposerProblem(f"the proposer {choice.name} ({point.value}) is none: it lacks {', '.join(missing)}")
    made: Proposer = proposer
    return made


def _find(name: str) -> EntryPoint:
    if name == UNION:
        raise UsageProblem("union is the scheduler's own: it is chosen, not made", "leave it to the search")
    points = {point.name: point for point in _points()}
    if name in points:
        return points[name]
    names = list(known())
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageProblem(f"there is no proposer {name!r}", f"{hint}proposers: {', '.join(names)}")


def _points() -> tuple[EntryPoint, ...]:
    """An installed one of the same name stands for our own."""
    return (*OWN, *entry_points(group=GROUP))


def _origin(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "the package it came with"
