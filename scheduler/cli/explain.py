"""`arsched explain ID`: why it was decided so, or why it is not running."""

from __future__ import annotations

import time

import click

from scheduler.cli import options
from scheduler.cli.output import print_json, print_screen
from scheduler.domain.run import Run
from scheduler.lab import find, open_workspace, read_live
from scheduler.views.candidate import explain_candidate, explain_run
from scheduler.views.facts import LabFacts
from scheduler.views.status import usable_slots


@click.command()
@click.argument("ref", metavar="ID", shell_complete=options.ids)
@options.reading
def command(ref: str, tag: str | None, as_json: bool) -> None:
    """Explain a candidate's decisions with the numbers they were taken from, or why a run is not running."""
    with open_workspace(tag) as space, space.ledger.snapshot():
        found = find(space, ref)
        slots = usable_slots(space.tag, read_live(space.paths.live), time.time())
        facts = LabFacts(space.ledger, space.lab, whole=False)
        about = explain_run(facts, found, slots) if isinstance(found, Run) else explain_candidate(facts, found, slots)
    if as_json:
        print_json(about.to_json())
    else:
        from scheduler.screens.details import explanation_screen

        print_screen(explanation_screen(about))
