"""`arsched brief`: the page that every proposer gets, for people and for agents that drive arsched themselves."""

from __future__ import annotations

import click

from scheduler.brief import read_brief_facts, write_brief
from scheduler.cli import options
from scheduler.cli.output import print_json, print_text
from scheduler.lab import open_workspace


@click.command()
@click.option("--ask", type=click.IntRange(0), default=0, help="Number of the ask: it picks the suggested theme.")
@options.reading
def command(ask: int, tag: str | None, as_json: bool) -> None:
    """The contract, the noise, the baseline, what moved it, near-misses, dead ends with their reasons, what runs now.

    At most 150 lines of Markdown.
    """
    with open_workspace(tag) as space:
        text = write_brief(read_brief_facts(space.ledger, space.lab), ask)
    print_json({"text": text, "lines": text.count("\n")}) if as_json else print_text(text, end="")
