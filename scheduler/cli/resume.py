"""`arsched resume`: the end of a pause."""

from __future__ import annotations

import time

import click

from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_text


@click.command()
@options.changing
def command(tag: str | None, dry_run: bool, as_json: bool) -> None:
    """End the lab's pause. Whoever still runs the queue goes on; otherwise start a search or a submit again."""
    from scheduler.lab import is_paused, open_workspace, read_live
    from scheduler.views.status import fresh_live

    with open_workspace(tag) as space:
        was_paused = is_paused(space)
        if was_paused and not dry_run:
            space.ledger.labs.resume(space.tag)
        runner = fresh_live(space.tag, read_live(space.paths.live), time.time())
        search = space.ledger.searches.current(space.tag)
    done = "was not paused" if not was_paused else "would go on" if dry_run else "goes on"
    value = {"tag": space.tag, "was_paused": was_paused, "queue_is_run": runner is not None, "dry_run": dry_run}
    print_json(value) if as_json else print_text(f"lab {space.tag} {done}")
    if runner is None:
        log(f"no process runs it now; start it with: arsched {'search' if search else 'submit'}")
