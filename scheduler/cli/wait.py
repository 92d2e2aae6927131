"""`arsched wait [IDS]`: until candidates are decided and runs are over."""

from __future__ import annotations

import time

import click

from scheduler.cli import options
from scheduler.cli.output import print_json, print_text, say
from scheduler.live import read_live
from scheduler.queue.waiting import Wait, undecided, wait_for
from scheduler.screens.waiting import wait_lines, waiting_line
from scheduler.views.explanation import NOBODY
from scheduler.views.status import usable_slots
from scheduler.workspace import Workspace, open_workspace

ANSWER_IS_NO, STOP_LOOPING = 3, 4
TELL_S = 8.0


@click.command(short_help="Wait until a candidate or a run is over.")
@click.argument("refs", nargs=-1, metavar="[IDS]...")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0), metavar="SECONDS", help="Give up after so long.")
@options.tag
@options.as_json
def command(refs: tuple[str, ...], timeout_s: float | None, tag: str | None, as_json: bool) -> int:
    """Wait until all IDS (default: everything undecided) are decided. Runs nothing: `arsched submit` does.

    Exit code 0 when all ended with a score, 3 when one has none, was cancelled, or the time ran out; 4 when the lab is
    paused and nothing runs any more.
    """
    with open_workspace(tag) as space:
        chosen = refs or undecided(space)
        if not chosen:
            say("nothing is undecided")
        teller = _Teller(space)
        ended = wait_for(space, chosen, timeout_s=timeout_s, clock=time.monotonic, sleep=time.sleep, tell=teller.tell)
    print_json(ended.to_json()) if as_json else print_text("\n".join(wait_lines(ended)))
    if ended.paused:
        say("paused: nothing more will come of it before: arsched resume")
        return STOP_LOOPING
    return 0 if ended.all_ok else ANSWER_IS_NO


class _Teller:
    """Says on stderr what is still waited for: when that changes, and every few seconds while it does not."""

    def __init__(self, space: Workspace) -> None:
        self._space, self._began_at = space, time.monotonic()
        self._said, self._said_at = "", float("-inf")

    def tell(self, now: Wait) -> None:
        line = waiting_line(now)
        quiet_s = time.monotonic() - self._said_at
        if line != self._said or quiet_s > TELL_S:
            self._said, self._said_at = line, time.monotonic()
            say(f"{time.monotonic() - self._began_at:5.0f} s  {line}{self._nobody()}")

    def _nobody(self) -> str:
        slots = usable_slots(self._space.tag, read_live(self._space.paths.live), time.time())
        return f"; {NOBODY}" if slots is None else ""
