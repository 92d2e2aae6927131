"""What comes back from a head: refs, packs and reports; what lies, is cut off or too much changes nothing here."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler.actions.submit import SubmitRequest
from scheduler.domain.errors import ArschedError, GitProblem, LabProblem
from scheduler.git import Repo
from scheduler.lab import LabPaths
from scheduler.remote import head, ssh
from scheduler.remote.carry import MOST_REFS
from scheduler.remote.wire import Request, encode, read_answer
from tests.scheduler.git_kit import git, no_configuration  # noqa: F401
from tests.scheduler.two_machines_kit import TwoMachines


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoMachines:
    return TwoMachines(tmp_path, monkeypatch)


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
    where = "refs/cluster/ubuntu@10.99.0.11/candidates/t/c0002"
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
    assert moved.taken and moved.shown == "refs/cluster/ubuntu@10.99.0.11/heads/t"
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


def test_two_users_of_one_head_have_refs_of_their_own(two: TwoMachines) -> None:
    two.make_lab()
    mine = two.lab.repo.read_refs("refs/cluster/")
    other = replace(two.lab, login=replace(two.lab.login, user=r"LAB\ann"))
    other.fetch(other.look(None, make=False))
    theirs = set(two.lab.repo.read_refs("refs/cluster/")) - set(mine)
    assert {ref.split("/")[2] for ref in theirs} == {"LAB-ann@10.99.0.11"} and len(theirs) == len(mine)


def copies_of(data: bytes, times: int, number: int) -> bytes:
    """A pack of a file and of `number` more, each a delta of a few bytes that copies the file many times over."""

    def entry(kind: int, size: int) -> bytes:
        out, size = bytearray([kind << 4 | size & 15]), size >> 4
        while size:
            out[-1] |= 128
            out.append(size & 127)
            size >>= 7
        return bytes(out)

    def varint(size: int) -> bytes:
        out = bytearray()
        while size > 127:
            out.append(128 | size & 127)
            size >>= 7
        return bytes([*out, size])

    base = bytes.fromhex(hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())
    entries = [entry(3, len(data)) + zlib.compress(data)]
    copy = bytes([0b10110000, len(data) & 255, len(data) >> 8])
    for more in range(number):
        delta = varint(len(data)) + varint(len(data) * times + 1) + copy * times + bytes([1, more])
        entries.append(entry(7, len(delta)) + base + zlib.compress(delta))
    pack = b"PACK" + struct.pack(">II", 2, len(entries)) + b"".join(entries)
    return pack + hashlib.sha1(pack).digest()


def test_a_pack_that_unfolds_takes_no_more_of_the_disk_than_it_has_bytes(
    two: TwoMachines, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = two.make_lab()
    pack = copies_of(os.urandom(30_000), 100, 20)
    assert len(pack) < 50_000, "and 60 MB in files of their own"
    before = sum(path.stat().st_size for path in (two.root / ".git").rglob("*") if path.is_file())
    monkeypatch.setattr(ssh, "ask", lambda *_: {"pack": base64.b64encode(pack).decode()})
    lie = replace(state, refs={"refs/heads/autoresearch/t": "cafe" * 10})
    with pytest.raises(GitProblem):
        two.lab.fetch(lie)
    assert sum(path.stat().st_size for path in (two.root / ".git").rglob("*") if path.is_file()) - before < 200_000
    assert "cafe" not in git(two.root, "for-each-ref")


def test_what_is_fetched_and_shown_by_git_log_is_whole_and_in_packs(two: TwoMachines) -> None:
    two.make_lab()
    assert list((two.root / ".git" / "objects" / "pack").glob("*.pack"))
    git(two.root, "fsck", "--strict", "--connectivity-only")


def test_more_than_a_command_fetches_is_said_by_the_head(two: TwoMachines, monkeypatch: pytest.MonkeyPatch) -> None:
    two.make_lab()
    two.submit(two.worktree("wider"))
    monkeypatch.setattr(head, "MOST_PACK_BYTES", 10)
    with pytest.raises(ArschedError, match="a command fetches 0 MiB") as problem:
        two.fetched()
    assert f"git fetch ssh://USER@HEAD{two.there}" in problem.value.hint
    monkeypatch.undo()


def test_what_this_clone_has_by_another_way_is_not_fetched_again(two: TwoMachines) -> None:
    two.make_lab()
    for ref in two.lab.repo.read_refs("refs/cluster/"):
        git(two.root, "update-ref", "-d", ref)
    two.asked.clear()
    two.fetched()
    (give,) = (one for one in two.asked if one["ask"] == "give")
    assert git(two.root, "rev-parse", "refs/remotes/autoresearch/t").strip() in give["known"]


@pytest.mark.parametrize(
    "said", [{}, {"pack": 3}, {"pack": "ä"}, {"pack": ["x"]}, {"files": 3}, {"files": {"index.html": 3}}, {"files": []}]
)
def test_answers_of_a_strange_shape_are_no_defect(two: TwoMachines, monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    state = two.make_lab()
    monkeypatch.setattr(ssh, "ask", lambda *_: said)
    for ask in (
        lambda: two.lab.report_files("a" * 16),
        lambda: two.lab.fetch(replace(state, refs={"refs/heads/autoresearch/t": "cafe" * 10})),
    ):
        with pytest.raises(LabProblem, match="makes no sense"):
            ask()


def test_a_report_of_other_names_is_not_written(two: TwoMachines, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("index.html", "results.tsv", "..", ".", "", ".bashrc", "train.py", "../x.html", "a/b.html", "x.html\n")
    monkeypatch.setattr(ssh, "ask", lambda *_: {"files": dict.fromkeys(names, "cGFnZQ==")})
    assert two.lab.report_files("a" * 16).keys() == {"index.html", "results.tsv"}


def test_a_head_that_names_refs_without_end_makes_none_here(two: TwoMachines, monkeypatch: pytest.MonkeyPatch) -> None:
    two.make_lab()
    honest = two.lab.ask("look", tag=None, make=False, heard="", hash_digits=40)
    refs = {f"refs/arsched/t/c{number}": "cafe" * 10 for number in range(MOST_REFS + 1)}
    monkeypatch.setattr(ssh, "ask", lambda *_: {**honest, "refs": refs})
    with pytest.raises(LabProblem, match="makes no sense"):
        two.lab.look(None, make=False)
