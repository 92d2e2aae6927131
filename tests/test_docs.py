"""The documents tell the truth about names: verbs and their options, make targets, files and links.

Does not check figures: those have the command that makes them beside them.
"""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from scheduler.app.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "program.md", ROOT / "candidates" / "README.md", *(ROOT / "docs").glob("*.md")]
)
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)")


def commands(text: str) -> list[str]:
    """Every inline or fenced piece of the text that starts like a command line of ours."""
    lines = [line.strip().removeprefix("$ ") for block in FENCE.findall(text) for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    return [line.partition(" #")[0].strip() for line in (*lines, *inline) if line.startswith(("arsched ", "make "))]


def verbs() -> dict[str, click.Command]:
    assert isinstance(main, click.Group)
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in main.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def options(command: click.Command) -> set[str]:
    shared = {"--help"}
    return shared | {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)}


@pytest.mark.parametrize("name", NAMES)
def test_every_verb_and_option_exists(name: str) -> None:
    known = verbs()
    for line in commands((ROOT / name).read_text(encoding="utf-8")):
        program, verb, *rest = line.split()
        if program != "arsched" or verb.startswith("-") or not verb.isalpha():
            continue
        assert verb in known, f"{name}: `{line}` names no verb of arsched"
        for option in (word.partition("=")[0] for word in rest if word.startswith("--")):
            assert option in options(known[verb]), f"{name}: `{line}`: {verb} has no option {option}"


@pytest.mark.parametrize("name", NAMES)
def test_every_make_target_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in commands((ROOT / name).read_text(encoding="utf-8")):
        if line.startswith("make "):
            wanted = [word for word in line.split()[1:] if "=" not in word]
            assert set(wanted) <= targets, f"{name}: `{line}`"


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_resolves(name: str) -> None:
    document = ROOT / name
    links = [link for link in LINK.findall(document.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_verb_has_help() -> None:
    assert [name for name, command in verbs().items() if not (command.help or command.short_help)] == []


def test_the_checks_see_a_made_up_command() -> None:
    assert commands("text `arsched fly` text\n```\n$ make rocket\n```\n") == ["make rocket", "arsched fly"]
