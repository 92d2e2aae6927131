"""`arsched wait [IDS]`: until candidates are decided and runs are over."""

from __future__ import annotations

import time
from collections.abc import Callable

import click

from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_text
from scheduler.domain.errors import ExitCode
from scheduler.lab import Workspace, open_workspace, read_live
from scheduler.queue.wait import Wait, undecided, wait_for
from scheduler.screens.text import wait_lines, waiting_line
from scheduler.views.candidate import not_running
from scheduler.views.status import usable_slots

REPORT_S = 8.0


@click.command()
@click.argument("refs", nargs=-1, metavar="[IDS]...", shell_complete=options.ids)
@click.option("--timeout", "timeout_s", type=options.Finite(0), metavar="SECONDS", help="Give up after so long.")
@options.reading
def command(refs: tuple[str, ...], timeout_s: float | None, tag: str | None, as_json: bool) -> int:
    """Wait until all IDS (default: everything undecided) are decided. Runs nothing: `arsched submit` does.

    Exit code 0 when all ended with a score, 3 when one has none, was cancelled, or the time ran out; 4 when the lab is
    paused and nothing runs any more.
    """
    with open_workspace(tag) as space:
        chosen = refs or undecided(space)
        if not chosen:
            log("nothing is undecided")
        report = _reporter(space)
        ended = wait_for(space, chosen, timeout_s=timeout_s, clock=time.monotonic, sleep=time.sleep, report=report)
    print_json(ended.to_json()) if as_json else print_text("\n".join(wait_lines(ended)))
    if ended.paused:
        log("paused: nothing more will come of it before: arsched resume")
        return ExitCode.STOP_LOOPING
    return 0 if ended.all_ok else ExitCode.ANSWER_IS_NO


def _reporter(space: Workspace) -> Callable[[Wait], None]:
    """Shows on stderr what is still waited for: when that changes, and every few seconds while it does not."""
    began_at, shown, shown_at = time.monotonic(), "", float("-inf")

    def report(now: Wait) -> None:
        nonlocal shown, shown_at
        line, at = waiting_line(now), time.monotonic()
        if line == shown and at - shown_at <= REPORT_S:
            return
        shown, shown_at = line, at
        slots = usable_slots(space.tag, read_live(space.paths.live), time.time())
        log(f"{at - began_at:5.0f} s  {line}{f'; {not_running(space.ledger, space.tag)}' if slots is None else ''}")

    return report
