"""What is carried to a head's repository and back: the very bytes, once, whole after any kill, never into a local lab.

The head's side answers in this process, from another home; what is asked and answered goes through the wire's text.
"""

from __future__ import annotations

import base64
import errno
import io
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler.actions.candidate import place_worktree
from scheduler.actions.submit import SubmitRequest, submit
from scheduler.domain.errors import ArschedError, GitProblem, LabProblem
from scheduler.git import Repo
from scheduler.lab import LabPaths, Workspace, open_workspace, show_runs
from scheduler.ledger import Ledger
from scheduler.remote import head, ssh
from scheduler.remote.carry import HeadState, RemoteLab
from scheduler.remote.login import Login
from scheduler.remote.wire import Request, answer, decode, encode, problem_answer, read_answer
from tests.scheduler.git_kit import TRAIN, git, git_that_dies, make_repository, no_configuration  # noqa: F401
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


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoMachines:
    return TwoMachines(tmp_path, monkeypatch)


def test_the_repository_is_named_by_folder_and_first_commit(two: TwoMachines) -> None:
    first = git(two.root, "rev-list", "--max-parents=0", "HEAD").strip()
    assert two.lab.name == f"my-lab-rm--rf-x-{first[:12]}"
    state = two.lab.look(None, make=True)
    assert state.made and Path(state.root) == two.there and not two.lab.look(None, make=True).made
    git(two.root, "commit", "-q", "--allow-empty", "-m", "later")
    assert RemoteLab.of(LOGIN, Repo.open(two.root)).name == two.lab.name


@pytest.mark.parametrize(
    "name", ["../../x-0123456789ab", "x", "-x-0123456789ab", "a b-0123456789ab", ".-0123456789ab", ""]
)
def test_no_name_leads_out_of_the_folder_for_labs(two: TwoMachines, name: str) -> None:
    lab = replace(two.lab, name=name)
    with pytest.raises(ArschedError, match="names no repository"):
        lab.look(None, make=True)
    assert not (two.home / "labs").exists()


def test_without_a_lab_there_it_says_how_to_make_one(two: TwoMachines) -> None:
    with pytest.raises(ArschedError, match="no lab of this repository yet") as problem:
        two.lab.look(None, make=False)
    assert "arsched init" in problem.value.hint and not two.there.exists()
    two.lab.look(None, make=True)
    assert isinstance(two.lab.look(None, make=False).problem, LabProblem)


def test_head_is_checked_out_there_and_follows(two: TwoMachines) -> None:
    state = two.lab.look(None, make=True)
    two.lab.send(state, [], two.lab.repo.head_commit())
    assert (two.there / "train.py").read_bytes() == TRAIN
    (two.root / "train.py").write_bytes(b"DEPTH = 5\n")
    git(two.root, "commit", "-qam", "deeper")
    two.lab.send(two.lab.look(None, make=True), [], two.lab.repo.head_commit())
    assert (two.there / "train.py").read_bytes() == b"DEPTH = 5\n"
    assert git(two.there, "rev-parse", "HEAD") == git(two.root, "rev-parse", "HEAD")
    (two.there / "train.py").write_bytes(b"DEPTH = 6\n")  # a person at work on the head
    (two.root / "train.py").write_bytes(b"DEPTH = 7\n")
    git(two.root, "commit", "-qam", "deeper still")
    with pytest.raises(ArschedError, match=r"train\.py"):
        two.lab.send(two.lab.look(None, make=True), [], two.lab.repo.head_commit())
    assert (two.there / "train.py").read_bytes() == b"DEPTH = 6\n"


def test_every_kind_of_candidate_arrives_with_its_bytes_and_its_base(two: TwoMachines) -> None:
    state = two.make_lab()
    base = state.lineage[-1][1]
    edited, committed = two.worktree("edited"), two.worktree("committed", b"SCORE = 1.7  # \xc3\xa4\n")
    git(committed, "-c", "user.name=a", "-c", "user.email=b@c", "commit", "-qam", "a title of its own")
    file, folder = two.root / "candidates" / "a file.py", two.root / "candidates" / "plain"
    file.write_bytes(b"SCORE = 1.6\n")
    folder.mkdir()
    (folder / "train.py").write_bytes(b"SCORE = 1.5\n")
    carried, done, stored = two.submit(edited, committed, file, folder)
    assert not done.refused and not done.failed and not done.skipped
    assert stored == {
        "baseline": BASELINE.encode(), "edited": IDEA, "committed": (committed / "train.py").read_bytes(),
        "a-file": b"SCORE = 1.6\n", "plain": b"SCORE = 1.5\n",
    }  # fmt: skip
    assert [one.candidate.base_id for one in done.queued] == ["c0001"] * 4
    assert [one.candidate.title for one in done.queued] == ["edited", "a title of its own", "a-file", "plain"]
    assert set(carried.paths.values()) == {str(path) for path in (edited, committed, file, folder)}
    for one in done.queued:
        assert git(two.there, "rev-parse", f"{one.candidate.commit}^").strip() == base
        assert git(two.there, "diff", "--name-only", base, one.candidate.commit).split() == ["train.py"]
    assert git(edited, "rev-parse", "HEAD").strip() == done.queued[0].candidate.commit


def test_an_older_baseline_stays_the_base(two: TwoMachines) -> None:
    two.make_lab()
    early = two.worktree("early", b"SCORE = 1.75\n")
    with open_workspace(None, two.there) as space:
        first = space.lineage()[-1][1]
        new = space.repo.commit_train_py(first, b"SCORE = 1.85\n", "promoted", {})
    lineage = (("c0001", first), ("c0002", new))
    git(two.there, "update-ref", "refs/heads/autoresearch/t", new)
    two.fetched()
    file = two.lab.carry(SubmitRequest((early,)), lineage)
    assert git(two.root, "rev-parse", f"{file.commits[0]}^").strip() == first


def test_twice_the_same_makes_nothing_twice(two: TwoMachines) -> None:
    two.make_lab()
    place, file = two.worktree("wider"), two.root / "idea.py"
    file.write_bytes(b"SCORE = 1.6\n")
    _, first, stored = two.submit(place, file)
    _, second, again = two.submit(place, file)
    assert len(first.queued) == 2 and not second.queued and [one.id for one in second.known] == ["c0002", "c0003"]
    assert stored == again
    assert len(git(two.root, "log", "--format=%H", "main..arsched/t/wider").split()) == 2  # baseline and candidate


def test_what_is_refused_here_goes_nowhere_and_the_rest_does(two: TwoMachines) -> None:
    two.make_lab()
    good, other, broken = two.worktree("good"), two.worktree("other"), two.root / "broken.py"
    (other / "README.md").write_text("changed as well\n")
    broken.write_text("def f(:\n")
    (two.root / "notes.txt").write_text("x")
    carried, done, _ = two.submit(good, other, broken, two.root / "notes.txt", Path("no/such.py"), Path("c0001"))
    assert len(carried.commits) == 1 and [one.name for one in done.queued] == ["good"]
    assert [one.id for one in done.known] == ["c0001"], "a word that is no path here is the head's"
    assert {refusal.path.name for refusal in carried.rest.refused} == {"other", "broken.py", "such.py"}
    assert carried.rest.skipped and not carried.rest.failed


def test_a_dry_run_leaves_the_worktree_as_it_is(two: TwoMachines) -> None:
    two.make_lab()
    place = two.worktree("wider")
    before = git(place, "rev-parse", "HEAD"), git(place, "status", "--porcelain")
    _, done, stored = two.submit(place, dry_run=True)
    assert (git(place, "rev-parse", "HEAD"), git(place, "status", "--porcelain")) == before
    assert [one.name for one in done.queued] == ["wider"] and list(stored) == ["baseline"]


def test_branch_and_records_come_back_and_no_local_ref_is_touched(two: TwoMachines) -> None:
    own = two.lab.repo.commit_train_py(two.lab.repo.head_commit(), b"SCORE = 3\n", "a local lab", {})
    two.lab.repo.create_branch("autoresearch/t", own)
    two.lab.repo.keep_ref("t", "c0001", own)
    state = two.make_lab()
    assert git(two.root, "rev-parse", "refs/remotes/autoresearch/t").strip() == state.lineage[-1][1]
    assert two.lab.repo.branch_commit("autoresearch/t") == own and two.lab.repo.kept_refs("t") == {"c0001": own}
    place = two.worktree("wider")
    _, done, _ = two.submit(place)
    two.fetched()
    where = "refs/cluster/10.99.0.11/candidates/t/c0002"
    assert git(two.root, "rev-parse", where).strip() == done.queued[0].candidate.commit
    assert two.lab.repo.kept_tags() == ("t",) and two.lab.repo.kept_refs("t") == {"c0001": own}


def test_what_was_promoted_is_shown_by_git_log(two: TwoMachines) -> None:
    state = two.make_lab()
    repo = Repo.open(two.there)
    new = repo.commit_train_py(state.lineage[-1][1], b"SCORE = 1.1\n", "promote wider", {})
    repo.move_branch("autoresearch/t", new, state.lineage[-1][1])
    assert [moved.commit for moved in two.lab.fetch(two.lab.look(None, make=False))] == [new]
    assert git(two.root, "show", "autoresearch/t:train.py") == "SCORE = 1.1\n"
    assert git(two.root, "log", "-1", "--format=%s", "autoresearch/t").strip() == "promote wider"
    two.asked.clear()
    assert two.lab.fetch(two.lab.look(None, make=False)) == []
    assert [request["ask"] for request in two.asked] == ["look"], "nothing is carried where nothing is new"


def test_another_labs_branch_of_that_name_is_not_written_over(two: TwoMachines) -> None:
    other = two.lab.repo.commit_train_py(two.lab.repo.head_commit(), b"SCORE = 3\n", "another cluster's", {})
    git(two.root, "update-ref", "refs/remotes/autoresearch/t", other)
    state = two.make_lab()
    (moved,) = two.lab.fetch(state)
    assert moved.taken and moved.shown == "refs/cluster/10.99.0.11/heads/t"
    assert git(two.root, "rev-parse", "refs/remotes/autoresearch/t").strip() == other
    assert git(two.root, "rev-parse", moved.shown).strip() == state.lineage[-1][1]


@pytest.mark.parametrize(
    "ref",
    ["refs/heads/autoresearch/x y", "refs/heads/autoresearch/x\ndelete refs/heads/main", "refs/heads/main", "HEAD"],
)
def test_refs_of_strange_names_are_not_believed(two: TwoMachines, ref: str) -> None:
    state = two.make_lab()
    commit = two.lab.repo.head_commit()
    before = git(two.root, "for-each-ref")
    assert two.lab.fetch(replace(state, refs={**state.refs, ref: commit})) == []
    assert git(two.root, "for-each-ref") == before


def test_a_head_that_lies_about_its_lab_reaches_no_command_of_git(
    two: TwoMachines, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = two.make_lab()
    victim, commit = two.folder / "victim", state.lineage[-1][1]
    victim.write_text("precious")
    lies: tuple[dict[str, Any], ...] = (
        {"lineage": [["c0001", f"--output={victim}"]]},
        {"lineage": [["c0001", commit], ["c0002", "HEAD"]]},
        {"lineage": [["--x", commit]]}, {"lineage": [["c0001"]]}, {"lineage": 3},
        {"tag": "../../x"}, {"tag": "-x"}, {"tag": 3}, {"refs": []}, {"refs": {"refs/heads/autoresearch/t": 3}},
    )  # fmt: skip
    honest = two.lab.ask("look", tag=None, make=False, heard="", hash_digits=40)
    for lie in lies:
        monkeypatch.setattr(ssh, "ask", lambda *_, lie=lie: {**honest, **lie})
        with pytest.raises(LabProblem, match="makes no sense") as problem:
            two.lab.look(None, make=False)
        assert problem.value.hint
    assert victim.read_text() == "precious"


def test_a_candidate_of_the_longest_name_is_carried(two: TwoMachines) -> None:
    two.make_lab()
    file = two.root / f"c{'1' * 70}.py"  # it reads like an id, so that idea- comes before it
    file.write_bytes(IDEA)
    carried, done, _ = two.submit(file)
    assert carried.words and [one.name for one in done.queued] == [f"idea-c{'1' * 59}"]


def test_a_repository_there_is_whole_or_not_there(two: TwoMachines) -> None:
    (two.there / ".git").mkdir(parents=True)  # `git init` was killed, or its disk was full
    (two.there / ".git" / "HEAD").write_text("ref: refs/heads/laptop\n")
    state = two.lab.look(None, make=True)
    assert state.made and two.make_lab().tag == "t"
    assert not two.lab.look(None, make=True).made and len(list(two.there.parent.iterdir())) == 1


def test_a_pack_that_was_cut_off_changes_nothing(two: TwoMachines, monkeypatch: pytest.MonkeyPatch) -> None:
    two.make_lab()
    state, place = two.lab.look(None, make=False), two.worktree("wider")
    carried = two.lab.carry(SubmitRequest((place,)), state.lineage)
    pack = two.lab.repo.make_pack(carried.commits, state.refs.values())
    for cut, size in ((pack[: len(pack) // 2], len(pack)), (pack[: len(pack) // 2], len(pack) // 2), (b"", 0)):
        with pytest.raises(ArschedError):
            two.lab.ask("take", cut, wanted=list(carried.commits), head=None, bytes=size)
        assert Repo.open(two.there).existing(carried.commits) == []
    with pytest.raises(ArschedError, match="bytes arrived"):
        two.lab.ask("take", pack[:40], wanted=list(carried.commits), head=None, bytes=len(pack))
    two.lab.send(state, carried.commits)
    assert Repo.open(two.there).existing(carried.commits) == list(carried.commits)


def test_a_pack_without_the_history_below_it_is_refused(two: TwoMachines) -> None:
    """As for a head that said it had a commit, and lost it."""
    two.make_lab()
    (two.root / "train.py").write_bytes(b"x = 1\n")
    git(two.root, "commit", "-qam", "between")
    between = two.lab.repo.head_commit()
    git(two.root, "commit", "-q", "--allow-empty", "-m", "on top")
    top = two.lab.repo.head_commit()
    pack = two.lab.repo.make_pack([top], [between])
    with pytest.raises(ArschedError):
        two.lab.ask("take", pack, wanted=[top], head=top, bytes=len(pack))
    assert git(two.there, "rev-parse", "HEAD").strip() != top


def steps(two: TwoMachines, place: Path) -> None:
    """All git commands of a session, here and there: from nothing to a candidate that is queued and fetched."""
    if problem := two.lab.look(None, make=True).problem:
        raise problem
    _, done, _ = two.submit(place)
    assert not done.failed, done.failed
    two.fetched()


def test_killed_at_any_git_command_and_repeated_it_goes_on(
    two: TwoMachines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    two.make_lab()
    place = two.worktree("wider")
    die_at = git_that_dies(tmp_path, monkeypatch)
    deaths = 0
    for number in range(1, 100):
        die_at(number)
        try:
            steps(two, place)
        except (ArschedError, AssertionError):
            deaths += 1
        else:
            break
    assert 5 < deaths < 99
    die_at(0)
    steps(two, place)
    with open_workspace(None, two.there) as space:
        assert two.stored(space) == {"baseline": BASELINE.encode(), "wider": IDEA}
        assert len(space.ledger.runs.of_candidate("c0002")) == 1
    assert git(two.root, "rev-parse", "refs/cluster/10.99.0.11/candidates/t/c0002")


def test_a_shallow_clone_is_refused_in_words(two: TwoMachines) -> None:
    git(two.root, "commit", "-q", "--allow-empty", "-m", "later")
    clone = two.folder / "clone"
    git(two.folder, "clone", "-q", "--depth", "1", f"file://{two.root}", str(clone))
    with pytest.raises(GitProblem, match="shallow clone") as problem:
        RemoteLab.of(LOGIN, Repo.open(clone)).look(None, make=True)
    assert "git fetch --unshallow" in problem.value.hint
    assert not (two.home / "labs").exists(), "by another name than the whole clone would have"


def test_settings_of_the_repositorys_lead_nothing_elsewhere(two: TwoMachines) -> None:
    """A candidate that is not sandboxed could name another place to carry things to, or a program."""
    marks = two.folder / "marks"
    marks.mkdir()
    for name, value in {
        "url.ext::touch.insteadOf": "ssh://", "core.sshCommand": f"touch {marks}/ssh",
        "uploadpack.packObjectsHook": f"touch {marks}/hook",
        "remote.origin.url": f"ext::touch {marks}/ext", "protocol.ext.allow": "always", "core.hooksPath": str(marks),
    }.items():  # fmt: skip
        git(two.root, "config", name, value)
    (marks / "reference-transaction").write_text(f"#!/bin/sh\ntouch {marks}/ran\n")
    (marks / "reference-transaction").chmod(0o755)
    two.make_lab()
    two.submit(two.worktree("wider"))
    two.fetched()
    assert [path.name for path in marks.iterdir()] == ["reference-transaction"]


def test_what_git_refuses_there_is_said_of_the_head(
    two: TwoMachines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two.make_lab()
    for problem, said in (
        (GitProblem("git unpack-objects failed: No space left on device"), "on the head: git unpack-objects failed"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/labs"),
            "on the head: No space left on device: /labs",
        ),
    ):
        monkeypatch.setattr(head, "QUESTIONS", {"look": raising(problem)})
        assert head.main([encode(two.lab.request("look"))]) == 0
        with pytest.raises(ArschedError, match=said):
            read_answer(capsys.readouterr().out)


def raising(problem: Exception) -> Any:
    def ask(request: Request) -> None:
        raise problem

    return ask


def test_a_report_is_carried_and_deleted_there_and_no_other(two: TwoMachines) -> None:
    two.make_lab()
    mine, others = (head.report_folder(LabPaths(two.there), who) for who in ("a" * 16, "b" * 16))
    for folder, data in ((mine, b"\xff page"), (others, b"of another laptop")):
        folder.mkdir(parents=True)
        (folder / "index.html").write_bytes(data)
    found = json.loads(json.dumps(two.lab.ask("files", listener="a" * 16)))["files"]
    assert {name: base64.b64decode(data) for name, data in found.items()} == {"index.html": b"\xff page"}
    assert not mine.exists() and others.is_dir()
