"""`arsched show ID`: one candidate or one run, whole."""

from __future__ import annotations

import click

from scheduler.cli import options
from scheduler.cli.output import print_json


@click.command(short_help="Everything about a candidate or a run.")
@click.argument("ref", metavar="ID")
@options.tag
@options.as_json
def command(ref: str, tag: str | None, as_json: bool) -> None:
    """Show a candidate (c0007, its name, or `last`) or a run (r0012): figures, decisions, the diff of its train.py."""
    from scheduler.domain.run import Run
    from scheduler.lookup import find
    from scheduler.screens.details import candidate_screen, run_screen
    from scheduler.screens.terminal import paint
    from scheduler.views.candidate_details import candidate_view
    from scheduler.views.facts import read_facts
    from scheduler.views.run_details import run_view
    from scheduler.workspace import open_workspace

    with open_workspace(tag) as space:
        found = find(space, ref)
        facts = read_facts(space.ledger, space.lab)
        if isinstance(found, Run):
            run = run_view(space.ledger, facts, found)
            print_json(run.to_json()) if as_json else paint(run_screen(run))
        else:
            candidate = candidate_view(space.ledger, facts, found)
            print_json(candidate.to_json()) if as_json else paint(candidate_screen(candidate))
