"""A lab is created: contract, cache, first baseline, ledger, branch. Its runs are queued, not run.

All is checked before anything is written; the branch is made last, so a crash before that is finished by the same
command. The user's checkout is neither switched nor changed.
"""

from __future__ import annotations

import os
import shlex
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

from scheduler.actions.sources import can_name_branch, read_train_py
from scheduler.domain.candidate import Candidate, CandidateState, NewCandidate, Origin, Source
from scheduler.domain.decision import PRESETS, GateSettings
from scheduler.domain.errors import CandidateRejected, LabProblem, NameTaken, UsageProblem
from scheduler.domain.lab import Lab
from scheduler.domain.run import RunKind
from scheduler.git import Repo
from scheduler.lab import (
    ContractChoice,
    LabPaths,
    Workspace,
    choose_contract,
    paths_of,
    prepared_digest,
    show_runs,
    write_whole,
)
from scheduler.ledger import WHAT_IS_LEFT, Ledger
from scheduler.ledger.rows import number_of
from scheduler.node.harness_client import SandboxFacts, ask_sandbox
from scheduler.node.judge_process import Commands
from scheduler.policy.constants import read_constants, rewrite_constants
from scheduler.policy.source import TRAIN_PY, left_by_tools, read_source
from scheduler.queue.decide import follow_ledger
from scheduler.queue.runtime import exclusive

IGNORED = ("/.arsched/", "/candidates/*", "/results.tsv", "/progress.png", "/report/")
INIT_LOCK_S = 60.0


@dataclass(frozen=True, slots=True)
class InitRequest:
    """`train` replaces the train.py of HEAD and is taken as it stands."""

    tag: str
    contract: str = "cpu"
    train: Path | None = None
    preset: str = "default"
    author: str = "unknown"
    sandbox: str = "full"
    dry_run: bool = False


class Created(NamedTuple):
    """`baseline` is None in a dry run. `notes` are to be shown, a line each."""

    lab: Lab
    baseline: Candidate | None
    notes: tuple[str, ...]


def create_lab(request: InitRequest, start: Path | None = None, clock: Callable[[], float] = time.time) -> Created:
    """Create the lab, or finish creating it. Raises UsageProblem, LabProblem, CacheProblem, CandidateRejected."""
    _check_tag(request.tag)
    repo = Repo.open(start or Path.cwd())
    paths = paths_of(repo)
    repo.head_commit()
    known: tuple[str, ...] = ()
    if paths.ledger.is_file():
        with Ledger.open(paths.ledger, clock) as ledger:
            _refuse_existing(repo, ledger, request.tag)
            known = tuple(lab.tag for lab in ledger.labs.all())
    if request.tag not in known:
        _refuse_record(repo, request.tag)
        check_refs(repo, request.tag)
    _check_sandbox(request.sandbox)
    choice = choose_contract(request.contract)
    digest = prepared_digest(choice)
    first = read_first_baseline(repo, choice, request.train)
    gates = replace(PRESETS[request.preset], prior_df=choice.contract.noise_prior_df)
    lab = new_lab(request.tag, choice, digest, gates, request.sandbox, clock())
    if request.dry_run:
        return Created(lab, None, first.notes)
    return _write(repo, paths, request, lab, first, clock)


def check_request(request: InitRequest) -> None:
    """All that does not depend on the repository or the cache, which may not be there yet.

    Raises UsageProblem, and LabProblem where this machine does not allow the sandbox.
    """
    _check_tag(request.tag)
    choose_contract(request.contract)
    _check_train(request.train)
    _check_sandbox(request.sandbox)


def _check_tag(tag: str) -> None:
    if not can_name_branch(tag, longest=40):
        hint = "letters, digits, '-', '_' and '.', at most 40, beginning with a letter or digit: nov23"
        raise UsageProblem(f"{tag!r} cannot be a tag", hint)


def _check_train(train: Path | None) -> None:
    if train is not None and not train.exists():
        raise UsageProblem(f"--train {train}: no such file", "check the path")


def _check_sandbox(level: str) -> None:
    """Raises LabProblem where this machine does not allow it."""
    facts = sandbox_here()
    if problem := facts.problem(level):
        hint = f"a lab whose scores are worth less, and not compared with others: arsched init --sandbox {facts.best}"
        raise LabProblem(problem, hint)


def sandbox_here() -> SandboxFacts:
    """What this machine allows. Raises LabProblem when the harness does not answer."""
    return ask_sandbox(Commands().sandbox, os.environ)


def _refuse_existing(repo: Repo, ledger: Ledger, tag: str) -> None:
    """Raises NameTaken for a lab that is there and whole."""
    if all(lab.tag != tag for lab in ledger.labs.all()) or repo.branch_commit(_branch(tag)) is None:
        return
    if _find_baseline(ledger, tag) is not None:
        hint = f"go on with it (arsched submit --tag {tag} runs what is queued), or choose another tag"
        raise NameTaken(f"lab {tag!r} exists already", hint)


def check_refs(repo: Repo, tag: str) -> None:
    """Raises GitProblem where git could not make what a lab of this tag will need."""
    wanted = (f"refs/heads/{_branch(tag)}", f"refs/heads/arsched/{tag}/arsched-probe", f"refs/arsched/{tag}/c0")
    repo.check_free(repo.head_commit(), *wanted)


def _write(
    repo: Repo, paths: LabPaths, request: InitRequest, lab: Lab, first: FirstBaseline, clock: Callable[[], float]
) -> Created:
    repo.keep_main()
    ignored = repo.exclude(IGNORED)
    with exclusive(paths.submit_lock, INIT_LOCK_S), Ledger.open(paths.ledger, clock) as ledger:
        _refuse_existing(repo, ledger, request.tag)
        known = {existing.tag: existing for existing in ledger.labs.all()}
        if request.tag in known and known[request.tag].contract_digest != lab.contract_digest:
            hint = f"finish it with that one ({known[request.tag].contract_name}), or choose another tag"
            raise LabProblem(f"lab {request.tag!r} was begun with another contract", hint)
        lab = known.get(request.tag, lab)
        if lab.tag not in known:
            _refuse_record(repo, lab.tag)
            ledger.candidates.skip_to(max((number_of(ref, "c") or 0 for ref in repo.kept_refs()), default=0))
            ledger.labs.create(lab)
        baseline = _find_baseline(ledger, lab.tag) or _add_baseline(repo, ledger, lab, first, request.author)
        repo.keep_ref(lab.tag, baseline.id, baseline.commit)
        ledger.labs.set_current(lab.tag)
        write_whole(paths.contract, lab.contract_json)
        follow_ledger(Workspace(repo, paths, ledger, lab))
    show_runs(paths)
    notes = (*first.notes, *((f"git ignores {', '.join(ignored)} in this clone from now on",) if ignored else ()))
    return Created(lab, baseline, notes)


def _find_baseline(ledger: Ledger, tag: str) -> Candidate | None:
    return next((one for one in ledger.candidates.list(tag) if one.state is CandidateState.BASELINE), None)


def _add_baseline(repo: Repo, ledger: Ledger, lab: Lab, first: FirstBaseline, author: str) -> Candidate:
    message = f"baseline of {lab.tag}: contract {lab.contract_name}"
    contract = f"{lab.contract_name} {lab.contract_digest[:12]}"
    trailers = {"Contract": contract, "Sandbox": lab.sandbox, "Preset": lab.gates.name}  # for `arsched restore`
    commit = repo.commit_train_py(first.parent, first.source.data, message, trailers)
    new = NewCandidate(
        first.source, "baseline", commit, base_id=None, title="baseline", author=author, kind=RunKind.BASELINE,
        runs=lab.gates.first_baseline_runs, state=CandidateState.BASELINE, origin=Origin.BASELINE,
    )  # fmt: skip
    return ledger.candidates.add(lab.tag, new)


def _refuse_record(repo: Repo, tag: str) -> None:
    """A branch or refs without a lab are the record of one whose ledger is gone: they are never written over."""
    kept, rebuild = repo.kept_tags(), ""
    if tag in kept:
        what, rebuild = f"git keeps the record of an earlier lab {tag!r}", f"go on with it: {WHAT_IS_LEFT}; or "
    elif repo.branch_commit(_branch(tag)) is not None:
        what = f"the branch {_branch(tag)!r} exists already"
    else:
        return
    numbered = (f"{tag[:36]}-{number}" for number in count(2))
    free = next(one for one in numbered if one not in kept and repo.branch_commit(_branch(one)) is None)
    hint = f"{rebuild}choose another tag: arsched init --tag {free}"
    raise NameTaken(f"{what}, and the ledger here has no such lab", hint)


def _branch(tag: str) -> str:
    return f"autoresearch/{tag}"


def new_lab(tag: str, choice: ContractChoice, cache_digest: str, gates: GateSettings, sandbox: str, now: float) -> Lab:
    """With an id of its own. `now` in seconds since the epoch."""
    contract = choice.contract
    return Lab(
        tag=tag, lab_id=f"{tag}-{uuid.uuid4().hex[:12]}", branch=_branch(tag),
        contract_name=contract.name, contract_digest=contract.digest, contract_json=contract.to_json(),
        cache_digest=cache_digest, device=contract.device, noise_prior_bpb=contract.noise_prior_bpb,
        gates=gates, created_at=now, sandbox=sandbox,
    )  # fmt: skip


class FirstBaseline(NamedTuple):
    """The train.py a lab starts from. `parent` is the commit it goes on top of; `notes` are to be shown."""

    parent: str
    source: Source
    notes: tuple[str, ...]


def read_first_baseline(repo: Repo, choice: ContractChoice, train: Path | None) -> FirstBaseline:
    """HEAD's train.py with the contract's constants set by name, or the file `train` as it stands; commits nothing.

    Raises LabProblem for uncommitted changes in train.py, CandidateRejected or UsageProblem for one of no use.
    """
    parent = repo.head_commit()
    changed = repo.inspect(repo.root, parent).changed
    notes = []
    if repo.current_branch() is None:
        notes.append(f"HEAD is detached: the lab starts from the commit {parent[:12]}")
    others = [path for path in changed if path != TRAIN_PY and not left_by_tools(path)]
    if others:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        notes.append(f"uncommitted: {shown}; the lab starts from the last commit, without them")
    _check_train(train)
    if train is not None:
        return FirstBaseline(parent, read_source(read_train_py(train)), tuple(notes))
    refuse_uncommitted(repo, changed)
    if TRAIN_PY not in repo.find_files(parent, TRAIN_PY):
        raise no_train_py(repo, parent)
    data = repo.read(parent, TRAIN_PY)
    source, note = _with_constants(data, choice)
    return FirstBaseline(parent, source, (*notes, note))


def refuse_uncommitted(repo: Repo, changed: Sequence[str]) -> None:
    """Raises LabProblem where the checkout's train.py, which is among `changed` then, is not as committed."""
    if TRAIN_PY in changed:
        hint = "commit them (git commit train.py), set them aside (git stash), or start from a file: --train FILE"
        raise LabProblem(f"{repo.root / TRAIN_PY} has uncommitted changes", hint)


def no_train_py(repo: Repo, commit: str) -> LabProblem:
    """What to do about a commit without a train.py at the root."""
    inside = repo.find_files(commit, TRAIN_PY)
    if not inside:
        hint = "commit one (git add train.py && git commit), or name a file: --train FILE"
        return LabProblem(f"the commit {commit[:12]} has no train.py", hint)
    what = f"the commit {commit[:12]} has no train.py at the root of the repository, where a lab has it"
    return LabProblem(
        f"{what}; it is in {inside[0]}", f"name it (arsched init --train {shlex.quote(inside[0])}), or move it there"
    )


def _with_constants(data: bytes, choice: ContractChoice) -> tuple[Source, str]:
    text = read_source(data).text
    wanted = dict(choice.contract.train_constants)
    try:
        rewritten = rewrite_constants(text, wanted)
    except CandidateRejected as problem:
        hint = f"{problem.hint}; or bring a train.py that already fits the contract: --train FILE"
        raise CandidateRejected(f"{problem.message} for contract {choice.contract.name!r}", hint) from None
    before = read_constants(text)
    changed = [f"{name} = {value!r}" for name, value in wanted.items() if before.get(name) != value]
    note = f"train.py of HEAD with {', '.join(changed)}" if changed else "train.py of HEAD as it is"
    return read_source(rewritten.encode()), note
