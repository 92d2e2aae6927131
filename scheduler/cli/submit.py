"""`arsched submit PATHS…`: candidates into the queue, and the queue run."""

from __future__ import annotations

from pathlib import Path

import click

from scheduler.cli import options
from scheduler.cli.output import say

REFUSED = 3


@click.command(short_help="Queue candidates and run the queue.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--title", metavar="TEXT", help="What the idea is, in a line. Default: the worktree's last commit.")
@click.option("--no-wait", is_flag=True, help="Only queue; whoever runs the queue takes it.")
@click.option("--again", is_flag=True, help="Measure a program that was submitted before once more.")
@options.address
@options.slots
@options.tag
@options.dry_run
@options.as_json
def command(
    paths: tuple[Path, ...], title: str | None, no_wait: bool, again: bool,
    address: str | None, slots: int | None, tag: str | None, dry_run: bool, as_json: bool,
) -> int:  # fmt: skip
    """Queue every candidate among PATHS: worktrees, folders with a train.py, single Python files.

    Then run the queue until all is decided, or watch whoever runs it. Without PATHS: run what is queued.
    Exit code 3 when a path was refused; the good ones are queued all the same. 4 when the lab is paused.
    """
    from scheduler.actions.submit import Order, submit
    from scheduler.cli.running import author, run_and_watch
    from scheduler.cli.submission import print_submission, tell_submission
    from scheduler.domain.errors import UsageProblem
    from scheduler.workspace import open_workspace

    if not paths and (no_wait or dry_run):
        raise UsageProblem("no paths to queue", "arsched submit candidates/* --no-wait; without --no-wait it runs")
    with open_workspace(tag) as space:
        submission = submit(space, Order(paths, title, author(), again, dry_run))
        tell_submission(submission, dry_run=dry_run)
        if paths and submission.matched_nothing:
            named = ", ".join(map(str, paths[:3])) + (" …" if len(paths) > 3 else "")
            raise UsageProblem(f"nothing to submit in {named}", "make a candidate: arsched new NAME")
        wait = not (no_wait or dry_run) and (not paths or bool(submission.candidates))
        code = run_and_watch(space, submission.candidates, address, slots) if wait else 0
        print_submission(space, submission, waited=wait, as_json=as_json)
    if no_wait and submission.queued:
        say("queued; run the queue with: arsched submit")
    return code or (REFUSED if submission.refused else 0)
