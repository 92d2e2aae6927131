"""The demo's own steps: a lab, ideas as worktrees, ideas on top of what won. The rest is what every verb does.

Every step looks at what is there already, so an interrupted demo goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from scheduler.actions.init import Wish, create_lab
from scheduler.actions.new import new_worktree
from scheduler.actions.submit import Order, Submission, submit
from scheduler.demo.edits import EDITS, Edit, second_round
from scheduler.domain.candidate import Candidate
from scheduler.files import write_whole
from scheduler.paths import LabPaths
from scheduler.queue.drive import has_work, run_queue
from scheduler.queue.ending import Ending
from scheduler.queue.means import Means
from scheduler.queue.progress import Screen
from scheduler.workspace import Workspace

TAG, AUTHOR = "demo", "arsched demo"


def open_lab(root: Path, contract: str) -> None:
    """Create the lab with its first baseline, unless it is there."""
    if not LabPaths(root).ledger.is_file():
        create_lab(Wish(TAG, contract, author=AUTHOR), start=root)


def climb(space: Workspace, screen: Screen, means: Means) -> Ending:
    """Turns at the queue, one for each step, each until everything is decided. Raises what run_queue raises."""
    for title, step in STEPS:
        screen.say(title)
        for candidate in step(space):
            screen.say(f"  {candidate.id} {candidate.name}: {candidate.title}")
        ending = run_queue(space, screen, means, lambda: not has_work(space))
        if ending is not Ending.DONE:
            return ending
    return Ending.DONE


def first_ideas(space: Workspace) -> tuple[Candidate, ...]:
    """The built-in edits on the first baseline, queued. Those queued before are left alone."""
    return _submit(space, EDITS)


def next_ideas(space: Workspace) -> tuple[Candidate, ...]:
    """Edits on top of the baseline that won; none when nothing did, or when they are queued already."""
    baseline = space.baseline()
    known = space.ledger.candidates.list(space.tag)
    ideas = [candidate for candidate in known if not candidate.origin.merged]
    if baseline.base_id is None or any(idea.base_id not in (None, known[0].id) for idea in ideas):
        return ()
    source = space.ledger.candidates.train_py(baseline.id).decode()
    return _submit(space, second_round(source, baseline.name))


def _submit(space: Workspace, edits: Iterable[Edit]) -> tuple[Candidate, ...]:
    names = {candidate.name for candidate in space.ledger.candidates.list(space.tag)}
    queued = [_submit_one(space, edit) for edit in edits if edit.name not in names]
    return tuple(one for submission in queued for one in submission.candidates)


def _submit_one(space: Workspace, edit: Edit) -> Submission:
    """As a person would: a new worktree, its train.py edited, submitted."""
    path = space.paths.candidate(edit.name)
    if not path.exists():
        new_worktree(space, edit.name)
    source = space.repo.read(space.baseline_commit(), "train.py").decode()
    write_whole(path / "train.py", edit.apply(source))
    return submit(space, Order((path,), edit.title, AUTHOR))


STEPS: tuple[tuple[str, Callable[[Workspace], tuple[Candidate, ...]]], ...] = (
    ("3/5 seven ideas: worktrees with another train.py each, and three runs of the baseline before them", first_ideas),
    ("4/5 ideas on top of what was promoted", next_ideas),
)
