"""`arsched leaderboard`: every candidate by its score, with its effect and the error of it."""

from __future__ import annotations

import click

from scheduler.cli import options
from scheduler.cli.output import print_json, print_screen
from scheduler.lab import open_workspace
from scheduler.views.candidates import leaderboard
from scheduler.views.facts import LabFacts

SHOWN = 30


@click.command()
@click.option("--limit", type=click.IntRange(0), default=SHOWN, show_default=True, help="Rows to show; 0: all.")
@options.reading
def command(limit: int, tag: str | None, as_json: bool) -> None:
    """Rank candidates by mean val_bpb, each with its effect and its error on the baseline it was made from.

    --json prints all candidates, whatever the limit.
    """
    shown = None if as_json else limit or None
    with open_workspace(tag) as space, space.ledger.snapshot():
        facts = LabFacts(space.ledger, space.lab, whole=shown is None)
        view = leaderboard(facts, shown)
    if as_json:
        print_json(view.to_json())
    else:
        from scheduler.screens.tables import leaderboard_screen

        print_screen(leaderboard_screen(view, len(facts.standings) - len(view.candidates)))
