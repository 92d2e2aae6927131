"""`arsched pause`: nothing new begins until `arsched resume`."""

from __future__ import annotations

import click

from scheduler.cli import options
from scheduler.cli.output import print_json, print_text
from scheduler.domain.text import count
from scheduler.lab import is_paused, open_workspace


@click.command()
@click.option("--reason", default="", metavar="TEXT", help="Why, for the record.")
@options.changing
def command(reason: str, tag: str | None, dry_run: bool, as_json: bool) -> None:
    """Pause the lab: no queued run is placed and no idea asked for. What runs is finished and recorded.

    Then whoever runs the queue leaves with exit code 4. Pausing twice changes nothing.
    """
    with open_workspace(tag) as space:
        already = is_paused(space)
        if not already and not dry_run:
            space.ledger.labs.pause(space.tag, reason or "by hand")
        running = len(space.ledger.runs.running(space.tag))
    done = "is paused already" if already else "would be paused" if dry_run else "is paused"
    text = f"lab {space.tag} {done}; {count(running, 'run')} going on. Go on with: arsched resume"
    value = {"tag": space.tag, "paused": not dry_run or already, "already": already, "running": running}
    print_json(value | {"dry_run": dry_run}) if as_json else print_text(text)
