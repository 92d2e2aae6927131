"""What a proposer is made from, and its options read as typed values.

A plug-in's entry point takes a ProposerSetup and returns a Proposer. Whatever is wrong with the options is a
UsageProblem that names the proposer, the option and what is expected.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from scheduler.domain.errors import UsageProblem


@dataclass(frozen=True)
class ProposerSetup:
    """`options` as the user typed them; `folder` is scratch space that git ignores and one search owns.

    `slots` is how many runs train at a time; `clock` gives seconds that never run backwards; `say` prints a line to
    the user.
    """

    name: str
    options: Mapping[str, str]
    repo_root: Path
    folder: Path
    slots: int
    seed: int
    clock: Callable[[], float]
    say: Callable[[str], None]


class Options:
    """The options of one proposer. Raises UsageProblem for a name that is not among `known`."""

    def __init__(self, setup: ProposerSetup, known: Collection[str]) -> None:
        self._setup = setup
        for name in setup.options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise self.problem(f"has no option {name!r}", f"{hint}options: {', '.join(known)}")

    def problem(self, message: str, hint: str = "") -> UsageProblem:
        return UsageProblem(f"the proposer {self._setup.name} {message}", hint)

    def text(self, name: str, default: str = "") -> str:
        return self._setup.options.get(name, default).strip()

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
        return tuple(word.strip() for word in self._setup.options.get(name, "").split(",") if word.strip())
