"""`arsched submit PATHS…`: candidates into the queue, and the queue run.

Also running the queue on a screen and printing how it ended, which several verbs share.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from scheduler.actions.candidate import pending_runs
from scheduler.actions.submit import Submission, SubmitRequest, describe_outcome, last_sentence, submit
from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_text
from scheduler.domain.candidate import Candidate
from scheduler.domain.errors import ExitCode, UsageProblem
from scheduler.domain.text import count, one_line
from scheduler.lab import Workspace, open_workspace
from scheduler.queue.progress import open_screen, tidy
from scheduler.queue.rejoin import run_rejoining
from scheduler.queue.runner import has_work, run_queue
from scheduler.queue.runtime import PoolOptions, Runtime, StopReason
from scheduler.queue.wait import undecided


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--title", metavar="TEXT", help="What the idea is, in a line. Default: the worktree's last commit.")
@click.option("--no-wait", is_flag=True, help="Only queue; whoever runs the queue takes it.")
@click.option("--again", is_flag=True, help="Measure a program that was submitted before once more.")
@options.pool
@options.changing
def command(
    paths: tuple[Path, ...], title: str | None, no_wait: bool, again: bool,
    address: str | None, slots: int | None, tag: str | None, dry_run: bool, as_json: bool,
) -> int:  # fmt: skip
    """Queue every candidate among PATHS: worktrees, folders with a train.py, single Python files.

    Then run the queue until all is decided, or watch whoever runs it. Without PATHS: run what is queued.
    Exit code 3 when a path was refused, 1 when the machine failed for one (git, disk); the good ones are queued all the
    same. 4 when the lab is paused.
    """
    if not paths and (no_wait or dry_run or title or again):
        raise no_paths()
    with open_workspace(tag) as space:
        submission = submit(space, SubmitRequest(paths, title, author(), again, dry_run))
        log_submission(submission, dry_run=dry_run)
        if paths and submission.matched_nothing:
            named = ", ".join(map(str, paths[:3])) + (" …" if len(paths) > 3 else "")
            raise UsageProblem(f"nothing to submit in {named}", "make a candidate: arsched new NAME")
        wait = not (no_wait or dry_run) and (not paths or bool(submission.candidates))
        code = run_and_watch(space, submission.candidates, address, slots) if wait else 0
        _print(space, submission, waited=wait, as_json=as_json)
    if no_wait and submission.queued and not dry_run:
        log("queued; run the queue with: arsched submit")
    return code or (ExitCode.FAILED if submission.failed else ExitCode.ANSWER_IS_NO if submission.refused else 0)


def no_paths() -> UsageProblem:
    """An option that says how to queue, and nothing to queue."""
    return UsageProblem(
        "no paths to queue", "name some: arsched submit candidates/*; without options it runs the queue"
    )


def log_submission(submission: Submission, *, dry_run: bool = False) -> None:
    """A line on stderr for every path."""
    for note in submission.skipped:
        log(f"skipped   {one_line(note)}")
    for candidate in submission.known:
        log(f"known     {candidate.id} {one_line(candidate.name)}  submitted before, {candidate.state}")
    for one in submission.queued:
        who = f"{one.candidate.id} {one.name}" if one.candidate else f"{one.name} ({one_line(str(one.path))})"
        log(f"{'would be ' if dry_run else ''}queued    {who}{f'  {one_line(one.note)}' if one.note else ''}")
    for refusal in submission.refused:
        log(f"refused   {one_line(str(refusal.path))}: {one_line(refusal.reason)}")
        if refusal.hint:
            log(f"          hint: {one_line(refusal.hint)}")
    for failure in submission.failed:
        what = f"{one_line(str(failure.path))}: {one_line(failure.reason)}"
        log(f"failed    {what}; the candidate is not at fault, and not queued")
        if failure.hint:
            log(f"          hint: {one_line(failure.hint)}")


def _print(space: Workspace, submission: Submission, *, waited: bool, as_json: bool) -> None:
    """The candidates this was about, as they stand now, on stdout. Of one measured again only a new verdict counts."""
    earlier = {one.candidate.id: one.verdicts for one in submission.queued if one.candidate}
    if as_json:
        print_json({
            "tag": space.tag,
            "candidates": [_candidate_json(space, one, earlier.get(one.id, 0)) for one in submission.candidates],
            "dry_run": [{"path": str(one.path), "name": one.name} for one in submission.queued if not one.candidate],
            "refused": [{"path": str(no.path), "error": no.reason, "hint": no.hint} for no in submission.refused],
            "skipped": list(submission.skipped),
            "failed": [{"path": str(no.path), "error": no.reason, "hint": no.hint} for no in submission.failed],
            "waited": waited,
        })  # fmt: skip
        return
    for candidate in submission.candidates:
        now = space.ledger.candidates.get(candidate.id, space.tag)
        sentence = last_sentence(space, now, earlier.get(now.id, 0)) if waited else ""
        print_text(tidy(sentence) or f"{now.id} {now.name}  {describe_outcome(space, now)}")


def _candidate_json(space: Workspace, candidate: Candidate, earlier: int) -> dict[str, object]:
    now = space.ledger.candidates.get(candidate.id, space.tag)
    standing = space.ledger.board(space.tag).of(now.id)
    return {
        "candidate": now.id, "name": now.name, "title": one_line(now.title), "state": now.state.value,
        "commit": now.commit, "base": now.base_id, "val_bpb": standing.mean if standing.n else None,
        "runs": [run.id for run in space.ledger.runs.of_candidate(now.id)],
        "decision": one_line(last_sentence(space, now, earlier)),
    }  # fmt: skip


EXIT_CODES = {
    StopReason.DONE: ExitCode.DONE,
    StopReason.INTERRUPTED: ExitCode.INTERRUPTED,
    StopReason.STOPPED: ExitCode.STOP_LOOPING,
    StopReason.PAUSED: ExitCode.STOP_LOOPING,
}


def run_and_watch(space: Workspace, candidates: Iterable[Candidate], address: str | None, slots: int | None) -> int:
    """Run the queue, or watch it, until these candidates are decided, or all are where there are none of them.

    Returns the exit code, 0 when they are.
    """
    ids = tuple(candidate.id for candidate in candidates)

    def work(mine: Workspace, means: Runtime, is_again: bool) -> StopReason:
        with open_screen(mine.paths.ray_log) as screen:
            return run_queue(mine, screen, means, lambda: is_settled(mine, ids))

    reason = run_rejoining(space, Runtime(PoolOptions(address, slots)), work, lambda reason: reason, log)
    if reason in (StopReason.INTERRUPTED, StopReason.STOPPED):
        waiting = len(space.ledger.runs.queued(space.tag))
        log(f"stopped; {count(waiting, 'run')} queued, nothing is lost. Go on with: arsched submit")
    elif reason is StopReason.PAUSED:
        log("paused: nothing new begins. Go on with: arsched resume, then: arsched submit")
    return EXIT_CODES[reason]


def is_settled(space: Workspace, ids: Sequence[str]) -> bool:
    """Whether these candidates are decided and have no run to come; everything in the lab, where there are none."""
    if not ids:
        return not undecided(space) and not has_work(space)
    now = [space.ledger.candidates.get(ref, space.tag) for ref in ids]
    return not any(one.state.undecided or pending_runs(space, one.id) for one in now)


def author() -> str:
    """Who submits."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return "unknown"
