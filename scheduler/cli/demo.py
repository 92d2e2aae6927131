"""`arsched demo`: a real hill climb in a lab of its own, through the same use cases as every other verb."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from scheduler.actions.prepare import prepare_command, run_program
from scheduler.cli import options
from scheduler.cli.output import print_json, say
from scheduler.cli.program import program
from scheduler.cli.running import EXIT_CODES
from scheduler.demo.kept_pool import kept_pool
from scheduler.demo.place import Place, demo_place
from scheduler.demo.steps import TAG, climb, open_lab
from scheduler.queue.ending import Ending
from scheduler.queue.means import Means
from scheduler.queue.pools import PoolOptions, connect_ray
from scheduler.queue.progress import open_screen
from scheduler.report.write import Report, write_report
from scheduler.screens.leaderboard import leaderboard_screen
from scheduler.screens.summary import summary_screen
from scheduler.screens.terminal import paint
from scheduler.views.facts import read_facts
from scheduler.views.leaderboard import Leaderboard, leaderboard
from scheduler.workspace import Workspace, open_workspace

CHECKOUT = Path(__file__).resolve().parents[3]
SLOTS = 2


@click.command(short_help="A real parallel hill climb on this machine.")
@click.option("--dir", "parent", type=click.Path(file_okay=False, path_type=Path), default="demo", show_default=True,
              help="Where its numbered folder goes.")  # fmt: skip
@click.option("--slots", type=click.IntRange(1), default=SLOTS, show_default=True, metavar="N", help="Runs at a time.")
@click.option("--contract", default="cpu", show_default=True, metavar="C", help="Another contract for one CPU core.")
@options.as_json
def command(parent: Path, slots: int, contract: str, as_json: bool) -> int:
    """Prepare the cpu cache, measure a baseline, try seven edits and then two on top of what won, with real training.

    Takes a few minutes. Interrupted, the next `arsched demo` goes on; finished, it starts another.
    """
    with demo_place(parent, CHECKOUT) as place:
        _greet(place)
        say("1/5 the cache: corpus, tokenizer and packed rows of the contract, once per machine")
        code = run_program(prepare_command(contract, None, as_json=False, verify=False))
        if code:
            return code
        say("2/5 the lab: a branch, a ledger, and its first baseline")
        open_lab(place.root, contract)
        with open_workspace(TAG, start=place.root) as space:
            return _play(space, slots, as_json)


def _play(space: Workspace, slots: int, as_json: bool) -> int:
    with open_screen() as screen, kept_pool(connect_ray) as connect:
        ending = climb(space, screen, Means(PoolOptions(slots=slots), connect))
    if ending is not Ending.DONE:
        say("stopped, nothing is lost: the next `arsched demo` goes on with this one")
        return EXIT_CODES[ending]
    say("5/5 the report")
    report = write_report(space, space.paths.report)
    _print(leaderboard(read_facts(space.ledger, space.lab)), report, as_json)
    _say_farewell(space, report)
    return 0


def _print(board: Leaderboard, report: Report, as_json: bool) -> None:
    if as_json:
        print_json({"leaderboard": board.to_json(), "report": report.to_json()})
        return
    paint(leaderboard_screen(board))
    paint([""])
    paint(summary_screen(report.summary))


def _greet(place: Place) -> None:
    where = os.path.relpath(place.root)
    say(f"{'going on with the demo' if place.resumed else 'a demo'} in {where}: a git repository and a lab of its own")


def _say_farewell(space: Workspace, report: Report) -> None:
    say(f"\nthe plot: {os.path.relpath(report.progress_png)}")
    say(f"the page: {os.path.relpath(report.index_html)}, everything that was tried and why it won or lost")
    say("look around:\n  " + "\n  ".join(look_around(space.paths.root)))


def look_around(root: Path) -> tuple[str, ...]:
    """Lines to type one after the other, from the current folder."""
    typed = program(root)
    return (f"cd {shlex.quote(os.path.relpath(root))}",
            f"{typed} status", f"{typed} explain depth-1", f"{typed} show last")  # fmt: skip
