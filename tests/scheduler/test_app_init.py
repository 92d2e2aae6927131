"""A lab is created: from whatever state of a repository, all of it or nothing, with one clear reason."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import scheduler
from harness.contract import Contract, load_contract
from scheduler.actions import init
from scheduler.actions.init import InitRequest, create_lab
from scheduler.domain.candidate import CandidateState
from scheduler.domain.decision import PRESETS
from scheduler.domain.errors import CacheProblem, CandidateRejected, GitProblem, LabProblem, UsageProblem
from scheduler.git import Repo
from scheduler.lab import open_workspace
from scheduler.ledger import Ledger
from tests.harness.judging import TINY, build_cache
from tests.scheduler.git_kit import git, git_that_dies, make_repository, no_configuration, snapshot  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab

ContractFile = Callable[..., str]


@pytest.fixture
def contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ContractFile:
    """Writes a contract with its cache; returns the path."""
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "cache"))

    def write(prepared: bool = True, **changes: object) -> str:
        made: Contract = dataclasses.replace(TINY, train_constants=(("DEPTH", 2),), **changes)  # type: ignore[arg-type]
        path = tmp_path / f"{made.digest[:8]}.json"
        path.write_text(made.to_json())
        if prepared:
            build_cache(load_contract(str(path)))
        return str(path)

    return write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "repository")


def test_the_first_baseline_is_head_with_the_contracts_constants_and_nothing_else_changes(
    root: Path, contract: ContractFile
) -> None:
    before, head = snapshot(root), git(root, "rev-parse", "HEAD")
    created = create_lab(InitRequest("nov23", contract(), preset="strict"), root)
    assert git(root, "show", "autoresearch/nov23:train.py") == "DEPTH = 2\n"
    assert git(root, "diff", "--name-only", "HEAD", "autoresearch/nov23").split() == ["train.py"]
    assert git(root, "rev-parse", "autoresearch/nov23~1") == head == git(root, "rev-parse", "HEAD")
    assert git(root, "symbolic-ref", "--short", "HEAD").strip() == "main"
    assert git(root, "status", "--porcelain") == ""
    after = {name: data for name, data in snapshot(root).items() if not name.startswith(".arsched/")}
    assert after == before
    with open_workspace(start=root) as space:
        assert space.lab.gates == PRESETS["strict"] and space.baseline() == created.baseline
        assert [run.seed for run in space.ledger.runs.queued("nov23")] == [1, 2, 3]
        assert Contract.from_json(space.paths.contract.read_text()).digest == space.lab.contract_digest
    assert any("DEPTH = 2" in note for note in created.notes)


def test_everything_of_the_lab_is_ignored_by_git_and_said_once(root: Path, contract: ContractFile) -> None:
    path = contract()
    first = create_lab(InitRequest("a", path), root)
    for name in ("results.tsv", "progress.png", "report/x.png", "candidates/y/z"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    assert git(root, "status", "--porcelain") == ""
    assert any("ignores" in note for note in first.notes)
    assert not any("ignores" in note for note in create_lab(InitRequest("b", path), root).notes)


def test_from_inside_a_folder_or_a_detached_head_it_is_the_same_and_said(root: Path, contract: ContractFile) -> None:
    git(root, "switch", "-q", "--detach")
    (root / "deep").mkdir()
    created = create_lab(InitRequest("t", contract()), root / "deep")
    assert any("detached" in note for note in created.notes)
    assert created.baseline is not None


def test_a_train_py_brought_along_is_taken_as_it_stands(root: Path, contract: ContractFile, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("print('mine')\n")
    (root / "train.py").write_text("DEPTH = 99\n")  # not committed, and not used
    create_lab(InitRequest("t", contract(), train=own), root)
    assert git(root, "show", "autoresearch/t:train.py") == "print('mine')\n"


@pytest.mark.parametrize("brought", [False, True])
def test_the_first_baseline_is_stored_without_byte_order_mark_and_with_lf(
    root: Path, contract: ContractFile, tmp_path: Path, brought: bool
) -> None:
    plain = (root / "train.py").read_bytes()
    own = tmp_path / "own.py" if brought else root / "train.py"
    own.write_bytes(b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n"))
    if not brought:
        git(root, "commit", "--quiet", "--all", "--message", "from a Windows editor")
    created = create_lab(InitRequest("t", contract(), train=own if brought else None), root)
    assert created.baseline is not None
    with open_workspace("t", root) as space:
        stored = space.ledger.candidates.train_py(created.baseline.id)
    assert stored == git(root, "show", "autoresearch/t:train.py").encode() and stored.count(b"\n") == plain.count(b"\n")
    assert b"\r" not in stored and not stored.startswith(b"\xef")


def test_what_is_uncommitted_is_refused_for_train_py_and_said_for_the_rest(root: Path, contract: ContractFile) -> None:
    (root / "README.md").write_text("changed\n")
    path = contract()
    assert any("README.md" in note for note in create_lab(InitRequest("a", path), root).notes)
    (root / "train.py").write_text("DEPTH = 8\n")
    with pytest.raises(LabProblem, match="uncommitted changes") as raised:
        create_lab(InitRequest("b", path), root)
    assert "git commit" in raised.value.hint and "--train" in raised.value.hint


def no_lab(root: Path) -> bool:
    return not any(root.rglob("ledger.db")) and not (root / ".arsched").exists()


def nothing_was_made(root: Path) -> bool:
    return no_lab(root) and "autoresearch" not in git(root, "branch", "--list")


def test_each_missing_thing_is_named_and_nothing_is_made(root: Path, contract: ContractFile, tmp_path: Path) -> None:
    prepared, unprepared = contract(), contract(prepared=False, summary="another")
    with pytest.raises(CacheProblem, match="not prepared") as raised:
        create_lab(InitRequest("t", unprepared), root)
    assert raised.value.hint == f"prepare it first: arsched prepare --contract {unprepared}"
    for wish, kind, words in [
        (InitRequest("t", "cpuu"), UsageProblem, "no contract 'cpuu'"),
        (InitRequest("a b"), UsageProblem, "cannot be a tag"),
        (InitRequest("t", prepared, train=tmp_path / "gone.py"), UsageProblem, "gone.py"),
    ]:
        with pytest.raises(kind, match=words) as raised:
            create_lab(wish, root)
        assert raised.value.hint
    assert nothing_was_made(root)
    with pytest.raises(LabProblem, match="no git repository"):
        create_lab(InitRequest("t", prepared), tmp_path)
    with pytest.raises(LabProblem, match="no commit yet"):
        create_lab(InitRequest("t", prepared), make_repository(tmp_path / "young", commit=False))


def test_a_damaged_cache_is_no_cache(root: Path, contract: ContractFile, tmp_path: Path) -> None:
    path = contract()
    (rows,) = (tmp_path / "cache").glob("*/judge/val.u16")
    rows.chmod(0o644)
    rows.write_bytes(rows.read_bytes()[:-2])
    with pytest.raises(CacheProblem, match=r"val\.u16"):
        create_lab(InitRequest("t", path), root)
    assert nothing_was_made(root)


def test_an_unknown_key_in_a_contract_names_the_nearest(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({**json.loads(TINY.to_json()), "sequence_lenght": 64}))
    with pytest.raises(UsageProblem) as raised:
        create_lab(InitRequest("t", str(path)), root)
    assert "sequence_lenght" in raised.value.message and "sequence_length" in raised.value.message + raised.value.hint


def test_a_constant_train_py_does_not_have_is_named(root: Path, contract: ContractFile) -> None:
    git(root, "rm", "-q", "--cached", "train.py")
    (root / "train.py").write_text("DEPHT = 4\n")
    git(root, "add", "train.py")
    git(root, "commit", "-qm", "typo")
    with pytest.raises(CandidateRejected, match="no constant DEPTH") as raised:
        create_lab(InitRequest("t", contract()), root)
    assert "DEPHT" in raised.value.hint and "--train" in raised.value.hint
    assert nothing_was_made(root)


def test_the_same_tag_again_says_how_to_go_on(root: Path, contract: ContractFile) -> None:
    path = contract()
    create_lab(InitRequest("t", path), root)
    with pytest.raises(LabProblem, match="exists already") as raised:
        create_lab(InitRequest("t", path), root)
    assert "arsched submit --tag t" in raised.value.hint
    with open_workspace(start=root) as space:
        assert len(space.ledger.candidates.list("t")) == 1


def test_a_branch_of_that_name_without_a_lab_is_not_touched(root: Path, contract: ContractFile) -> None:
    git(root, "branch", "autoresearch/t")
    with pytest.raises(LabProblem, match="branch 'autoresearch/t' exists"):
        create_lab(InitRequest("t", contract()), root)
    assert git(root, "rev-parse", "autoresearch/t") == git(root, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    "there", ["autoresearch", "arsched", "arsched/t", "autoresearch/t/mine", "arsched/t/arsched-probe/x"]
)
def test_a_branch_in_the_way_of_the_labs_is_refused_before_anything_is_written(
    root: Path, contract: ContractFile, there: str
) -> None:
    git(root, "branch", there)
    before, path = git(root, "for-each-ref"), contract()
    for dry_run in (True, False):
        with pytest.raises(GitProblem, match=f"branch '{there}' is in the way") as raised:
            create_lab(InitRequest("t", path, dry_run=dry_run), root)
        assert f"git branch -m {there} NEWNAME" in raised.value.hint and "delete" not in raised.value.hint
        assert git(root, "for-each-ref") == before and no_lab(root)
    git(root, "branch", "-m", there, "renamed")
    assert create_lab(InitRequest("t", path), root).baseline is not None


@pytest.mark.parametrize("lock", ["refs/heads/autoresearch/t.lock", "refs/arsched/t/c0.lock"])
def test_a_lock_that_git_left_is_named_before_anything_is_written(
    root: Path, contract: ContractFile, lock: str
) -> None:
    left = root / ".git" / lock
    left.parent.mkdir(parents=True)
    left.touch()
    with pytest.raises(GitProblem) as raised:
        create_lab(InitRequest("t", contract()), root)
    assert str(left) in raised.value.hint
    assert no_lab(root) and not git(root, "for-each-ref", "refs/arsched")


@pytest.mark.parametrize("obstacle", ["refs/heads/autoresearch/t.lock", "refs/arsched/t/c0001.lock"])
def test_trouble_after_the_first_write_is_finished_by_the_same_command(
    root: Path, contract: ContractFile, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, path, write = root / ".git" / obstacle, contract(), Repo.commit_train_py

    def lock_first(*given: Any) -> str:
        left.parent.mkdir(parents=True, exist_ok=True)
        left.touch()
        return write(*given)

    with monkeypatch.context() as patch:
        patch.setattr(Repo, "commit_train_py", lock_first)
        with pytest.raises(GitProblem, match="lock"):
            create_lab(InitRequest("t", path), root)
    left.unlink()
    created = create_lab(InitRequest("t", path), root)
    assert created.baseline is not None
    assert git(root, "rev-parse", "autoresearch/t", "refs/arsched/t/c0001").split() == [created.baseline.commit] * 2
    with open_workspace(start=root) as space:
        assert len(space.ledger.candidates.list("t")) == 1 and len(space.ledger.runs.queued("t")) == 3


def test_a_git_that_is_killed_leaves_a_lab_that_the_same_command_finishes(
    root: Path, contract: ContractFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whichever of the commands it is."""
    path, die_at = contract(), git_that_dies(tmp_path, monkeypatch)
    monkeypatch.setattr(init, "_check_sandbox", lambda level: None)
    monkeypatch.setattr(init, "prepared_digest", lambda choice: "0" * 64)
    for number in range(1, 60):
        die_at(number)
        try:
            done = create_lab(InitRequest(f"t{number}", path), root)
        except GitProblem as problem:
            assert "killed by signal 9" in problem.message
            die_at(0)
            done = create_lab(InitRequest(f"t{number}", path), root)
        else:
            if (tmp_path / "git-commands").read_text().count("x") < number:
                break
        assert done.baseline is not None
        at = git(root, "rev-parse", f"autoresearch/t{number}", f"refs/arsched/t{number}/{done.baseline.id}").split()
        assert at == [done.baseline.commit] * 2
    assert 10 < number < 59


def test_a_half_made_lab_is_not_finished_with_another_contract(
    root: Path, contract: ContractFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, other = contract(), contract(summary="another")
    with monkeypatch.context() as patch:
        patch.setattr(init, "_add_baseline", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            create_lab(InitRequest("t", begun), root)
    with pytest.raises(LabProblem, match="was begun with another contract"):
        create_lab(InitRequest("t", other), root)
    assert create_lab(InitRequest("t", begun), root).baseline is not None


def test_a_train_py_in_a_folder_is_named(root: Path, contract: ContractFile) -> None:
    path = contract()
    (root / "pkg").mkdir()
    git(root, "mv", "train.py", "pkg/train.py")
    git(root, "commit", "-qm", "one product of several")
    with pytest.raises(LabProblem, match=r"at the root of the repository.* in pkg/train\.py") as raised:
        create_lab(InitRequest("t", path), root)
    assert "--train pkg/train.py" in raised.value.hint
    assert create_lab(InitRequest("t", path, train=root / "pkg/train.py"), root).baseline is not None


@pytest.mark.parametrize("where", ["_add_baseline", "follow_ledger", "write_whole"])
def test_a_crash_in_the_middle_is_finished_by_the_same_command(
    root: Path, contract: ContractFile, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    path = contract()
    with monkeypatch.context() as patch:
        patch.setattr(init, where, crash)
        with pytest.raises(KeyboardInterrupt):
            create_lab(InitRequest("t", path), root)
    create_lab(InitRequest("t", path), root)
    with pytest.raises(LabProblem, match="exists already"):
        create_lab(InitRequest("t", path), root)
    with open_workspace(start=root) as space:
        assert space.paths.contract.is_file()
    with Ledger.open(root / ".git" / "arsched" / "ledger.db") as ledger:
        (baseline,) = ledger.candidates.list("t")
        assert baseline.state is CandidateState.BASELINE and len(ledger.runs.queued("t")) == 3


def test_a_dry_run_makes_nothing(root: Path, contract: ContractFile) -> None:
    assert create_lab(InitRequest("t", contract(), dry_run=True), root).baseline is None
    assert nothing_was_made(root)


def test_two_labs_live_side_by_side_and_the_newest_is_current(root: Path, contract: ContractFile) -> None:
    path = contract()
    create_lab(InitRequest("a", path), root)
    create_lab(InitRequest("b", path), root)
    with open_workspace(start=root) as space, open_workspace("a", start=root) as other:
        assert (space.tag, other.tag) == ("b", "a")
        assert space.lab.lab_id != other.lab.lab_id


def test_afterwards_a_command_says_what_git_still_keeps(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path)
    played.submit("better", "SCORE = 1.7\n")
    played.run()
    played.space.ledger.close()
    shutil.rmtree(played.space.paths.truth)
    with (
        pytest.raises(LabProblem, match=r"ledger\.db is gone; git still keeps .* of: t$") as raised,
        open_workspace(start=played.space.repo.root),
    ):
        pass
    assert "arsched restore" in raised.value.hint and "arsched init --tag" in raised.value.hint
    assert not played.space.paths.truth.exists()


def test_without_a_trace_in_git_there_is_just_no_lab(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "fresh")
    with pytest.raises(LabProblem, match="there is no lab in"), open_workspace(start=root):
        pass


def test_init_takes_no_tag_that_git_has_a_record_of_and_advises_to_delete_nothing(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path)
    played.submit("better", "SCORE = 1.7\n")
    played.run()
    root, branch = played.space.repo.root, played.space.lab.branch
    played.space.ledger.close()
    shutil.rmtree(played.space.paths.truth)
    before = git(root, "for-each-ref")
    git(root, "branch", "autoresearch/t-2", branch)
    for remove_branch in (False, True):
        if remove_branch:
            git(root, "branch", "-D", branch)
        with pytest.raises(LabProblem, match="ledger here has no such lab") as raised:
            create_lab(InitRequest("t"), start=root)
        assert "arsched restore" in raised.value.hint and "arsched init --tag t-3" in raised.value.hint
        assert "branch -D" not in raised.value.hint and "delete" not in raised.value.hint
        assert not played.space.paths.truth.exists()  # so that a backup can be put there
    assert {line for line in before.splitlines() if "refs/arsched/" in line} <= set(
        git(root, "for-each-ref").splitlines()
    )


def test_no_message_advises_to_delete_a_branch_or_a_ref() -> None:
    deleting = re.compile(r"branch (-d|-D|--delete)\b|update-ref -d|worktree prune|push --delete|reset --hard")
    assert deleting.search("git branch -D autoresearch/t")
    for path in Path(scheduler.__file__).parent.rglob("*.py"):
        assert not deleting.search(path.read_text()), path
