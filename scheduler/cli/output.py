"""Printing: data on stdout, talk on stderr, problems in one form. Nothing else writes to the terminal directly.

Names, titles and reasons come from candidates; whoever prints them cleans them first (views.plain).
"""

from __future__ import annotations

import json

import click

from scheduler.cli.program import typable
from scheduler.domain.errors import ArschedError


def say(text: str) -> None:
    """Talk: one line or several on stderr. Commands of ours in it can be typed as they stand."""
    click.echo(typable(text), err=True)


def print_json(value: object) -> None:
    """The one JSON value of a command on stdout. NaN and infinity are not JSON and are refused."""
    click.echo(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False))


def print_text(text: str) -> None:
    """Data for people on stdout."""
    click.echo(text)


def print_problem(problem: ArschedError, *, as_json: bool) -> None:
    """What, where, what next. With --json it is the command's one value."""
    if as_json:
        print_json({"error": problem.message, "hint": typable(problem.hint)})
        return
    say(f"error: {problem.message}")
    if problem.hint:
        say(f"\nhint: {problem.hint}")
