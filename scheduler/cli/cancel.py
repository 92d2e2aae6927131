"""`arsched cancel CANDIDATE|RUN`."""

from __future__ import annotations

import click

from scheduler.actions.candidate import cancel
from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_text
from scheduler.lab import open_workspace


@click.command()
@click.argument("ref", metavar="CANDIDATE|RUN", shell_complete=options.ids)
@options.changing
def command(ref: str, tag: str | None, dry_run: bool, as_json: bool) -> None:
    """Cancel an undecided CANDIDATE (id, name or last) with all its runs, or one RUN. What runs is stopped."""
    with open_workspace(tag) as space:
        done = cancel(space, ref, dry_run=dry_run)
    name = done.candidate.id if done.candidate else None
    if as_json:
        print_json({"candidate": name, "runs": list(done.runs), "stopping": list(done.running), "dry_run": dry_run})
        return
    what = " ".join([f"{done.candidate.id} {done.candidate.name}" if done.candidate else "", *done.runs]).strip()
    print_text(f"{'would cancel' if dry_run else 'cancelled'}  {what}")
    if done.running and not dry_run:
        log(f"{', '.join(done.running)} was running: whoever runs the queue stops it now")
