"""The decide step: every decision that is due, taken by the policy, carried out in git and ledger.

The ledger is the truth. What needs git is done first and outside the ledger's transaction: a crash in between leaves a
commit without a reference, and the decision is taken again. The branch follows the ledger, now or the next time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from scheduler.domain.candidate import Candidate, CandidateStats, Source
from scheduler.domain.decision import Assembled, Combine, Decision, MeasureBaseline, Noise, Promote
from scheduler.domain.errors import CandidateRejected, GitProblem, LabProblem, LedgerProblem
from scheduler.domain.lab import LabSnapshot
from scheduler.lab import Workspace
from scheduler.policy.decide import baseline_is_hopeless, decide
from scheduler.policy.explain import explain_decision
from scheduler.policy.source import TITLE_CHARACTERS, free_name, read_source
from scheduler.policy.stats import lab_noise

NAMED_PARTS = 4  # ids in a name; a union of more says how many more
_COLLISIONS = 5  # decisions in a row that another process made stale
_PREFIXES = ("union of ", "port of ")


@dataclass(frozen=True, slots=True)
class DecisionInput:
    """The board a decision is taken on; `result_mark` is the last result on it."""

    board: LabSnapshot
    result_mark: int


def decide_all(space: Workspace, log: Callable[[str], None]) -> int:
    """Take every decision due on the board, one after the other. Returns how many.

    Raises LabProblem when the baseline cannot be measured, LedgerProblem when the ledger fails, GitProblem when git
    does.
    """
    taken = collisions = 0
    while True:
        given = look(space)
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


def look(space: Workspace) -> DecisionInput:
    """The board as it is, with the mark that a decision on it is recorded with."""
    with space.ledger.snapshot():
        return DecisionInput(space.ledger.board(space.tag), space.ledger.runs.last_result())


def carry_out(space: Workspace, given: DecisionInput, decision: Decision, log: Callable[[str], None]) -> None:
    """Carry one decision out and log it. Raises LedgerProblem, with nothing changed, when another process was first."""
    standing, noise = given.board.of(_subject(decision)), lab_noise(given.board)
    sentence = explain_decision(decision, standing.name)
    match decision:
        case Promote():
            promote(space, decision, standing, noise, sentence, result_mark=given.result_mark)
            log(sentence)
            _move_branch(space, log)
        case Combine():
            _combine(space, given, decision, sentence, log)
        case _:
            space.ledger.decisions.apply(
                space.tag, decision, noise=noise, sentence=sentence, result_mark=given.result_mark
            )
            log(sentence)


def promote(
    space: Workspace,
    decision: Promote,
    standing: CandidateStats,
    noise: Noise,
    sentence: str,
    *,
    result_mark: int | None = None,
) -> str:
    """Make a candidate the baseline. Returns the commit on the lab's branch; the branch itself is `follow_ledger`'s.

    `result_mark` is the last result when the board was read. Raises LedgerProblem, with nothing changed, when the board
    is another one by now.
    """
    candidate, effect = space.ledger.candidates.get(decision.candidate_id, space.tag), decision.effect
    commit = space.repo.commit_train_py(
        space.baseline_commit(),
        space.ledger.candidates.train_py(candidate.id),
        f"{candidate.title or candidate.name} ({candidate.id})",
        {
            "Candidate": candidate.id,
            "Candidate-commit": candidate.commit,
            "Val-bpb": f"{standing.mean:.6f}",
            "Effect": f"{effect.diff:+.6f}",
            "Error": f"{effect.se:.6f}",
            "P-better": f"{effect.p_better:.4f}",
            "Runs": f"{effect.n_candidate} vs {effect.n_base}",
        },
    )
    space.ledger.decisions.apply(
        space.tag, decision, noise=noise, sentence=sentence, commit=commit, result_mark=result_mark
    )
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
        hint = f"put it back when you can: git branch -f {branch} {commits[-1][:12]}; the lab itself goes on"
        raise LabProblem(f"the branch {branch!r} was moved by hand to {at[:12]}, it stays there", hint)
    return space.repo.move_branch(branch, commits[-1], at)


def keep_refs(space: Workspace) -> None:
    """Keep the commit of every undecided candidate: its ref may be missing after a crash."""
    for candidate in space.ledger.candidates.list(space.tag):
        if candidate.state.undecided:
            space.repo.keep_ref(space.tag, candidate.id, candidate.commit)


def _due(board: LabSnapshot) -> Decision | None:
    if baseline_is_hopeless(board):
        base = board.baseline
        message = f"the baseline {base.candidate_id} has no score after {base.failed_runs} runs: {base.failure}"
        raise LabProblem(message, f"see `arsched logs {base.candidate_id}`; mend train.py and init another tag")
    return decide(board)


def _subject(decision: Decision) -> str:
    match decision:
        case MeasureBaseline():
            return decision.base_id
        case Combine():
            return decision.parts[0]
        case _:
            return decision.candidate_id


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
    space.ledger.decisions.apply(
        space.tag,
        decision,
        noise=lab_noise(given.board),
        sentence=sentence,
        assembled=made if isinstance(made, Assembled) else None,
        problem=made if isinstance(made, str) else "",
        result_mark=given.result_mark,
        merges_seen=len(given.board.merges),
    )
    log(sentence)
    if isinstance(made, str):
        log(f"          nothing came of it: {made}")
        return
    candidate = space.ledger.candidates.get(made.name, space.tag)
    space.repo.keep_ref(space.tag, candidate.id, candidate.commit)
    log(f"          {candidate.id} {candidate.name} is queued: {candidate.title}")
    for part, why in made.skipped:
        log(f"          {part} was left out: {why}")


@dataclass
class _Fold:
    """The program so far, and what became of each part."""

    source: Source
    merged: list[Candidate] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def assemble(space: Workspace, decision: Combine) -> Assembled | str:
    """Merge the parts onto the baseline's train.py. Returns a sentence when nothing new came of it.

    In the order of the decision, so that the best is never the one left out. A part that conflicts with what is there,
    breaks the syntax or changes nothing more is skipped. Lines are merged, not meaning: the result has to win like any
    candidate. Its commit, on the baseline's, has no reference yet: keep it once the candidate has its id.

    Raises GitProblem when git fails, LedgerProblem or UsageProblem for parts that are not in the ledger.
    """
    candidates = space.ledger.candidates
    fold = _Fold(read_source(candidates.train_py(decision.base_id)))
    for part in decision.parts:
        _merge_part(space, fold, candidates.get(part, space.tag))
    if not fold.merged:
        return "nothing could be merged: " + "; ".join(f"{part}: {why}" for part, why in fold.skipped)
    known = candidates.find_fingerprint(space.tag, fold.source.fingerprint)
    if known is not None:
        return f"the same program as {known.id} {known.name}"
    return _commit(space, fold)


def _merge_part(space: Workspace, fold: _Fold, part: Candidate) -> None:
    candidates = space.ledger.candidates
    if part.base_id is None:
        fold.skipped.append((part.id, "it is the first baseline, not a patch"))
        return
    theirs = candidates.train_py(part.id)
    merged = space.repo.merge_train_py(fold.source.data, candidates.train_py(part.base_id), theirs)
    if merged is None:
        fold.skipped.append((part.id, "it conflicts"))
        return
    try:
        source = read_source(merged)
    except CandidateRejected as problem:
        fold.skipped.append((part.id, f"merged, it is no program: {problem.message}"))
        return
    if source.fingerprint == fold.source.fingerprint:
        fold.skipped.append((part.id, "it changes nothing more"))
        return
    fold.source = source
    fold.merged.append(part)


def _commit(space: Workspace, fold: _Fold) -> Assembled:
    ids = tuple(part.id for part in fold.merged)
    kind = "union" if len(ids) > 1 else "port"
    more = len(ids) - NAMED_PARTS
    named = ids if more <= 0 else (*ids[:NAMED_PARTS], f"and-{more}")
    name = free_name("-".join((kind, *named)), space.ledger.candidates.names(space.tag))
    title = f"{kind} of {' + '.join(map(_bare_title, fold.merged))}"[:TITLE_CHARACTERS]
    trailers = {"Candidate": name, f"{kind.capitalize()}-of": " ".join(ids)}
    source = fold.source
    return Assembled(
        name=name,
        title=title,
        commit=space.repo.commit_train_py(space.baseline_commit(), source.data, title, trailers),
        train_py=source.data,
        train_sha256=source.sha256,
        fingerprint=source.fingerprint,
        code_lines=source.code_lines,
        merged=ids,
        skipped=tuple(fold.skipped),
    )


def _bare_title(part: Candidate) -> str:
    """A union of unions lists what it is made of, not how."""
    title = " ".join((part.title or part.name).split())
    if part.origin.merged:
        for prefix in _PREFIXES:
            title = title.removeprefix(prefix)
    return title
