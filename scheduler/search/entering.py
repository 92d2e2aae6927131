"""A proposer's answer into the ledger: a new candidate, a known one, or a refusal with its reason.

The commit is made first, then candidate, run and answer are written as one; a crash in between leaves a commit that
nobody names and an ask without an answer. Everything a proposer says is data: cleaned and capped here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from scheduler.domain.candidate import Candidate, Origin
from scheduler.domain.errors import CandidateRejected
from scheduler.domain.proposal import Ask, Proposed, Trouble
from scheduler.domain.run import RunKind
from scheduler.domain.text import clean, one_line
from scheduler.policy.code_lines import count_code_lines
from scheduler.policy.fingerprint import fingerprint
from scheduler.policy.naming import free_name, slug
from scheduler.policy.validation import check_train_py
from scheduler.queue.turn import SUBMIT_LOCK_S, exclusive
from scheduler.workspace import Workspace

TITLE_CHARACTERS, THEME_CHARACTERS = 200, 40
HYPOTHESIS_CHARACTERS, REMARK_CHARACTERS = 1000, 300
SHOWN_PARENTS = 8


@dataclass(frozen=True, slots=True)
class Entered:
    """`candidate` is the new one, or (`known`) the earlier one of the same program; None: refused for `reason`."""

    title: str
    candidate: Candidate | None = None
    known: bool = False
    reason: str = ""


def enter(space: Workspace, ask: Ask, answer: Proposed, proposer: str) -> Entered:
    """Raises GitProblem, LedgerProblem, LabProblem; a bad source is an answer, not an error."""
    title = one_line(answer.title)[:TITLE_CHARACTERS]
    answer = replace(answer, remark=one_line(answer.remark)[:REMARK_CHARACTERS])
    try:
        source = check_train_py(answer.train_py)
    except CandidateRejected as refusal:
        reason = one_line(refusal.message)
        space.ledger.proposals.failed(ask.id, Trouble.REFUSED, reason, title=title, log=answer.log)
        return Entered(title, reason=reason)
    with exclusive(space.paths.submit_lock, SUBMIT_LOCK_S):
        print_of_it = fingerprint(source)
        same = space.ledger.candidates.find_fingerprint(space.tag, print_of_it)
        if same is not None:
            space.ledger.proposals.known(ask.id, same.id, title, log=answer.log, remark=answer.remark)
            return Entered(title or same.title, same, known=True)
        return _enter_new(space, ask, replace(answer, title=title), proposer, source, print_of_it)


def _enter_new(
    space: Workspace, ask: Ask, answer: Proposed, proposer: str, source: str, print_of_it: str
) -> Entered:  # fmt: skip
    name = free_name(slug(answer.title), space.ledger.candidates.names(space.tag))
    title = answer.title or name
    commit = space.repo.commit_train_py(ask.base_commit, answer.train_py, title, _trailers(ask, answer, proposer, name))
    with space.ledger.transaction():
        candidate = space.ledger.candidates.add(
            space.tag,
            name=name,
            commit=commit,
            base_id=ask.base_id,
            train_py=answer.train_py,
            train_sha256=hashlib.sha256(answer.train_py).hexdigest(),
            fingerprint=print_of_it,
            title=title,
            author=proposer,
            kind=RunKind.NEW,
            origin=Origin.PROPOSED,
            proposer=proposer,
            hypothesis=clean(answer.hypothesis).strip()[:HYPOTHESIS_CHARACTERS],
            theme=one_line(answer.theme)[:THEME_CHARACTERS],
            round=ask.round,
            code_lines=count_code_lines(source),
        )
        space.ledger.proposals.queued(ask.id, candidate.id, title, log=answer.log, remark=answer.remark)
    space.repo.keep_ref(space.tag, candidate.id, commit)
    return Entered(title, candidate)


def _trailers(ask: Ask, answer: Proposed, proposer: str, name: str) -> dict[str, str]:
    said = {
        "Candidate": name,
        "Proposal": ask.id,
        "Proposer": proposer,
        "Theme": one_line(answer.theme)[:THEME_CHARACTERS],
        "Builds-on": " ".join(one_line(parent) for parent in answer.parents[:SHOWN_PARENTS])[:TITLE_CHARACTERS],
        "Hypothesis": one_line(answer.hypothesis)[:HYPOTHESIS_CHARACTERS],
    }
    return {key: value for key, value in said.items() if value}
