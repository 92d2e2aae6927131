"""`arsched logs RUN|CANDIDATE`: what a run printed, cleaned of control characters."""

from __future__ import annotations

import re
import time

import click

from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_text
from scheduler.domain.errors import UsageProblem
from scheduler.domain.run import Queued, Run, Running
from scheduler.lab import Workspace, find_run, open_workspace
from scheduler.queue.runtime import steady_time
from scheduler.views.runs import follow_log, has_log, log_path, read_log

LOOK_S = 0.3
REPORT_S = 8.0
YOUNG_S = 20.0


@click.command()
@click.argument("ref", metavar="ID", shell_complete=options.ids)
@click.option("-f", "--follow", is_flag=True, help="Go on as it prints, until the run is over.")
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Begin with the last N lines.")
@options.reading
def command(ref: str, follow: bool, tail: int | None, tag: str | None, as_json: bool) -> None:
    """Print the log of a run (r0012, or `last`) or of a candidate's latest run."""
    if follow and as_json:
        raise UsageProblem("--json prints one value, and --follow goes on", "leave one of them out")
    with open_workspace(tag) as space:
        run = find_run(space, ref)
        if follow:
            _follow(space, run, tail)
            return
        path = log_path(space, run)
        text = read_log(path)
    if tail is not None:
        text = "\n".join(text.splitlines()[-tail:] if tail else ())
    if as_json:
        said = {"run": run.id, "candidate": run.candidate_id, "attempt": run.attempts, "log": text}
        print_json(said | {"words_of": "the candidate"})
    else:
        log(f"what {run.candidate_id} printed: the candidate's words, until the end of this output")
        print_text(text, end="" if text.endswith("\n") else "\n")


def _follow(space: Workspace, run: Run, tail: int | None) -> None:
    attempt = _begun(space, run).attempts

    def is_over() -> bool:
        space.ledger.ensure_current()
        state = space.ledger.runs.get(run.id, space.tag).state
        return not (isinstance(state, Running) and state.attempt == attempt)

    with log_path(space, space.ledger.runs.get(run.id, space.tag)).open("rb") as file:
        if tail is not None:
            file.seek(start_of_tail(file.read(), tail))
        for text in follow_log(file, is_over, lambda: time.sleep(LOOK_S)):
            if not print_text(text, end=""):
                return


def start_of_tail(data: bytes, lines: int) -> int:
    """Where the last lines of a log begin, an unfinished one among them. A lone carriage return ends a line, too."""
    if not lines:
        return len(data)
    ends = [found.end() for found in re.finditer(rb"\r\n|\r|\n", data) if found.end() < len(data)]
    return ends[-lines] if len(ends) >= lines else 0


def _begun(space: Workspace, run: Run) -> Run:
    """The run once it has begun and has a log. Raises LabProblem when its log is not on this machine."""
    reported_at = float("-inf")
    while True:
        now = space.ledger.runs.get(run.id, space.tag)
        if isinstance(now.state, Running):  # a log appears within seconds on this machine, and never on another
            if has_log(space, now) or steady_time() - now.state.started_at >= YOUNG_S:
                return now
        elif not isinstance(now.state, Queued):
            return now
        space.ledger.ensure_current()
        if time.monotonic() - reported_at > REPORT_S:
            reported_at = time.monotonic()
            log(f"{run.id} has not begun to print (Ctrl-C leaves it alone)")
        time.sleep(LOOK_S)
