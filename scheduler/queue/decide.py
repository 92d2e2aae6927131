"""The decide step: every decision that is due, taken by the policy, carried out in git and ledger.

The ledger is the truth. What needs git is done first and outside the ledger's transaction: a crash in between leaves a
commit without a reference, and the decision is taken again. The branch follows the ledger, now or the next time.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from scheduler.domain.candidate import Candidate, Source
from scheduler.domain.decision import Assembled, Combine, Decision, MeasureBaseline, Promote
from scheduler.domain.errors import CandidateRejected, GitProblem, LabProblem, LedgerProblem
from scheduler.domain.lab import LabSnapshot
from scheduler.domain.text import count
from scheduler.git import Repo
from scheduler.lab import Workspace
from scheduler.policy.constants import merge_by_name
from scheduler.policy.decide import baseline_is_hopeless, decide
from scheduler.policy.explain import explain_decision
from scheduler.policy.source import TITLE_CHARACTERS, free_name, normalised, read_source
from scheduler.policy.stats import lab_noise

NAMED_PARTS = 4  # ids in a name; a union of more says how many more
_COLLISIONS = 5  # decisions in a row that another process made stale


class DecisionInput(NamedTuple):
    """The board a decision is taken on; `result_mark` is the last result on it."""

    board: LabSnapshot
    result_mark: int


def decide_all(space: Workspace, log: Callable[[str], None], now: float | None = None) -> int:
    """Take every decision due on the board, one after the other. Returns how many. Without `now` nothing waits.

    Raises LabProblem when the baseline cannot be measured, LedgerProblem, GitProblem.
    """
    taken = collisions = 0
    while True:
        given = look(space, now)
        decision = _due(given.board)
        if decision is None:
            return taken
        try:
            carry_out(space, given, decision, log)
        except LedgerProblem:
            collisions += 1
            if collisions == _COLLISIONS:
                raise
            continue
        taken, collisions = taken + 1, 0


def is_decision_due(space: Workspace) -> bool:
    """Raises LabProblem when the baseline is hopeless."""
    return _due(space.ledger.board(space.tag)) is not None


def look(space: Workspace, now: float | None = None) -> DecisionInput:
    """The board as it is, with the mark that a decision on it is recorded with. Without `now` nothing on it waits."""
    with space.ledger.snapshot():
        board, mark = space.ledger.board(space.tag), space.ledger.runs.last_result()
    return DecisionInput(board if now is None else replace(board, now=now), mark)


def carry_out(space: Workspace, given: DecisionInput, decision: Decision, log: Callable[[str], None]) -> None:
    """Carry one decision out and log it. Raises LedgerProblem, with nothing changed, when another process was first."""
    noise, sentence = lab_noise(given.board), explain_decision(decision, given.board.of(_subject(decision)).name)
    match decision:
        case Promote():
            promote(space, given, decision, sentence)
            log(sentence)
            _move_branch(space, log)
        case Combine():
            _combine(space, given, decision, sentence, log)
        case _:
            mark = given.result_mark
            space.ledger.decisions.apply(space.tag, decision, noise=noise, sentence=sentence, result_mark=mark)
            log(sentence)


def promote(space: Workspace, given: DecisionInput, decision: Promote, sentence: str) -> str:
    """Make a candidate the baseline. Returns the commit on the lab's branch; the branch itself is `follow_ledger`'s.

    Raises LedgerProblem, with nothing changed, when the board is another one by now.
    """
    candidate, effect = space.ledger.candidates.get(decision.candidate_id, space.tag), decision.effect
    noise, mark = lab_noise(given.board), given.result_mark
    commit = space.repo.commit_train_py(
        space.baseline_commit(),
        space.ledger.candidates.train_py(candidate.id),
        f"{candidate.title or candidate.name} ({candidate.id})",
        {
            "Candidate": candidate.id,
            "Candidate-commit": candidate.commit,
            "Val-bpb": f"{given.board.of(candidate.id).mean:.6f}",
            "Effect": f"{effect.diff:+.6f}",
            "Error": f"{effect.se:.6f}",
            "P-better": f"{effect.p_better:.4f}",
            "Runs": f"{effect.n_candidate} vs {effect.n_base}",
        },
    )
    space.ledger.decisions.apply(space.tag, decision, noise=noise, sentence=sentence, commit=commit, result_mark=mark)
    return commit


def follow_ledger(space: Workspace) -> str:
    """Bring the lab's branch to the baseline's commit. Returns the checkout that followed, or "".

    Raises LabProblem when the branch was moved by hand, GitProblem when an uncommitted edit is in the way; both may be
    tried again.
    """
    commits = [commit for _, commit in space.lineage()]
    branch, at = space.lab.branch, space.repo.branch_commit(space.lab.branch)
    if at == commits[-1]:
        return ""
    if at is None:
        space.repo.create_branch(branch, commits[-1])
        return ""
    if at not in commits:
        raise moved_by_hand(space.repo, branch, at, commits[-1])
    return space.repo.move_branch(branch, commits[-1], at)


def moved_by_hand(repo: Repo, branch: str, at: str, baseline_commit: str) -> LabProblem:
    """The way back keeps what is there now. git forces no branch that is checked out."""
    home, commit = repo.checkout_of(branch), baseline_commit[:12]
    back = f"git -C {shlex.quote(str(home))} reset --keep {commit}" if home else f"git branch -f {branch} {commit}"
    hint = f"put it back when you can: git branch NEWNAME {branch} && {back}; the lab itself goes on"
    return LabProblem(f"the branch {branch!r} was moved by hand to {at[:12]}, it stays there", hint)


def keep_refs(space: Workspace) -> None:
    """Keep the commit of every undecided candidate: its ref may be missing after a crash."""
    for candidate in space.ledger.candidates.list(space.tag):
        if candidate.state.undecided:
            space.repo.keep_ref(space.tag, candidate.id, candidate.commit)


def _due(board: LabSnapshot) -> Decision | None:
    if baseline_is_hopeless(board):
        base = board.baseline
        message = (
            f"the baseline {base.candidate_id} has no score after {count(base.failed_runs, 'run')}: {base.failure}"
        )
        raise LabProblem(message, f"see `arsched logs {base.candidate_id}`; mend train.py and init another tag")
    return decide(board)


def _subject(decision: Decision) -> str:
    if isinstance(decision, MeasureBaseline):
        return decision.base_id
    return decision.parts[0] if isinstance(decision, Combine) else decision.candidate_id


def _move_branch(space: Workspace, log: Callable[[str], None]) -> None:
    try:
        followed = follow_ledger(space)
    except (GitProblem, LabProblem) as problem:
        log(f"note: the promotion stands, but the branch {space.lab.branch} did not move: {problem.message}")
        log(f"      {problem.hint}")
    else:
        if followed:
            log(f"note: {followed} has the branch checked out and follows")


def _combine(
    space: Workspace, given: DecisionInput, decision: Combine, sentence: str, log: Callable[[str], None]
) -> None:
    made = assemble(space, decision)
    assembled, problem = (None, made) if isinstance(made, str) else (made, "")
    space.ledger.decisions.apply(
        space.tag, decision, noise=lab_noise(given.board), sentence=sentence, assembled=assembled, problem=problem,
        result_mark=given.result_mark, merges_seen=len(given.board.merges),
    )  # fmt: skip
    log(sentence)
    if isinstance(made, str):
        log(f"          nothing came of it: {made}")
        return
    candidate = space.ledger.candidates.get(made.name, space.tag)
    log(f"          {candidate.id} {candidate.name} is queued: {candidate.title}")
    try:
        space.repo.keep_ref(space.tag, candidate.id, candidate.commit)
    except GitProblem as problem:  # made up for when the queue is next run (keep_refs)
        log(f"note: git does not keep the commit of {candidate.id} yet: {problem.message}; {problem.hint}")
    for part, why in made.skipped:
        log(f"          {part} was left out: {why}")


def assemble(space: Workspace, decision: Combine) -> Assembled | str:
    """Merge the parts onto the baseline's train.py. Returns a sentence when nothing new came of it.

    In the order of the decision, so that the best is never the one left out. A part that conflicts with what is there,
    breaks the syntax or changes nothing more is skipped. Lines and constants are merged, not meaning: the result has
    to win like any candidate. Its commit, on the baseline's, has no reference yet: keep it once the candidate has
    its id.

    Raises GitProblem when git fails, LedgerProblem or UsageProblem for parts that are not in the ledger.
    """
    candidates = space.ledger.candidates
    source, parts = read_source(candidates.train_py(decision.base_id)), []
    skipped: list[tuple[str, str]] = []
    for part in (candidates.get(ref, space.tag) for ref in decision.parts):
        merged = _merge_part(space, source, part)
        if isinstance(merged, str):
            skipped.append((part.id, merged))
        else:
            source = merged
            parts.append(part)
    if not parts:
        return "nothing could be merged: " + "; ".join(f"{part}: {why}" for part, why in skipped)
    known = candidates.find_fingerprint(space.tag, source.fingerprint)
    if known is not None:
        return f"the same program as {known.id} {known.name}"
    return _commit(space, source, parts, tuple(skipped))


def _merge_part(space: Workspace, onto: Source, part: Candidate) -> Source | str:
    """The program with the part in it, or why it is left out."""
    candidates = space.ledger.candidates
    if part.base_id is None:
        return "it is the first baseline, not a patch"
    base, theirs = (normalised(candidates.train_py(ref)) for ref in (part.base_id, part.id))
    merged = merge_by_name(onto.data, base, theirs, space.repo.merge_train_py)
    if merged is None:
        return "it conflicts"
    try:
        source = read_source(merged)
    except CandidateRejected as problem:
        return f"merged, it is no program: {problem.message}"
    return source if source.fingerprint != onto.fingerprint else "it changes nothing more"


def _commit(
    space: Workspace, source: Source, parts: Sequence[Candidate], skipped: tuple[tuple[str, str], ...]
) -> Assembled:
    ids = tuple(part.id for part in parts)
    kind = "union" if len(ids) > 1 else "port"
    more = len(ids) - NAMED_PARTS
    named = ids if more <= 0 else (*ids[:NAMED_PARTS], f"and-{more}")
    name = free_name("-".join((kind, *named)), space.ledger.candidates.names(space.tag))
    title = f"{kind} of {' + '.join(map(_bare_title, parts))}"[:TITLE_CHARACTERS]
    trailers = {"Candidate": name, f"{kind.capitalize()}-of": " ".join(ids)}
    commit = space.repo.commit_train_py(space.baseline_commit(), source.data, title, trailers)
    return Assembled(
        name=name, title=title, commit=commit, train_py=source.data, train_sha256=source.sha256,
        fingerprint=source.fingerprint, code_lines=source.code_lines, merged=ids, skipped=skipped,
    )  # fmt: skip


def _bare_title(part: Candidate) -> str:
    """A union of unions lists what it is made of, not how."""
    title = " ".join((part.title or part.name).split())
    return title.removeprefix("union of ").removeprefix("port of ") if part.origin.merged else title
