"""The laptop's side of a lab on the head: candidates and files carried there as commits, its refs fetched back.

Here are the lab's refs in refs/cluster/USER@HEAD/…; a branch autoresearch/TAG is shown as refs/remotes/autoresearch/TAG
too. A lab of this machine, whose branches are in refs/heads and whose records are in refs/arsched, is never touched.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from scheduler.actions.sources import (
    Lineage,
    NotACandidate,
    SourceFile,
    can_name_branch,
    carried_path,
    distinct,
    find_place,
    is_there,
    read_path,
)
from scheduler.actions.submit import NotSubmitted, Refusal, Submission, SubmitRequest, commit_source, title_of, unread
from scheduler.domain.errors import ArschedError, CandidateRejected, GitProblem, LabProblem
from scheduler.domain.text import clean, one_line
from scheduler.git import Repo
from scheduler.lab import LabPaths
from scheduler.policy.source import check_changed_paths, read_source
from scheduler.remote import ssh
from scheduler.remote.login import Login
from scheduler.remote.wire import DRY_RUN, Request

_BRANCH, _RECORD, _SHOWN = "refs/heads/autoresearch/", "refs/arsched/", "refs/remotes/autoresearch/"
_REF = re.compile(  # as labs are named: nothing else is believed
    rf"{_BRANCH}[A-Za-z0-9._-]{{1,40}}|{_RECORD}[A-Za-z0-9._-]{{1,40}}/c[0-9]{{1,9}}"
)
_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_CANDIDATE = re.compile(r"c[0-9]{1,9}")
_REPORT = re.compile(r"[a-z][a-z0-9_-]{0,40}\.(html|png|tsv)")
MOST_REFS = 50_000  # each is a file here
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class HeadState:
    """What the head has. `made`: its repository is new. Without a lab `tag` is "" and `problem` says why."""

    made: bool
    root: str
    refs: dict[str, str]
    tag: str = ""
    lineage: tuple[tuple[str, str], ...] = ()
    problem: ArschedError | None = None


def _read_state(said: dict[str, Any]) -> HeadState:
    """Ids and names become words of git's command lines here: nothing else is let through. Raises ValueError, …"""
    refs = {ref: commit for ref, commit in said["refs"].items() if _ID.fullmatch(commit)}
    made, root = bool(said["made"]), one_line(str(said["root"]))
    if len(refs) > MOST_REFS:
        raise ValueError
    if "tag" not in said:
        return HeadState(made, root, refs, problem=LabProblem(clean(str(said["problem"])), clean(str(said["hint"]))))
    lineage = tuple((candidate, commit) for candidate, commit in said["lineage"])
    is_sound = all(_CANDIDATE.fullmatch(candidate) and _ID.fullmatch(commit) for candidate, commit in lineage)
    if not is_sound or not can_name_branch(said["tag"], longest=40):
        raise ValueError
    return HeadState(made, root, refs, said["tag"], lineage)


class Fetched(NamedTuple):
    """A lab's branch that moved here. `shown` is the ref that shows it; `taken`: that name is another lab's here."""

    tag: str
    commit: str
    shown: str
    taken: bool


@dataclass(frozen=True, slots=True)
class Carried:
    """Candidates as words for `submit` at the head, with the path of each here; and what became of the others."""

    words: tuple[str, ...]
    commits: tuple[str, ...]
    paths: dict[str, str]
    rest: Submission


@dataclass(frozen=True, slots=True)
class RemoteLab:
    """A repository here and its counterpart on the head; they belong together by folder name and first commit."""

    login: Login
    repo: Repo
    name: str
    paths: LabPaths = field(repr=False)

    @classmethod
    def of(cls, login: Login, repo: Repo) -> RemoteLab:
        folder = re.sub(r"[^A-Za-z0-9._-]+", "-", repo.root.name).strip("-.")[:40] or "lab"
        name = f"{folder}-{repo.root_commit()[:12]}"
        return cls(login, repo, name, LabPaths(repo.root, repo.common_dir))

    def for_a_dry_run(self, word: str) -> RemoteLab:
        """A repository there that is made for one command and dropped."""
        return replace(self, name=f"{DRY_RUN}{word}-{self.name[-12:]}")

    def ask(self, what: str, data: bytes = b"", **more: Any) -> dict[str, Any]:
        return ssh.ask(self.login, self.request(what, **more), data)

    def request(self, what: str, **more: Any) -> Request:
        return {"ask": what, "repository": self.name, **more}

    def look(self, tag: str | None, *, make: bool, heard: str = "", may_lack: bool = False) -> HeadState:
        """`heard`: see `head.look`. Raises LabProblem: no way there, other code, or no repository.

        With `make` that is made; with `may_lack` its root is "" then.
        """
        said = self.ask("look", tag=tag, make=make, heard=heard, hash_digits=len(self.repo.head_commit()))
        state = self.read(lambda: _read_state(said))
        if state.problem and not state.root and not may_lack:
            raise state.problem
        return state

    def read(self, parse: Callable[[], Value]) -> Value:
        """What the head said, taken apart. Raises LabProblem where it is of another shape than a head's."""
        try:
            return parse()
        except (AttributeError, KeyError, TypeError, ValueError):
            what = f"the answer of {self.login.target} makes no sense"
            hint = f"see whether that machine is sound, or which one it is: ssh {self.login.target}"
            raise LabProblem(what, hint) from None

    def fetch(self, state: HeadState) -> list[Fetched]:
        """Bring the lab's branches and records here, all or none. Returns the branches that moved."""
        theirs = {self._here(ref): commit for ref, commit in state.refs.items() if _REF.fullmatch(ref)}
        ours = self.repo.read_refs(f"refs/cluster/{self.login.ref_name}/")
        new = {ref: commit for ref, commit in theirs.items() if ours.get(ref) != commit}
        if new:
            wanted = sorted(set(new.values()))
            known = {*ours.values(), *self.repo.read_refs("refs/heads/", "refs/remotes/").values()}
            said = self.ask("give", wanted=wanted, known=sorted(known | {self.repo.head_commit()}))
            self.repo.take_pack(self.read(lambda: base64.b64decode(said["pack"])), wanted, as_it_is=True)
            self.repo.set_refs(new)
        heads = f"refs/cluster/{self.login.ref_name}/heads/"
        return [moved for ref, commit in theirs.items() if ref.startswith(heads) for moved in self._show(ref, commit)]

    def _here(self, ref: str) -> str:
        inside = (
            ref.replace(_BRANCH, "heads/", 1) if ref.startswith(_BRANCH) else ref.replace(_RECORD, "candidates/", 1)
        )
        return f"refs/cluster/{self.login.ref_name}/{inside}"

    def _show(self, ref: str, commit: str) -> list[Fetched]:
        """A lab's branch only moves forward: what does not descend from what is shown is another lab's."""
        tag = ref.rpartition("/")[2]
        shown = _SHOWN + tag
        before = self.repo.read_refs(shown).get(shown)
        if before == commit:
            return []
        if before is not None and not self.repo.is_ancestor(before, commit):
            return [Fetched(tag, commit, ref, taken=True)]
        self.repo.set_refs({shown: commit})
        return [Fetched(tag, commit, shown, taken=False)]

    def report_files(self, listener: str) -> dict[str, bytes]:
        """The files of the report that was made there, by their names; those of other names are left out."""
        found = self.ask("files", listener=listener)
        files = self.read(lambda: {name: base64.b64decode(data) for name, data in found["files"].items()})
        return {name: data for name, data in files.items() if _REPORT.fullmatch(name)}

    def send(self, state: HeadState, wanted: Sequence[str], head: str | None = None) -> None:
        """Carry commits and blobs; `head` is checked out there."""
        wanted = [*dict.fromkeys([*wanted, *([head] if head else [])])]
        if wanted:
            pack = self.repo.make_pack(wanted, state.refs.values())
            self.ask("take", pack, wanted=wanted, head=head, bytes=len(pack))

    def carry(self, request: SubmitRequest, lineage: Lineage) -> Carried:
        """Read every path as `submit` does, and commit what it holds. A word that is no path here is the head's."""
        words: dict[str, str] = {}
        commits: list[str] = []
        refused, failed, skipped = list[Refusal](), list[NotSubmitted](), list[str]()
        for path in distinct(find_place(self.paths, path) for path in request.paths):
            if not is_there(path) and len(path.parts) == 1 and not re.search(r"[*?\[]", path.name):
                words[str(path)] = str(path)  # an id or the name of a candidate
                continue
            try:
                commit, name = self._commit(request, path, lineage)
            except NotACandidate as note:
                skipped.append(str(note))
            except CandidateRejected as problem:
                refused.append(Refusal(path, problem.message, problem.hint))
            except GitProblem as problem:
                failed.append(NotSubmitted(path, problem.message, problem.hint))
            except OSError as problem:
                failed.append(unread(path, problem))
            else:
                commits.append(commit)
                words[str(carried_path(commit, name))] = str(path)
        rest = Submission((), (), tuple(refused), tuple(skipped), tuple(failed))
        return Carried(tuple(words), tuple(commits), words, rest)

    def _commit(self, request: SubmitRequest, path: Path, lineage: Lineage) -> tuple[str, str]:
        file = read_path(self, path, lineage)
        check_changed_paths(file.changed)
        source = read_source(file.data)
        if request.dry_run:  # leaves the worktree as it is
            file = SourceFile(*file[:-1], worktree=None)
        title = title_of(self, file, request.title, file.name)
        return commit_source(self, file, source, file.name, title)[0], file.name
