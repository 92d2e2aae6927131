"""A lab is put together again: from the latest copy of its ledger, then from what git keeps and the copy lacks.

Git keeps every candidate (refs/arsched/<tag>/<id>), its base, title and author, and the promotions with their effects
(trailers on the lab's branch). It does not keep runs, scores, other decisions, searches and claims: that is said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from scheduler.actions.init import new_lab
from scheduler.domain.candidate import CandidateState, NewCandidate, Origin
from scheduler.domain.decision import PRESETS, Effect, Promote
from scheduler.domain.errors import ArschedError, CandidateRejected, LabProblem, UsageProblem
from scheduler.domain.lab import Lab
from scheduler.domain.run import Cancelled, RunKind
from scheduler.domain.text import count
from scheduler.git import CommitFacts, Repo
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
from scheduler.ledger import Ledger
from scheduler.ledger.db import SAVED
from scheduler.ledger.ledger import latest_copy, put_back, set_aside
from scheduler.ledger.rows import number_of
from scheduler.policy.explain import explain_decision
from scheduler.policy.source import TRAIN_PY, free_name, read_source, slug
from scheduler.policy.stats import lab_noise
from scheduler.queue.decide import follow_ledger
from scheduler.queue.runtime import SUBMIT_LOCK_S, SchedulerLock, exclusive

REASON = "restored from git"


class Restored(NamedTuple):
    """One lab. `back` is what came back, `lost` what did not, a sentence each."""

    tag: str
    back: tuple[str, ...]
    lost: tuple[str, ...]


class Restoration(NamedTuple):
    """`copy` is the copy of a ledger that was put back, None where none was; `refused` says what was in the way.

    `damaged` is where a ledger was kept that could not be read, None where there was none.
    """

    copy: Path | None
    labs: tuple[Restored, ...]
    refused: tuple[ArschedError, ...]
    damaged: Path | None = None


def restore(
    start: Path | None = None,
    copy: Path | None = None,
    contract: str | None = None,
    clock: Callable[[], float] = time.time,
) -> Restoration:
    """Bring back all labs of a repository. `copy`: this one of the ledger, not the latest found; `contract`: by name or
    file, for a lab whose contract is not to be found.

    A ledger that is there and sound is completed, never replaced; a damaged one is kept under another name. Raises
    UsageProblem, LabProblem, LedgerProblem.
    """
    repo = Repo.open(start or Path.cwd())
    paths, tags = paths_of(repo), repo.kept_tags()
    if not (paths.ledger.is_file() or tags or _choose_copy(paths, copy)):
        raise _nothing_left(repo, "")
    turn = SchedulerLock(paths.scheduler_lock)
    if not turn.try_take():
        raise LabProblem("another arsched runs the queue here", "end it first, or leave the lab to it")
    try:
        with exclusive(paths.submit_lock, SUBMIT_LOCK_S):
            damaged = set_aside(paths.ledger)
            copy = _choose_copy(paths, copy)
            if not (copy or tags or paths.ledger.is_file()):
                raise _nothing_left(repo, f"; the damaged one is kept as {damaged}")
            if copy:
                put_back(copy, paths.ledger)
            with Ledger.open(paths.ledger, clock) as ledger:
                return Restoration(copy, *_complete_all(repo, paths, ledger, tags, contract), damaged)
    finally:
        turn.release()
        show_runs(paths)


def _nothing_left(repo: Repo, more: str) -> LabProblem:
    hint = "a copy elsewhere: arsched restore --from FILE; a new lab: arsched init --tag TAG"
    return LabProblem(f"nothing is left to restore in {repo.root}: no ledger, no copy, no record in git{more}", hint)


def _choose_copy(paths: LabPaths, given: Path | None) -> Path | None:
    """Raises UsageProblem for a file that is no ledger."""
    if given is not None:
        if paths.ledger.is_file():
            raise UsageProblem(f"{paths.ledger} is there", "move it away first, or leave --from out to complete it")
        if latest_copy([given]) is None:
            raise UsageProblem(f"{given} is no whole ledger", "a copy of ledger.db, or ledger-saved-….db")
        return given
    if paths.ledger.is_file():
        return None
    return latest_copy([*paths.truth.glob(f"{SAVED}*.db"), *paths.state.glob("ledger*.db")])


def _complete_all(
    repo: Repo, paths: LabPaths, ledger: Ledger, tags: Sequence[str], contract: str | None
) -> tuple[tuple[Restored, ...], tuple[ArschedError, ...]]:
    done, refused, current = [], [], ledger.labs.current()
    for tag in sorted({*tags, *(lab.tag for lab in ledger.labs.all())}):
        try:
            with ledger.transaction():
                done.append(_Restorer(repo, paths, ledger, read_record(repo, tag), contract).restore())
        except ArschedError as problem:
            refused.append(problem)
    labs = sorted(ledger.labs.all(), key=lambda lab: lab.created_at)
    if labs:
        ledger.labs.set_current((current or labs[-1]).tag)
    return tuple(done), tuple(refused)


@dataclass(frozen=True, slots=True)
class GitRecord:
    """What git keeps of a lab. `lineage`: the commits of its baselines on the branch, the first one first.

    `candidates` are by id; `bases` are the commits of the lineage that they were made from.
    """

    tag: str
    lineage: tuple[CommitFacts, ...]
    candidates: Mapping[str, CommitFacts]
    bases: Mapping[str, str]

    def baseline_id(self, commit: str) -> str:
        """Of a commit of the lineage."""
        place = next(n for n, one in enumerate(self.lineage) if one.id == commit)
        if place:
            return self.lineage[place].trailers["Candidate"]
        return next((ref for ref, one in self.candidates.items() if one.id == commit), "c0001")


def read_record(repo: Repo, tag: str) -> GitRecord:
    """From the refs of a lab and its branch; where the branch is gone, from what its candidates were made from.

    Whoever writes a candidate's commit may write what they like into it, so where there is a branch it alone counts.
    """
    refs, at = repo.kept_refs(tag), repo.branch_commit(f"autoresearch/{tag}")
    history = repo.history([*refs.values(), *([at] if at else [])])
    candidates = {ref: history[commit] for ref, commit in sorted(refs.items(), key=lambda item: _number(item[0]))}
    lineage = _line(history, history.get(at or ""), tag)
    if not lineage:
        starts = (one if _is_first(one, tag) else history.get(one.parent) for one in candidates.values())
        lineage = max((_line(history, start, tag) for start in starts), key=len, default=())
    baselines = {one.id for one in lineage}
    bases = {ref: _nearest(history, one, lambda commit: commit.id in baselines) for ref, one in candidates.items()}
    return GitRecord(tag, lineage, candidates, {ref: base.id for ref, base in bases.items() if base is not None})


def _nearest(
    history: Mapping[str, CommitFacts], commit: CommitFacts | None, fits: Callable[[CommitFacts], bool]
) -> CommitFacts | None:
    """Of a commit and its ancestors, the first that fits."""
    while commit is not None and not fits(commit):
        commit = history.get(commit.parent)
    return commit


def _line(history: Mapping[str, CommitFacts], commit: CommitFacts | None, tag: str) -> tuple[CommitFacts, ...]:
    """The baselines up to a commit; none where they do not begin with the lab's first."""
    line: list[CommitFacts] = []
    while commit := _nearest(history, commit, lambda one: _is_first(one, tag) or _is_promotion(one)):
        line.insert(0, commit)
        if _is_first(commit, tag):
            return tuple(line)
        commit = history.get(commit.parent)
    return ()


def _is_first(commit: CommitFacts, tag: str) -> bool:
    return commit.subject.startswith(f"baseline of {tag}: contract ") and "Contract" in commit.trailers


def _is_promotion(commit: CommitFacts) -> bool:
    return {"Candidate", "Candidate-commit", "Effect", "Error", "P-better", "Runs"} <= commit.trailers.keys()


def _number(ref: str) -> int:
    return number_of(ref, "c") or 0


class _Restorer:
    """One lab, inside a transaction of the ledger."""

    def __init__(self, repo: Repo, paths: LabPaths, ledger: Ledger, record: GitRecord, contract: str | None) -> None:
        self._repo, self._paths, self._ledger, self._record, self._contract = repo, paths, ledger, record, contract
        self._tag = record.tag
        self._back: list[str] = []
        self._lost: list[str] = []

    def restore(self) -> Restored:
        """Raises LabProblem, UsageProblem, CacheProblem, GitProblem; the ledger is then as before."""
        lab = next((lab for lab in self._ledger.labs.all() if lab.tag == self._tag), None)
        if lab is None:
            lab = self._make_lab()
        missing = self._add_candidates()
        self._promote()
        self._measure(lab)
        if missing:
            which = f"{count(len(missing), 'candidate')} ({_span(missing)})"
            self._lost.append(
                f"runs, scores and decisions of {which}: git does not keep them. "
                "Those that were not promoted are set aside; one is measured again by arsched submit --again PATH"
            )
        follow_ledger(Workspace(self._repo, self._paths, self._ledger, lab))
        if not self._paths.contract.exists():
            write_whole(self._paths.contract, lab.contract_json)
        return Restored(self._tag, tuple(self._back), tuple(self._lost))

    def _make_lab(self) -> Lab:
        if not self._record.lineage:
            hint = (
                "its commits stay in refs/arsched; look for the branch in `git reflog --all`, put it back and try again"
            )
            raise LabProblem(f"git keeps candidates of lab {self._tag!r}, but not its first baseline", hint)
        first = self._record.lineage[0]
        said, choice = first.trailers, self._find_contract(first)
        preset = said.get("Preset", "default")
        gates = replace(PRESETS.get(preset, PRESETS["default"]), prior_df=choice.contract.noise_prior_df)
        lab = new_lab(self._tag, choice, prepared_digest(choice), gates, said.get("Sandbox", "full"), first.at)
        self._ledger.labs.create(lab)
        self._back.append(f"the lab: contract {lab.contract_words}, preset {preset}")
        if not {"Sandbox", "Preset"} <= said.keys():
            self._lost.append("its sandbox level and preset: taken to be full and default")
        self._lost.append("searches, claims and pauses")
        return lab

    def _find_contract(self, first: CommitFacts) -> ContractChoice:
        name, _, digest = first.trailers["Contract"].partition(" ")
        for ref in filter(None, (self._contract, str(self._paths.contract), name)):
            try:
                choice = choose_contract(ref)
            except UsageProblem:
                continue
            if choice.contract.digest.startswith(digest):
                return choice
        what = f"lab {self._tag!r} was made with the contract {name} {digest}, and none here is that one"
        raise LabProblem(what, "name its file: arsched restore --contract FILE")

    def _add_candidates(self) -> list[str]:
        """Ids of those the ledger did not have."""
        record, added = self._record, []
        known = {one.id for one in self._ledger.candidates.list(self._tag)}
        baselines = {record.baseline_id(one.id): one for one in record.lineage}
        wanted = {**baselines, **record.candidates}  # a promoted one whose ref is gone: as it was promoted
        for ref in sorted(wanted.keys() - known, key=_number):
            try:
                self._add(ref, wanted[ref])
                added.append(ref)
            except CandidateRejected as problem:
                self._lost.append(f"{ref}: {problem.message}")
        if added:
            self._back.append(f"{len(added)} candidates: {_span(added)}")
        return added

    def _add(self, ref: str, commit: CommitFacts) -> None:
        said, record = commit.trailers, self._record
        is_first = bool(record.lineage) and ref == record.baseline_id(record.lineage[0].id)
        base = record.bases.get(ref, commit.parent)
        on = {one.id: record.baseline_id(one.id) for one in record.lineage}
        named = "" if _is_promotion(commit) else said.get("Candidate", "")
        name = "baseline" if is_first else named or slug(commit.subject)
        merged = next((origin for key, origin in _MERGED.items() if key in said), None)
        origin = (
            Origin.BASELINE if is_first else merged or (Origin.PROPOSED if "Proposer" in said else Origin.SUBMITTED)
        )
        new = NewCandidate(
            read_source(self._repo.read(commit.id, TRAIN_PY)),
            free_name(name, self._ledger.candidates.names(self._tag)),
            commit.id,
            None if is_first else on.get(base, record.baseline_id(record.lineage[0].id)),
            title="baseline" if is_first else commit.subject,
            author=said.get("Proposer", commit.author),
            kind=RunKind.BASELINE if is_first else RunKind.NEW,
            state=CandidateState.BASELINE if is_first else CandidateState.CANCELLED,
            origin=origin,
            proposer=said.get("Proposer", ""),
            hypothesis=said.get("Hypothesis", ""),
            theme=said.get("Theme", ""),
        )
        self._repo.keep_ref(self._tag, ref, commit.id)
        self._ledger.candidates.add(self._tag, new, _number(ref))
        for run in self._ledger.runs.of_candidate(ref):
            self._ledger.runs.cancel(run.id, REASON)

    def _promote(self) -> None:
        known = {made.candidate_id for made in self._ledger.decisions.promotions(self._tag)}
        added = []
        for commit in self._record.lineage[1:]:
            ref = commit.trailers["Candidate"]
            if ref in known:
                continue
            board = self._ledger.board(self._tag)
            decision = Promote(ref, board.baseline_id, _effect(commit.trailers), REASON)
            sentence = explain_decision(decision, board.of(ref).name)
            self._ledger.decisions.restore_promotion(
                self._tag, decision, noise=lab_noise(board), sentence=sentence, commit=commit.id
            )
            added.append(ref)
        if added:
            self._back.append(f"{len(added)} promotions: {', '.join(added)}")

    def _measure(self, lab: Lab) -> None:
        """Queue runs of a baseline without any: nothing can be compared with it."""
        baseline = self._ledger.board(self._tag).baseline_id
        if not all(isinstance(run.state, Cancelled) for run in self._ledger.runs.of_candidate(baseline)):
            return
        for _ in range(lab.gates.first_baseline_runs):
            self._ledger.runs.add(baseline, RunKind.BASELINE, REASON)
        self._back.append(f"the baseline {baseline}: {count(lab.gates.first_baseline_runs, 'run')} of it queued")


_MERGED = {"Union-of": Origin.UNION, "Port-of": Origin.PORT}


def _effect(said: Mapping[str, str]) -> Effect:
    """As the trailers of a promotion give it; σ follows from the error and the numbers of runs."""
    n_candidate, n_base = (int(part) for part in said["Runs"].split(" vs "))
    diff, se = float(said["Effect"]), float(said["Error"])
    sigma = se / math.sqrt(1 / max(n_candidate, 1) + 1 / max(n_base, 1))
    return Effect(diff, se, sigma, n_candidate, n_base, float(said["P-better"]), diff)


def _span(refs: Sequence[str]) -> str:
    return refs[0] if len(refs) == 1 else f"{refs[0]} to {refs[-1]}"
