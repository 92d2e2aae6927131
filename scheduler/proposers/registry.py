"""Which proposers there are, what one is made from, and making it: entry points of the group `arsched.proposers`.

A plug-in's entry point takes a ProposerSetup and returns a Proposer. arsched's own are listed here too: an installation
older than its source, or the remains of a build, may not declare them. `union` is listed because users name it the
same way, but it is the scheduler's own and never made here. Also titles for changes without one.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from scheduler.domain.errors import ArschedError, CandidateRejected, ProposerProblem, UsageProblem
from scheduler.domain.search import Proposer, ProposerChoice
from scheduler.policy.constants import Constant, read_constants, to_source

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
    except Exception as problem:  # a plug-in is foreign code: its author reads about its failure
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
    """A plug-in of the same name stands for our own. What an older installation of arsched declares does not count."""
    installed = (point for point in entry_points(group=GROUP) if point.dist is None or point.dist.name != "arsched")
    return (*OWN, *installed)


def _origin(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "the package it came with"


MADE_TITLE_CHARACTERS = 120
_SHOWN_CONSTANTS = 4


@dataclass(frozen=True)
class ProposerSetup:
    """`options` as the user typed them; `folder` is scratch space that git ignores and one search owns.

    `slots` is how many runs train at a time; `clock` gives seconds that never run backwards; `report` prints a line
    to the user.
    """

    name: str
    options: Mapping[str, str]
    repo_root: Path
    folder: Path
    slots: int
    seed: int
    clock: Callable[[], float]
    report: Callable[[str], None]
    sandbox: str = "full"  # of the commands it runs: full, weak or off


class Options:
    """The options of one proposer. Raises UsageProblem for a name that is not among `known`.

    Each problem names the proposer, the option and what is expected.
    """

    def __init__(self, setup: ProposerSetup, known: Collection[str]) -> None:
        self._setup, self.name = setup, setup.name
        for name in setup.options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise self.problem(f"has no option {name!r}", f"{hint}options: {', '.join(known)}")

    def problem(self, message: str, hint: str = "") -> UsageProblem:
        return UsageProblem(f"the proposer {self._setup.name} {message}", hint)

    def text(self, name: str) -> str:
        """The option, "" when it was not given."""
        return self._setup.options.get(name, "").strip()

    def whole(self, name: str, default: int, least: int, most: int = 1_000_000) -> int:
        """A whole number from `least` to `most`."""
        given = self._setup.options.get(name)
        if given is None:
            return default
        try:
            value = int(given)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise self.problem(f"wants {name} as a whole number from {least} to {most}, not {given!r}")
        return value

    def seconds(self, name: str, default: float) -> float:
        """More than nothing, and finite."""
        given = self._setup.options.get(name)
        if given is None:
            return default
        try:
            value = float(given)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise self.problem(f"wants {name} in seconds, like 600, not {given!r}")
        return value

    def flag(self, name: str) -> bool:
        """Off unless asked for."""
        given = self._setup.options.get(name, "0").strip().lower()
        if given not in ("0", "1", "no", "yes", "false", "true"):
            raise self.problem(f"wants {name} as 0 or 1, not {given!r}")
        return given in ("1", "yes", "true")

    def names(self, name: str) -> tuple[str, ...]:
        """A list with commas."""
        return tuple(word.strip() for word in self.text(name).split(",") if word.strip())


def describe_change(before_py: bytes, after_py: bytes) -> str:
    """Like "MATRIX_LR 0.04 → 0.06, DEPTH 4 → 3", else the first line that is new."""
    before, after = (source.decode("utf-8", "replace") for source in (before_py, after_py))
    try:
        old, new = read_constants(before), read_constants(after)
    except CandidateRejected:
        old = new = {}
    moved = {name: value for name, value in new.items() if name in old and old[name] != value}
    if moved:
        return describe_values(old, moved)
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---") and line[1:].strip()]
    added = [line for line in changed if line[0] == "+"]
    shown = f"without {changed[0][1:].strip()}" if changed and not added else "".join(added[:1])[1:].strip()
    return shown[:MADE_TITLE_CHARACTERS] or "a change of layout"


def describe_values(old: Mapping[str, Constant], moved: Mapping[str, Constant]) -> str:
    """The first few moves of constants, in words."""
    shown = [f"{name} {_short(old[name])} → {_short(value)}" for name, value in list(moved.items())[:_SHOWN_CONSTANTS]]
    more = f" and {len(moved) - _SHOWN_CONSTANTS} more" if len(moved) > _SHOWN_CONSTANTS else ""
    return (", ".join(shown) + more)[:MADE_TITLE_CHARACTERS]


def _short(value: Constant) -> str:
    return f"{value:.6g}" if isinstance(value, float) else to_source(value)
