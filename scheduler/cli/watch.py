"""`arsched watch`: the lab on one screen, redrawn every second."""

from __future__ import annotations

import time
from collections.abc import Callable

import click

from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_screen
from scheduler.domain.errors import UsageProblem
from scheduler.lab import open_workspace
from scheduler.views.status import Watcher

EVERY_S = 1.0
LINES = 24  # of a frame that goes into a pipe


@click.command()
@click.option("--once", is_flag=True, help="Print one frame on stdout and end.")
@options.reading
def command(once: bool, tag: str | None, as_json: bool) -> None:
    """Watch the slots, what the search has spent, the leaderboard with its errors and the staircase. Ctrl-C leaves.

    It reads only, and works whether or not the queue is run. Without a terminal it prints one frame; --json needs
    --once.
    """
    if as_json and not once:
        raise UsageProblem("--json prints one value, and watching never ends", "arsched watch --once --json")
    with open_workspace(tag) as space:
        watcher = Watcher(space.ledger, space.tag, space.paths.live)
        if as_json:
            print_json(watcher.look(time.time()).to_json())
        else:
            _draw(watcher, once, space.ledger.ensure_current)


def _draw(watcher: Watcher, once: bool, ensure_current: Callable[[], None]) -> None:
    """Once, or until Ctrl-C, with the terminal left as it was."""
    from scheduler.screens.terminal import on_terminal, redrawing, terminal_size
    from scheduler.screens.watch import watch_frame

    if once or not on_terminal():
        print_screen([watch_frame(watcher.look(time.time()), *terminal_size(LINES))])
        return
    try:
        with redrawing() as draw:
            while True:
                draw(lambda width, height: watch_frame(watcher.look(time.time()), width, height))
                ensure_current()
                time.sleep(EVERY_S)
    except KeyboardInterrupt:
        log("left; what runs goes on")
