"""Where a line for the shell calls a program, and which variables it sets for that call. Nothing is run or expanded.

Reads lists (`;`, `&&`, `||`, `|`, brackets), assignments, `env`, `export` and `bash -c`. Does not read loops,
functions, here-documents or redirections: their words stand among those of a call.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
SEPARATORS = frozenset(";&|()")
EXPORTS = ("export", "declare")
SHELLS = ("bash", "sh", "dash")


@dataclass(frozen=True, slots=True)
class Call:
    """A program with its arguments (`words`, quotes removed), and the variables that the line sets for it."""

    words: tuple[str, ...]
    environ: dict[str, str]


def find_calls(line: str, program: str, verb: str) -> Iterator[Call]:
    """Every call of `program verb …`, in order, whatever folder and launchers stand before it.

    Raises ValueError where a quote is left open.
    """
    yield from _find(line, (program, verb), {})


def _find(line: str, wanted: tuple[str, str], outer: dict[str, str]) -> Iterator[Call]:
    exported = dict(outer)
    for words in _simple_commands(line):
        if words[:1] and words[0] in EXPORTS:
            exported |= _assigned(words)
        for place, pair in enumerate(pairwise([*words, ""])):
            here = exported | _assigned(words[:place])
            if (_name(pair[0]), pair[1]) == wanted:
                yield Call(tuple(words[place:]), here)
            elif _name(pair[0]) in SHELLS:
                yield from _find(_script(words[place:]), wanted, here)


def _simple_commands(line: str) -> Iterator[list[str]]:
    for part in line.replace("\\\n", " ").splitlines():
        reader = shlex.shlex(part, posix=True, punctuation_chars="".join(SEPARATORS))
        reader.whitespace_split, reader.commenters = True, ""
        words: list[str] = []
        for word in reader:
            if word.startswith("#"):
                break
            if set(word) <= SEPARATORS:
                yield words
                words = []
            else:
                words.append(word)
        yield words


def _assigned(words: list[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words if ASSIGNMENT.match(word)]
    return {name: value for name, _, value in pairs}


def _name(word: str) -> str:
    return word.rpartition("/")[2]


def _script(words: list[str]) -> str:
    """What stands behind -c (or -lc) of a shell; "" without it."""
    for option, script in pairwise(words):
        if re.fullmatch(r"-[a-z]*c[a-z]*", option):
            return script
    return ""
