"""May this source become a candidate, and is it one already? Answers before anything is committed or queued."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scheduler.actions.sources import Source
from scheduler.domain.candidate import Candidate
from scheduler.policy.fingerprint import fingerprint
from scheduler.policy.naming import free_name
from scheduler.policy.validation import check_changed_paths, check_train_py
from scheduler.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Fresh:
    """A new program, to be queued as `name`. `renamed_from` is the earlier candidate that has the folder's name."""

    source: Source
    name: str
    fingerprint: str
    renamed_from: Candidate | None


@dataclass(frozen=True, slots=True)
class Known:
    """The very thing submitted before, from the same place: nothing to do but wait for it."""

    source: Source
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The same program as an earlier candidate of another name."""

    source: Source
    candidate: Candidate


Admission = Fresh | Known | Duplicate


def admit(space: Workspace, source: Source, taken: frozenset[str] = frozenset()) -> Admission:
    """Raises CandidateRejected with the reason. `taken` are names given away in this very command."""
    check_changed_paths(source.changed)
    print_of_it = fingerprint(check_train_py(source.data))
    earlier = space.ledger.candidates.find_fingerprint(space.tag, print_of_it)
    if earlier is not None:
        same_place = re.fullmatch(re.escape(source.name) + r"(-[0-9]+)?", earlier.name) is not None
        return Known(source, earlier) if same_place else Duplicate(source, earlier)
    names = {candidate.name: candidate for candidate in space.ledger.candidates.list(space.tag)}
    name = free_name(source.name, {*names, *taken})
    return Fresh(source, name, print_of_it, names.get(source.name))
