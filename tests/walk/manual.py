"""program.md read as a program: its commands, its samples of output, and how two outputs are compared in shape."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MANUAL = Path(__file__).resolve().parents[2] / "program.md"
PROGRAMS = ("arsched ", "git ", "nohup ", "printenv ", "python ", "cat ", "touch ")
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"[−+-]?\b\d[\d.,]*\b")
DIGEST = re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{7,40}\b")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
NOISE = re.compile(r"noise sd .*?\(\d+\s+repeats?\b[^)]*\)", re.DOTALL)  # its parts are the machine's of the moment


@dataclass(frozen=True)
class Sample:
    """A command and what the manual says it prints on stdout."""

    command: str
    output: str


def commands(text: str) -> list[str]:
    """Every command of the text, once: lines of `sh` blocks, `$ ` lines of samples, inline code of a program."""
    found = []
    for language, body in BLOCK.findall(text):
        lines = [line.strip() for line in body.splitlines()]
        if language == "sh":
            found += [re.split(r"\s+# ", line)[0] for line in lines if line and not line.startswith("#")]
        else:
            found += [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    found += [code for code in re.findall(r"`([^`\n]+)`", BLOCK.sub("", text)) if code.startswith(PROGRAMS)]
    return list(dict.fromkeys(found))


def samples(text: str) -> list[Sample]:
    """What follows each `$ command` of a block, up to the next."""
    found = []
    for _, body in BLOCK.findall(text):
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append(Sample(command, output))
    return found


def shape(output: str) -> list[str]:
    """The lines of an output with numbers, digests, times, noise and padding made equal; empty lines left out."""
    lines = [NUMBER.sub("#", DIGEST.sub("#", TIME.sub("#", line))) for line in NOISE.sub("noise", output).splitlines()]
    return [" ".join(line.split()) for line in lines if line.strip()]


def keys(value: object) -> object:
    """A JSON value with every leaf made equal, and of every list the first element."""
    if isinstance(value, dict):
        return {name: keys(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [keys(inner) for inner in value[:1]]
    return "…"
