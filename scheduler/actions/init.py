"""A lab is created: contract, cache, first baseline, ledger, branch. Its runs are queued, not run.

The ledger is written before the branch, so a crash in between is finished by the same command. The user's checkout is
neither switched nor changed.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from scheduler.actions.first_baseline import FirstBaseline, read_first_baseline
from scheduler.contracts import ContractChoice, choose_contract, prepared_digest
from scheduler.domain.candidate import Candidate, CandidateState, Origin
from scheduler.domain.decision import PRESETS
from scheduler.domain.errors import LabProblem, UsageProblem
from scheduler.domain.lab import Lab
from scheduler.domain.run import RunKind
from scheduler.files import write_whole
from scheduler.git import Repo
from scheduler.ledger import WHAT_IS_LEFT, Ledger
from scheduler.paths import LabPaths
from scheduler.policy.code_lines import count_code_lines
from scheduler.policy.fingerprint import fingerprint
from scheduler.policy.validation import check_train_py
from scheduler.queue.promotion import follow_ledger
from scheduler.queue.turn import exclusive
from scheduler.workspace import Workspace

IGNORED = ("/.arsched/", "/candidates/*", "/results.tsv", "/progress.png", "/report/")
INIT_LOCK_S = 60.0
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@dataclass(frozen=True, slots=True)
class Wish:
    """What `init` was asked for. `train` replaces the train.py of HEAD and is taken as it stands."""

    tag: str
    contract: str = "cpu"
    train: Path | None = None
    preset: str = "default"
    author: str = "unknown"
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Created:
    """`baseline` is None in a dry run. `notes` are worth a line each."""

    lab: Lab
    baseline: Candidate | None
    notes: tuple[str, ...]


def create_lab(wish: Wish, start: Path | None = None, clock: Callable[[], float] = time.time) -> Created:
    """Create the lab, or finish creating it. Raises UsageProblem, LabProblem, CacheProblem, CandidateRejected."""
    check_tag(wish.tag)
    repo = Repo.open(start or Path.cwd())
    paths = LabPaths(repo.root)
    repo.head_commit()
    known: tuple[str, ...] = ()
    if paths.ledger.is_file():
        with Ledger.open(paths.ledger, clock) as ledger:
            refuse_existing(ledger, wish.tag)
            known = tuple(lab.tag for lab in ledger.labs.all())
    if wish.tag not in known:
        _refuse_record(repo, wish.tag)
    choice = choose_contract(wish.contract)
    digest = prepared_digest(choice)
    first = read_first_baseline(repo, choice, wish.train)
    lab = _lab(wish, choice, digest, clock())
    if wish.dry_run:
        return Created(lab, None, first.notes)
    return _write(repo, paths, wish, lab, first, clock)


def refuse_existing(ledger: Ledger, tag: str) -> None:
    """Raises LabProblem when the lab is there and complete."""
    if all(lab.tag != tag for lab in ledger.labs.all()):
        return
    if any(one.state is CandidateState.BASELINE for one in ledger.candidates.list(tag)):
        hint = f"go on with it (arsched submit --tag {tag} runs what is queued), or choose another tag"
        raise LabProblem(f"lab {tag!r} exists already", hint)


def check_tag(tag: str) -> None:
    """Raises UsageProblem for a tag that cannot be part of a branch's name."""
    if not _TAG.fullmatch(tag) or ".." in tag or tag.endswith((".lock", ".")):
        hint = "letters, digits, '-', '_' and '.', at most 40, beginning with a letter or digit: nov23"
        raise UsageProblem(f"{tag!r} cannot be a tag", hint)


def _write(
    repo: Repo, paths: LabPaths, wish: Wish, lab: Lab, first: FirstBaseline, clock: Callable[[], float]
) -> Created:
    ignored = repo.exclude(IGNORED)
    with exclusive(paths.submit_lock, INIT_LOCK_S), Ledger.open(paths.ledger, clock) as ledger:
        refuse_existing(ledger, wish.tag)
        known = {existing.tag: existing for existing in ledger.labs.all()}
        lab = known.get(wish.tag, lab)
        if lab.tag not in known:
            _refuse_record(repo, lab.tag)
            ledger.labs.create(lab)
        baseline = _add_baseline(repo, ledger, lab, first, wish.author)
        space = Workspace(repo, paths, ledger, lab)
        follow_ledger(space)
        repo.keep_ref(lab.tag, baseline.id, baseline.commit)
        ledger.labs.set_current(lab.tag)
    write_whole(paths.contract, lab.contract_json)
    notes = (*first.notes, *((f"git ignores {', '.join(ignored)} in this clone from now on",) if ignored else ()))
    return Created(lab, baseline, notes)


def _add_baseline(repo: Repo, ledger: Ledger, lab: Lab, first: FirstBaseline, author: str) -> Candidate:
    message = f"baseline of {lab.tag}: contract {lab.contract_name}"
    trailers = {"Contract": f"{lab.contract_name} {lab.contract_digest[:12]}"}
    commit = repo.commit_train_py(first.parent, first.train_py, message, trailers)
    source = check_train_py(first.train_py)
    return ledger.candidates.add(
        lab.tag,
        name="baseline",
        commit=commit,
        base_id=None,
        train_py=first.train_py,
        train_sha256=hashlib.sha256(first.train_py).hexdigest(),
        fingerprint=fingerprint(source),
        title="baseline",
        author=author,
        kind=RunKind.BASELINE,
        runs=lab.gates.first_baseline_runs,
        state=CandidateState.BASELINE,
        origin=Origin.BASELINE,
        code_lines=count_code_lines(source),
    )


def _refuse_record(repo: Repo, tag: str) -> None:
    """A branch or refs without a lab are the record of one whose ledger is gone: they are never written over."""
    kept = repo.kept_tags()
    if tag in kept:
        what = f"git keeps the candidates of an earlier lab {tag!r} (refs/arsched/{tag}/)"
    elif repo.branch_commit(_branch(tag)) is not None:
        what = f"the branch {_branch(tag)!r} exists already"
    else:
        return
    numbered = (f"{tag[:36]}-{number}" for number in count(2))
    free = next(one for one in numbered if one not in kept and repo.branch_commit(_branch(one)) is None)
    hint = f"choose another tag: arsched init --tag {free}; or, to go on with the earlier lab: {WHAT_IS_LEFT}"
    raise LabProblem(f"{what}, and the ledger here has no such lab", hint)


def _branch(tag: str) -> str:
    return f"autoresearch/{tag}"


def _lab(wish: Wish, choice: ContractChoice, cache_digest: str, now: float) -> Lab:
    contract = choice.contract
    return Lab(
        tag=wish.tag,
        lab_id=f"{wish.tag}-{uuid.uuid4().hex[:12]}",
        branch=_branch(wish.tag),
        contract_name=contract.name,
        contract_digest=contract.digest,
        contract_json=contract.to_json(),
        cache_digest=cache_digest,
        device=contract.device,
        noise_prior_bpb=contract.noise_prior_bpb,
        gates=PRESETS[wish.preset],
        created_at=now,
    )
