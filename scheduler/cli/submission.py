"""What became of the paths given to `submit`, for people and as JSON."""

from __future__ import annotations

from scheduler.actions.outcome import describe_outcome, last_sentence
from scheduler.actions.submit import Queued, Submission
from scheduler.cli.output import print_json, print_text, say
from scheduler.domain.candidate import Candidate
from scheduler.domain.text import one_line
from scheduler.queue.progress import tidy
from scheduler.workspace import Workspace


def tell_submission(submission: Submission, *, dry_run: bool) -> None:
    """Refusals, notes and what is queued, on stderr."""
    for note in submission.skipped:
        say(f"skipped   {one_line(note)}")
    for candidate in submission.known:
        say(f"known     {candidate.id} {one_line(candidate.name)}  submitted before, {candidate.state}")
    for one in submission.queued:
        say(f"{'would be ' if dry_run else ''}queued    {_who(one)}{_note(one)}")
    for refusal in submission.refused:
        say(f"refused   {refusal.path}: {one_line(refusal.reason)}")
        if refusal.hint:
            say(f"          hint: {one_line(refusal.hint)}")


def print_submission(space: Workspace, submission: Submission, *, waited: bool, as_json: bool) -> None:
    """The candidates this was about, as they stand now, on stdout."""
    if as_json:
        print_json(_as_json(space, submission, waited))
        return
    for candidate in submission.candidates:
        now = space.ledger.candidates.get(candidate.id, space.tag)
        sentence = last_sentence(space, now) if waited else ""
        print_text(tidy(sentence) or f"{now.id} {now.name}  {describe_outcome(space, now)}")


def _as_json(space: Workspace, submission: Submission, waited: bool) -> dict[str, object]:
    return {
        "tag": space.tag,
        "candidates": [_candidate_json(space, candidate) for candidate in submission.candidates],
        "dry_run": [{"path": str(one.path), "name": one.name} for one in submission.queued if not one.candidate],
        "refused": [{"path": str(no.path), "error": no.reason, "hint": no.hint} for no in submission.refused],
        "skipped": list(submission.skipped),
        "waited": waited,
    }


def _candidate_json(space: Workspace, candidate: Candidate) -> dict[str, object]:
    now = space.ledger.candidates.get(candidate.id, space.tag)
    standing = space.ledger.board(space.tag).of(now.id)
    return {
        "candidate": now.id,
        "name": now.name,
        "title": one_line(now.title),
        "state": now.state.value,
        "commit": now.commit,
        "base": now.base_id,
        "val_bpb": standing.mean if standing.n else None,
        "runs": [run.id for run in space.ledger.runs.of_candidate(now.id)],
        "decision": one_line(last_sentence(space, now)),
    }


def _who(one: Queued) -> str:
    return f"{one.candidate.id} {one.name}" if one.candidate else f"{one.name} ({one.path})"


def _note(one: Queued) -> str:
    return f"  {one_line(one.note)}" if one.note else ""
