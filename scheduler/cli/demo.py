"""`arsched demo`: a real hill climb in a lab of its own, through the same actions as every other verb.

`<dir>/1/`, `<dir>/2/`, … hold a repository each, never the user's. Every step looks at what is there already, so an
interrupted demo goes on where it stopped. What becomes of the ideas is measured, not promised here.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import click

from scheduler.actions.candidate import new_worktree
from scheduler.actions.init import InitRequest, create_lab, sandbox_here
from scheduler.actions.submit import SubmitRequest, submit
from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_screen, program
from scheduler.cli.prepare import prepare_command, run_program
from scheduler.cli.submit import EXIT_CODES
from scheduler.domain.candidate import Candidate
from scheduler.domain.errors import LabProblem, PoolProblem
from scheduler.domain.lab import Lab
from scheduler.lab import LabPaths, Workspace, open_workspace, write_whole
from scheduler.policy.constants import read_constants, rewrite_constants
from scheduler.queue.progress import Screen, open_screen
from scheduler.queue.runner import has_work, run_queue
from scheduler.queue.runtime import Connect, PoolHandle, PoolOptions, Runtime, SchedulerLock, StopReason, connect_ray
from scheduler.report.page import write_report
from scheduler.screens.tables import leaderboard_screen, summary_screen
from scheduler.shipped import fill_repository, shipped_folder
from scheduler.views.candidates import leaderboard
from scheduler.views.facts import LabFacts

SLOTS = 2


@click.command()
@click.option("--dir", "parent", type=click.Path(file_okay=False, path_type=Path), default="demo", show_default=True,
              help="Where its numbered folder goes.")  # fmt: skip
@click.option("--slots", type=click.IntRange(1), default=SLOTS, show_default=True, metavar="N", help="Runs at a time.")
@click.option("--contract", default="cpu", show_default=True, metavar="C", help="Another contract for one CPU core.")
@options.as_json
def command(parent: Path, slots: int, contract: str, as_json: bool) -> int:
    """Prepare the cpu cache, measure a baseline, try seven edits and then two on top of what won, with real training.

    Takes a few minutes. Interrupted, the next `arsched demo` goes on; finished, it starts another.
    """
    with demo_place(parent, shipped_folder()) as place:
        doing = "going on with the demo" if place.resumed else "a demo"
        log(f"{doing} in {os.path.relpath(place.root)}: a git repository and a lab of its own")
        log("1/5 the cache: corpus, tokenizer and packed rows of the contract, once per machine")
        code = run_program(prepare_command(contract, None, as_json=False, verify=False))
        if code:
            return code
        log("2/5 the lab: a branch, a ledger, and its first baseline")
        if not LabPaths(place.root).has_ledger:
            sandbox = sandbox_here()
            if weaker := sandbox.problem("full"):
                log(f"    {weaker}; candidates run in the sandbox: {sandbox.best}")
            create_lab(InitRequest(TAG, contract, author=AUTHOR, sandbox=sandbox.best), start=place.root)
        with open_workspace(TAG, start=place.root) as space:
            return _play(space, slots, as_json)


def _play(space: Workspace, slots: int, as_json: bool) -> int:
    with open_screen(space.paths.ray_log) as screen, shared_pool(connect_ray) as connect:
        reason = climb(space, screen, Runtime(PoolOptions(slots=slots), connect))
    if reason is not StopReason.DONE:
        log("stopped, nothing is lost: the next `arsched demo` goes on with this one")
        return EXIT_CODES[reason]
    log("5/5 the report")
    report = write_report(space, space.paths.report)
    board = leaderboard(LabFacts(space.ledger, space.lab))
    if as_json:
        print_json({"leaderboard": board.to_json(), "report": report.to_json()})
    else:
        print_screen([*leaderboard_screen(board), "", *summary_screen(report.summary)])
    log(f"\nthe plot: {os.path.relpath(report.progress_png)}")
    log(f"the page: {os.path.relpath(report.index_html)}, everything that was tried and why it won or lost")
    log("look around:\n  " + "\n  ".join(look_around(space.paths.root)))
    return 0


def look_around(root: Path) -> tuple[str, ...]:
    """Lines to type one after the other, from the current folder."""
    typed = program(root)
    return (f"cd {shlex.quote(os.path.relpath(root))}",
            f"{typed} status", f"{typed} explain depth-1", f"{typed} show last")  # fmt: skip


TAG, AUTHOR = "demo", "arsched demo"
ATTEMPTS = 50  # numbers tried when other demos run at the same time
SECOND_ROUND = 2  # ideas tried again on top of what was promoted


class Edit(NamedTuple):
    """One idea: constants of train.py by name and the values they get."""

    name: str
    title: str
    values: Mapping[str, int | float]

    def apply(self, source: str) -> str:
        """The edited train.py. Raises CandidateRejected for a train.py without these constants."""
        return rewrite_constants(source, self.values)


EDITS = (
    Edit("matrix-lr-0.4", "ten times the learning rate of the matrices", {"MATRIX_LR": 0.4}),
    Edit("heads-of-33", "heads of 33 dimensions, which rotary embedding cannot split", {"HEAD_DIM": 33}),
    Edit("batch-of-32", "twice the batch: fewer, better steps", {"DEVICE_BATCH_SIZE": 32, "TOTAL_BATCH_SIZE": 4096}),
    Edit("no-softcap", "no soft cap on the logits: cheaper steps", {"SOFTCAP": 0.0}),
    Edit("depth-2", "two layers of the same width: cheaper steps", {"DEPTH": 2, "ASPECT_RATIO": 32}),
    Edit("unembedding-lr-0.008", "twice the learning rate of the output layer", {"UNEMBEDDING_LR": 0.008}),
    Edit("depth-1", "one layer of the same width: the cheapest steps", {"DEPTH": 1, "ASPECT_RATIO": 64}),
)
_GENTLE = ("no-softcap", "unembedding-lr-0.008", "depth-1")


def second_round(source: str, base_name: str) -> tuple[Edit, ...]:
    """Ideas worth trying again on a new baseline: the gentle ones that are not part of it yet."""
    there = read_constants(source).items()
    new = [edit for edit in EDITS if edit.name in _GENTLE and not edit.values.items() <= there][:SECOND_ROUND]
    return tuple(Edit(f"{one.name}-on-{base_name}"[:60], f"{one.title}, on {base_name}", one.values) for one in new)


class Place(NamedTuple):
    """`resumed`: an earlier demo was interrupted here."""

    root: Path
    resumed: bool


@contextmanager
def demo_place(parent: Path, shipped: Path) -> Iterator[Place]:
    """A demo's folder with its repository, locked against other demos. Raises LabProblem, GitProblem.

    The last folder is gone on with while it is unfinished and no other demo runs in it.
    """
    root, lock = _take_folder(parent)
    try:
        resumed = LabPaths(root).has_ledger
        fill_repository(root, shipped, "a lab for the demo")
        yield Place(root, resumed)
    finally:
        lock.release()


def _take_folder(parent: Path) -> tuple[Path, SchedulerLock]:
    entries = parent.iterdir() if parent.is_dir() else ()
    last = max((int(entry.name) for entry in entries if entry.name.isdecimal()), default=1)
    for number in range(last, last + ATTEMPTS):
        paths = LabPaths(parent / str(number))
        lock = SchedulerLock(paths.state / "demo.lock")
        if not (paths.report / "progress.png").is_file() and lock.try_take():
            return paths.root.resolve(), lock
    raise LabProblem(f"no free folder for a demo in {parent}", "name another one: arsched demo --dir DIR")


@contextmanager
def shared_pool(connect: Connect) -> Iterator[Connect]:
    """A `connect` that opens a pool once and gives it again: Ray takes seconds to start. Closed at the end."""
    kept: list[PoolHandle] = []

    def connect_once(lab: Lab, options: PoolOptions, log: Callable[[str], None]) -> PoolHandle:
        if not kept:
            kept.append(replace(connect(lab, options, log), kept=True))
        return kept[0]

    try:
        yield connect_once
    finally:
        for handle in kept:
            with suppress(PoolProblem):
                handle.pool.close(stop_runs=not handle.detached)


def climb(space: Workspace, screen: Screen, runtime: Runtime) -> StopReason:
    """Queue the ideas of each step and run the queue until everything is decided. Raises what run_queue raises."""
    first = "3/5 seven ideas: worktrees with another train.py each, and three runs of the baseline before them"
    for title, ideas in ((first, lambda _: EDITS), ("4/5 ideas on top of what was promoted", next_ideas)):
        screen.say(title)
        for candidate in _submit(space, ideas(space)):
            screen.say(f"  {candidate.id} {candidate.name}: {candidate.title}")
        reason = run_queue(space, screen, runtime, lambda: not has_work(space))
        if reason is not StopReason.DONE:
            return reason
    return StopReason.DONE


def next_ideas(space: Workspace) -> tuple[Edit, ...]:
    """Edits on top of the baseline that won; none when nothing did, or when they are queued already."""
    baseline = space.baseline()
    known = space.ledger.candidates.list(space.tag)
    ideas = [candidate for candidate in known if not candidate.origin.merged]
    if baseline.base_id is None or any(idea.base_id not in (None, known[0].id) for idea in ideas):
        return ()
    return second_round(space.ledger.candidates.train_py(baseline.id).decode(), baseline.name)


def _submit(space: Workspace, edits: Iterable[Edit]) -> tuple[Candidate, ...]:
    """As a person would: a new worktree each, its train.py edited, submitted. Those queued before are left alone."""
    names = space.ledger.candidates.names(space.tag)
    queued: list[Candidate] = []
    for edit in edits:
        if edit.name in names:
            continue
        path = space.paths.candidates / edit.name
        if not path.exists():
            new_worktree(space, edit.name)
        source = space.repo.read(space.baseline_commit(), "train.py").decode()
        write_whole(path / "train.py", edit.apply(source))
        queued += submit(space, SubmitRequest((path,), edit.title, AUTHOR)).candidates
    return tuple(queued)
