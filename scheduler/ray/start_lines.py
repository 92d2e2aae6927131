"""Finds the calls of `ray start` in lines for a shell, with the variables that each of them is given.

Reads lists (`;`, `&&`, `||`, `|`, brackets), assignments, `env`, `export` and `bash -c`; not loops, functions,
here-documents or redirections, whose words stand among those of a call. Runs nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
SEPARATORS = frozenset(";&|()")
EXPORTS = ("export", "declare")
SHELLS = ("bash", "sh", "dash")


@dataclass(frozen=True, slots=True)
class StartCall:
    """`ray start` with its arguments (`words`, quotes removed), and the variables that the line sets for it."""

    words: tuple[str, ...]
    environ: dict[str, str]

    def option(self, name: str) -> str | None:
        """What follows `--name=` or `--name `, the last time that it stands there; "" for a bare flag, else None."""
        found = None
        for word, following in pairwise([*self.words, ""]):
            if word == name:
                found = "" if following.startswith("--") else following
            elif word.startswith(f"{name}="):
                found = word.partition("=")[2]
        return found


def ray_starts(commands: Sequence[str]) -> list[StartCall]:
    """Every call, in order, whatever folder and launchers precede it. Raises ValueError where a quote is left open."""
    return [call for command in commands for call in _of_line(command, {})]


def _of_line(line: str, outer: dict[str, str]) -> Iterator[StartCall]:
    """`outer`: variables exported before the line."""
    exported = dict(outer)
    for words in _simple_commands(line):
        if words[:1] and words[0] in EXPORTS:
            exported |= _assigned(words)
        for place, pair in enumerate(pairwise([*words, ""])):
            here = exported | _assigned(words[:place])
            name = pair[0].rpartition("/")[2]
            if (name, pair[1]) == ("ray", "start"):
                yield StartCall(tuple(words[place:]), here)
            elif name in SHELLS:  # what stands behind its -c (or -lc)
                options = pairwise(words[place:])
                script = next((script for option, script in options if re.fullmatch(r"-[a-z]*c[a-z]*", option)), "")
                yield from _of_line(script, here)


def _simple_commands(line: str) -> Iterator[list[str]]:
    """Without what stands in `$( )`, of which the `$` is left."""
    for part in line.replace("\\\n", " ").splitlines():
        reader = shlex.shlex(part, posix=True, punctuation_chars="".join(SEPARATORS))
        reader.whitespace_split, reader.commenters = True, ""
        words: list[str] = []
        depth = 0
        for word in reader:
            if word.startswith("#") and not depth:
                break
            if not set(word) <= SEPARATORS:
                words += [word] * (not depth)
                continue
            if depth or (word.startswith("(") and words and words[-1].endswith("$")):
                depth = max(0, depth + word.count("(") - word.count(")"))
                if depth or word.endswith(")"):
                    continue
            yield words
            words = []
        yield words


def _assigned(words: list[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words if ASSIGNMENT.match(word)]
    return {name: value for name, _, value in pairs}
