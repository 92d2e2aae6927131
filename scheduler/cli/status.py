"""`arsched status`: what runs where, what waits, and whether the queue is run."""

from __future__ import annotations

import time

import click

from scheduler.cli import options
from scheduler.cli.output import print_json, print_screen
from scheduler.lab import open_workspace, read_live
from scheduler.views.facts import LabFacts
from scheduler.views.status import read_status


@click.command()
@options.reading
def command(tag: str | None, as_json: bool) -> None:
    """Show the lab's baseline, its noise, its search and what that has spent, the slots, and what waits and why."""
    with open_workspace(tag) as space, space.ledger.snapshot():
        live = read_live(space.paths.live)
        view = read_status(LabFacts(space.ledger, space.lab, whole=False), live, time.time())
    if as_json:
        print_json(view.to_json())
    else:
        from scheduler.screens.tables import status_screen

        print_screen(status_screen(view))
