"""`arsched status`: what runs where, what waits, and whether anybody runs the queue."""

from __future__ import annotations

import time

import click

from scheduler.cli import options
from scheduler.cli.output import print_json


@click.command(short_help="What runs where, what waits.")
@options.tag
@options.as_json
def command(tag: str | None, as_json: bool) -> None:
    """Show the lab's baseline, its noise, its search and what that has spent, the slots, and what waits and why."""
    from scheduler.live import read_live
    from scheduler.screens.status import status_screen
    from scheduler.screens.terminal import paint
    from scheduler.views.facts import read_facts
    from scheduler.views.status import read_status
    from scheduler.workspace import open_workspace

    with open_workspace(tag) as space:
        live = read_live(space.paths.live)
        view = read_status(space.ledger, read_facts(space.ledger, space.lab), live, time.time())
    print_json(view.to_json()) if as_json else paint(status_screen(view))
