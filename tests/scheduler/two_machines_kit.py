"""A repository on a laptop and its lab on a head, both in this process, the head's side in another home.

What is asked and answered goes through the wire's text; no ssh.
"""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler.actions.candidate import place_worktree
from scheduler.actions.submit import SubmitRequest, submit
from scheduler.domain.errors import ArschedError
from scheduler.git import Repo
from scheduler.lab import LabPaths, Workspace, open_workspace, show_runs
from scheduler.ledger import Ledger
from scheduler.remote import head, ssh
from scheduler.remote.carry import HeadState, RemoteLab
from scheduler.remote.login import Login
from scheduler.remote.wire import Request, answer, decode, encode, problem_answer, read_answer
from tests.scheduler.git_kit import make_repository
from tests.scheduler.lab_kit import BASELINE, add
from tests.scheduler.ledger_kit import make_lab

LOGIN = Login(Path("cluster.yaml"), "10.99.0.11", "ubuntu", None)
IDEA = b"SCORE = 1.8\n"


class TwoMachines:
    """A repository here and, in another home, the head's."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.asked = folder, list[Request]()
        self.root = make_repository(folder / "laptop" / "my lab; rm -rf x")
        self.home = folder / "home"
        self.home.mkdir()
        monkeypatch.setenv("HOME", str(self.home))
        monkeypatch.setattr(ssh, "ask", self.ask)
        self.lab = RemoteLab.of(LOGIN, Repo.open(self.root))
        self.there = self.home / "labs" / self.lab.name

    def ask(self, login: Login, request: Request, data: bytes = b"") -> dict[str, Any]:
        self.asked.append(request)
        try:
            asked = decode(encode(request))
            given = (asked, io.BytesIO(data)) if asked["ask"] == "take" else (asked,)
            said = answer(head.QUESTIONS[asked["ask"]](*given))
        except ArschedError as problem:
            said = problem_answer(problem)
        found = read_answer(f"a login shell's noise\n{said}\n")
        assert found is not None
        return found

    def make_lab(self, tag: str = "t") -> HeadState:
        """A lab there, as `arsched init` leaves it."""
        state = self.lab.look(None, make=True)
        self.lab.send(state, [], self.lab.repo.head_commit())
        repo, paths, lab = Repo.open(self.there), LabPaths(self.there), replace(make_lab(), tag=tag)
        lab = replace(lab, branch=f"autoresearch/{tag}", lab_id=f"lab-{tag}")
        with Ledger.open(paths.ledger, time.time, durable=False) as ledger:
            ledger.labs.create(lab)
            commit = repo.commit_train_py(repo.head_commit(), BASELINE.encode(), "baseline", {})
            first = add(ledger, tag, "baseline", commit, BASELINE)
            repo.keep_ref(tag, first.id, commit)
        repo.create_branch(lab.branch, commit)
        show_runs(paths)
        return self.fetched()

    def fetched(self) -> HeadState:
        state = self.lab.look(None, make=False)
        self.lab.fetch(state)
        return state

    def worktree(self, name: str, data: bytes = IDEA) -> Path:
        state = self.lab.look(None, make=False)
        place, _ = place_worktree(self.lab, state.tag, name, state.lineage[-1][1], dry_run=False)
        (place / "train.py").write_bytes(data)
        return place

    def submit(self, *paths: Path, **how: Any) -> Any:
        """As `arsched --cluster … submit` does it, with the head's own submit at its end."""
        state = self.lab.look(None, make=False)
        if state.problem:
            raise state.problem
        request = SubmitRequest(paths, **how)
        carried = self.lab.carry(request, state.lineage)
        self.lab.send(state, carried.commits)
        with open_workspace(None, self.there) as space:
            done = submit(space, replace(request, paths=tuple(map(Path, carried.words))))
            return carried, done, self.stored(space)

    @staticmethod
    def stored(space: Workspace) -> dict[str, bytes]:
        candidates = space.ledger.candidates.list(space.tag)
        return {one.name: space.repo.read(one.commit, "train.py") for one in candidates}
