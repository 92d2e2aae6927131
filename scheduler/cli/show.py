"""`arsched show ID`: one candidate or one run, whole."""

from __future__ import annotations

import click

from scheduler.cli import options
from scheduler.cli.output import print_json, print_screen
from scheduler.domain.run import Run
from scheduler.lab import find, open_workspace
from scheduler.views.candidate import candidate_view
from scheduler.views.facts import LabFacts
from scheduler.views.runs import RunView, run_view


@click.command()
@click.argument("ref", metavar="ID", shell_complete=options.ids)
@options.reading
def command(ref: str, tag: str | None, as_json: bool) -> None:
    """Show a candidate (c0007, its name, or `last`) or a run (r0012): figures, decisions, the diff of its train.py."""
    with open_workspace(tag) as space, space.ledger.snapshot():
        found = find(space, ref)
        facts = LabFacts(space.ledger, space.lab, whole=False)
        view = run_view(facts, found) if isinstance(found, Run) else candidate_view(facts, found)
    if as_json:
        print_json(view.to_json())
    else:
        from scheduler.screens.details import candidate_screen, run_screen

        print_screen(run_screen(view) if isinstance(view, RunView) else candidate_screen(view))
