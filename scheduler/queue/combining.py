"""The patches of several candidates put together on the current baseline: a program and its commit, not yet queued.

Parts are merged one after the other in the order of the decision, so the best is never the one left out. One that
conflicts with what is there, breaks the syntax or changes nothing more is skipped. Whether the result is any good is
for its runs to say; that the merge is of lines, not of meaning, is one reason why it has to win like any candidate.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from scheduler.domain.candidate import Candidate
from scheduler.domain.decision import Combine
from scheduler.domain.errors import CandidateRejected
from scheduler.domain.merge import Assembled
from scheduler.policy.code_lines import count_code_lines
from scheduler.policy.fingerprint import fingerprint
from scheduler.policy.naming import free_name
from scheduler.policy.validation import check_train_py
from scheduler.workspace import Workspace

TITLE_CHARACTERS = 200
NAMED_PARTS = 4  # ids in a name; a union of more says how many more
_PREFIXES = ("union of ", "port of ")


@dataclass
class _Fold:
    """The program so far, its fingerprint, and what became of each part."""

    data: bytes
    print: str
    merged: list[Candidate] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def assemble(space: Workspace, decision: Combine) -> Assembled | str:
    """Merge the parts onto the baseline's train.py. Returns a sentence when nothing new came of it.

    The commit is made, on the baseline's, but nothing refers to it yet: keep it once the candidate has its id. Raises
    GitProblem when git fails, LedgerProblem or UsageProblem for parts that are not in the ledger.
    """
    ledger = space.ledger
    base = ledger.candidates.train_py(decision.base_id)
    fold = _Fold(base, fingerprint(check_train_py(base)))
    for part in decision.parts:
        _merge_part(space, fold, ledger.candidates.get(part, space.tag))
    if not fold.merged:
        return "nothing could be merged: " + _describe(fold.skipped)
    known = ledger.candidates.find_fingerprint(space.tag, fold.print)
    if known is not None:
        return f"the same program as {known.id} {known.name}"
    return _commit(space, fold)


def _merge_part(space: Workspace, fold: _Fold, part: Candidate) -> None:
    merged = _merged(space, fold.data, part)
    if isinstance(merged, str):
        fold.skipped.append((part.id, merged))
        return
    try:
        print_of_it = fingerprint(check_train_py(merged))
    except CandidateRejected as problem:
        fold.skipped.append((part.id, f"merged, it is no program: {problem.message}"))
        return
    if print_of_it == fold.print:
        fold.skipped.append((part.id, "it changes nothing more"))
        return
    fold.data, fold.print = merged, print_of_it
    fold.merged.append(part)


def _merged(space: Workspace, ours: bytes, part: Candidate) -> bytes | str:
    """The program with the part's patch, or why it has none."""
    if part.base_id is None:
        return "it is the first baseline, not a patch"
    candidates = space.ledger.candidates
    merged = space.repo.merge_train_py(ours, candidates.train_py(part.base_id), candidates.train_py(part.id))
    return "it conflicts" if merged is None else merged


def _commit(space: Workspace, fold: _Fold) -> Assembled:
    ids = tuple(part.id for part in fold.merged)
    kind = "union" if len(ids) > 1 else "port"
    taken = {candidate.name for candidate in space.ledger.candidates.list(space.tag)}
    name = free_name("-".join((kind, *_short(ids))), taken)
    title = f"{kind} of {' + '.join(_bare_title(part) for part in fold.merged)}"[:TITLE_CHARACTERS]
    trailers = {"Candidate": name, f"{kind.capitalize()}-of": " ".join(ids)}
    commit = space.repo.commit_train_py(space.baseline_commit(), fold.data, title, trailers)
    return Assembled(
        name=name,
        title=title,
        commit=commit,
        train_py=fold.data,
        train_sha256=hashlib.sha256(fold.data).hexdigest(),
        fingerprint=fold.print,
        code_lines=count_code_lines(check_train_py(fold.data)),
        merged=ids,
        skipped=tuple(fold.skipped),
    )


def _short(ids: tuple[str, ...]) -> tuple[str, ...]:
    more = len(ids) - NAMED_PARTS
    return ids if more <= 0 else (*ids[:NAMED_PARTS], f"and-{more}")


def _bare_title(part: Candidate) -> str:
    """A union of unions lists what it is made of, not how."""
    title = " ".join((part.title or part.name).split())
    if part.origin.merged:
        for prefix in _PREFIXES:
            title = title.removeprefix(prefix)
    return title


def _describe(skipped: list[tuple[str, str]]) -> str:
    return "; ".join(f"{part}: {why}" for part, why in skipped)
