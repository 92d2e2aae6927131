"""`arsched restore`: the ledger is gone, or is behind; what copies and git have comes back, and the rest is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from scheduler.actions import restore as restoration
from scheduler.actions.init import InitRequest, create_lab
from scheduler.actions.restore import restore
from scheduler.actions.submit import SubmitRequest, submit
from scheduler.cli.main import main
from scheduler.domain.candidate import CandidateState, Origin
from scheduler.domain.errors import LabProblem, UsageProblem
from scheduler.lab import LabPaths, Workspace, open_workspace
from scheduler.ledger import Ledger
from scheduler.ledger.db import SAVED
from scheduler.queue.runner import run_queue
from scheduler.queue.runtime import PoolHandle, Runtime, SchedulerLock, StopReason
from tests.scheduler.git_kit import git, make_repository, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import RecordingScreen, as_the_source_says
from tests.scheduler.ledger_kit import broken_invariants, open_ledger
from tests.scheduler.memory_pool import MemoryPool, VirtualClock, memory_slots
from tests.scheduler.test_app_init import ContractFile, contract  # noqa: F401


class Rig:
    """A lab made by `arsched init`, on slots in memory."""

    def __init__(self, folder: Path, contract_file: str) -> None:
        self.root, self.folder, self.clock = make_repository(folder / "repository"), folder, VirtualClock(1000.0)
        self.paths, self.contract = LabPaths(self.root), contract_file
        baseline = folder / "baseline.py"
        baseline.write_text("SCORE = 1.9\n")
        create_lab(InitRequest("t", contract_file, train=baseline, preset="strict"), self.root, self.clock)

    def run(self, **scores: float) -> None:
        """Submit these and run the queue until all is decided."""
        with open_workspace(start=self.root, clock=self.clock) as space:
            for name, score in scores.items():
                path = self.folder / f"{name}.py"
                path.write_text(f"SCORE = {score}\n")
                assert not submit(space, SubmitRequest((path,), f"try {name}")).refused
            self.run_queue(space)

    def run_queue(self, space: Workspace) -> None:
        slots = [replace(slot, cache_digest=space.lab.cache_digest) for slot in memory_slots(2)]
        pool = MemoryPool(slots, as_the_source_says, self.clock)
        runtime = Runtime(connect=lambda *_: PoolHandle(pool, False), clock=self.clock, sleep=self.clock.advance)
        assert run_queue(space, RecordingScreen(), runtime, lambda: False) is StopReason.DONE

    def lose_ledger(self) -> None:
        """And every copy of it."""
        shutil.rmtree(self.paths.truth)
        shutil.rmtree(self.paths.state)


@pytest.fixture
def rig(tmp_path: Path, contract: ContractFile) -> Rig:  # noqa: F811
    rig = Rig(tmp_path, contract())
    rig.run(better=1.7, worse=2.0)
    rig.run(best=1.5)
    return rig


def facts(root: Path) -> dict[str, tuple[object, ...]]:
    """What git can say of every candidate."""
    with open_workspace("t", start=root) as space:
        return {
            one.id: (one.name, one.commit, one.base_id, one.fingerprint, one.title, one.origin)
            for one in space.ledger.candidates.list("t")
        }


def test_from_git_alone_the_lab_is_what_it_was_but_for_its_runs(rig: Rig) -> None:
    before = facts(rig.root)
    with open_workspace(start=rig.root) as space:
        promotions = [(p.candidate_id, p.base_id, p.commit) for p in space.ledger.decisions.promotions("t")]
        effects = [round(p.effect.diff, 6) for p in space.ledger.decisions.promotions("t")]
    assert len(promotions) == 2
    rig.lose_ledger()
    (done,) = restore(rig.root, contract=rig.contract).labs
    assert facts(rig.root) == before and not broken_invariants(rig.paths.ledger)
    with open_workspace(start=rig.root, clock=rig.clock) as space:
        again = space.ledger.decisions.promotions("t")
        assert [(p.candidate_id, p.base_id, p.commit) for p in again] == promotions
        assert [p.effect.diff for p in again] == effects
        assert space.baseline().name == "best" and space.lab.gates.name == "strict" and space.lab.sandbox == "full"
        states = {one.name: one.state for one in space.ledger.candidates.list("t")}
        assert states["worse"] is CandidateState.CANCELLED and states["better"] is CandidateState.PROMOTED
        assert [run.candidate_id for run in space.ledger.runs.queued("t")] == ["c0004"] * 3
    lost = "\n".join(done.lost)
    for word in ("c0001 to c0004", "scores", "searches", "submit --again"):
        assert word in lost
    rig.run(even_better=1.3)
    with open_workspace(start=rig.root) as space:
        assert space.baseline().name == "even_better" and space.baseline().id == "c0005"
        assert space.repo.branch_commit("autoresearch/t") == space.baseline_commit()
    assert not broken_invariants(rig.paths.ledger)


def test_every_screen_can_show_a_restored_lab(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.lose_ledger()
    restore(rig.root, contract=rig.contract)
    monkeypatch.chdir(rig.root)
    for words in (
        "status",
        "leaderboard",
        "show best",
        "show worse",
        "explain better",
        "brief",
        "report",
        "watch",
    ):
        done = CliRunner().invoke(main, words.split())
        assert done.exit_code == 0, (words, done.stderr)


def test_the_latest_whole_copy_is_put_back_and_what_is_newer_comes_from_git(rig: Rig, tmp_path: Path) -> None:
    saved = rig.paths.truth / f"{SAVED}2.db"
    rig.paths.backup.unlink()
    with open_workspace(start=rig.root) as space:
        scores = {run.id: run.state for run in space.ledger.runs.list("t")}
    shutil.copyfile(rig.paths.ledger, saved)
    rig.run(late=1.2)
    rig.run(later=2.5)
    before = facts(rig.root)
    (rig.paths.truth / f"{SAVED}9.db").write_bytes(saved.read_bytes()[:9000])
    with Ledger.open(rig.paths.truth / f"{SAVED}1.db"):
        pass
    rig.paths.backup.unlink()
    rig.paths.ledger.unlink()
    done = restore(rig.root)
    assert done.copy == saved and not broken_invariants(rig.paths.ledger)
    assert facts(rig.root) == before
    with open_workspace(start=rig.root) as space:
        assert {run.id: run.state for run in space.ledger.runs.list("t")}.items() >= scores.items()
        assert space.baseline().name == "late"
    assert "c0005 to c0006" in "\n".join(done.labs[0].lost)
    again = restore(rig.root)
    assert again.copy is None and again.labs == (("t", (), ()),) and facts(rig.root) == before


def test_with_the_branch_or_all_refs_gone_the_rest_still_comes_back(rig: Rig) -> None:
    before = facts(rig.root)
    tip = git(rig.root, "rev-parse", "autoresearch/t").strip()
    rig.run(unlike=2.2)  # on the last baseline, so that it leads there
    git(rig.root, "branch", "-D", "autoresearch/t")
    rig.lose_ledger()
    restore(rig.root, contract=rig.contract)
    assert facts(rig.root).items() >= before.items()
    assert git(rig.root, "rev-parse", "autoresearch/t").strip() == tip
    rig.lose_ledger()
    for ref in git(rig.root, "for-each-ref", "--format=%(refname)", "refs/arsched/").split():
        git(rig.root, "update-ref", "-d", ref)
    with pytest.raises(LabProblem, match=r"of: t$"), open_workspace(start=rig.root):
        pass
    restore(rig.root, contract=rig.contract)
    assert [before[ref][3] for ref in facts(rig.root)] == [before[ref][3] for ref in ("c0001", "c0002", "c0004")]


def test_a_search_and_its_ideas_come_back_with_their_words(rig: Rig) -> None:
    said = {"Candidate": "idea", "Proposer": "tpe", "Theme": "depth", "Hypothesis": "why not", "Proposal": "p0001"}
    with open_workspace(start=rig.root) as space:
        base = space.baseline_commit()
        commit = space.repo.commit_train_py(base, b"SCORE = 3\n", "an idea", said)
        space.repo.keep_ref("t", "c0009", commit)
        space.repo.keep_ref("t", "c0010", space.repo.commit_train_py(base, b"SCORE = 4\n", "u", {"Union-of": "c1 c2"}))
        space.repo.keep_ref("t", "c0011", space.repo.commit_train_py(base, b"def (", "no program", {}))
    rig.lose_ledger()
    (done,) = restore(rig.root, contract=rig.contract).labs
    with open_workspace(start=rig.root) as space:
        idea, union = (space.ledger.candidates.get(ref, "t") for ref in ("c0009", "c0010"))
        assert (idea.name, idea.title, idea.proposer, idea.theme) == ("idea", "an idea", "tpe", "depth")
        assert (idea.hypothesis, idea.origin, union.origin) == ("why not", Origin.PROPOSED, Origin.UNION)
        assert idea.base_id == space.baseline().id
    assert any(text.startswith("c0011: ") for text in done.lost)


def test_nothing_to_restore_from_makes_nothing(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "fresh")
    git(root, "branch", "autoresearch/mar5")  # as upstream's users have it
    with pytest.raises(LabProblem, match="nothing is left to restore"):
        restore(root)
    assert not LabPaths(root).truth.exists() and not LabPaths(root).state.exists()


def test_an_unknown_contract_is_named_and_nothing_is_made_of_the_lab(rig: Rig) -> None:
    rig.lose_ledger()
    done = restore(rig.root)
    assert not done.labs and "arsched restore --contract" in done.refused[0].hint
    restore(rig.root, contract=rig.contract)
    assert len(facts(rig.root)) == 4


def test_while_the_queue_is_run_or_over_a_ledger_that_is_there_nothing_is_put_back(rig: Rig, tmp_path: Path) -> None:
    turn = SchedulerLock(rig.paths.scheduler_lock)
    assert turn.try_take()
    with pytest.raises(LabProblem, match="runs the queue"):
        restore(rig.root)
    turn.release()
    shutil.copyfile(rig.paths.ledger, tmp_path / "copy.db")
    with pytest.raises(UsageProblem, match="is there"):
        restore(rig.root, tmp_path / "copy.db")
    rig.lose_ledger()
    (tmp_path / "other.db").write_bytes(b"no ledger")
    with pytest.raises(UsageProblem, match="no whole ledger"):
        restore(rig.root, tmp_path / "other.db")
    assert restore(rig.root, tmp_path / "copy.db").copy == tmp_path / "copy.db"
    with open_ledger(rig.paths.ledger) as ledger:
        assert len(ledger.runs.list("t")) >= 8


def test_all_commands_name_it_and_none_says_to_delete_a_branch(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.lose_ledger()
    monkeypatch.chdir(rig.root)
    for words in (
        "status",
        "leaderboard",
        "submit",
        "doctor --quick",
        "init --tag t",
        "search --runs 3",
        "wait",
        "report",
    ):
        done = CliRunner().invoke(main, words.split())
        said = done.stderr + done.stdout
        assert done.exit_code == (2 if words.startswith("init") else 1) and "arsched restore" in said, (words, said)
        assert "branch -D" not in said and "delete" not in said, said
    assert not rig.paths.ledger.exists()
    done = CliRunner().invoke(main, ["restore", "--contract", rig.contract, "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["labs"][0]["tag"] == "t", done.stderr
    assert CliRunner().invoke(main, ["status"]).exit_code == 0


def test_a_lab_made_instead_leaves_the_ids_of_the_lost_one_free(rig: Rig) -> None:
    before = facts(rig.root)
    rig.lose_ledger()
    created = create_lab(InitRequest("u", rig.contract, train=rig.folder / "baseline.py"), rig.root)
    assert created.baseline is not None and created.baseline.id == "c0005"
    restore(rig.root, contract=rig.contract)
    assert facts(rig.root) == before
    with open_workspace(start=rig.root) as space:
        assert space.tag == "u" and space.baseline().id == "c0005"
    assert not broken_invariants(rig.paths.ledger)


def test_a_ledger_that_goes_while_no_command_runs_comes_back_from_the_copy_of_the_last_one(rig: Rig) -> None:
    with open_workspace(start=rig.root) as space:
        runs, events = space.ledger.runs.list("t"), space.ledger.events.list("t")
    shutil.rmtree(rig.paths.truth)
    done = restore(rig.root)
    assert done.copy == rig.paths.backup and done.labs == (("t", (), ()),)
    with open_workspace(start=rig.root) as space:
        assert space.ledger.runs.list("t") == runs and space.ledger.events.list("t")[: len(events)] == events


@pytest.mark.parametrize("where", ["_make_lab", "_add_candidates", "_promote", "_measure"])
def test_killed_in_between_the_same_command_goes_on(rig: Rig, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    before = facts(rig.root)
    rig.lose_ledger()
    real = getattr(restoration._Restorer, where)

    def crash(*arguments: object) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(restoration._Restorer, where, crash)
        restore(rig.root, contract=rig.contract)
    restore(rig.root, contract=rig.contract)
    assert facts(rig.root) == before and not broken_invariants(rig.paths.ledger)


def test_a_message_in_another_encoding_comes_back_as_it_was_written(rig: Rig) -> None:
    git(rig.root, "config", "i18n.logOutputEncoding", "ISO-8859-1")
    with open_workspace(start=rig.root) as space:
        commit = space.repo.commit_train_py(space.baseline_commit(), b"SCORE = 3\n", "tiefer: größer\N{MINUS SIGN}", {})
        space.repo.keep_ref("t", "c0009", commit)
    rig.lose_ledger()
    restore(rig.root, contract=rig.contract)
    assert facts(rig.root)["c0009"][4] == "tiefer: größer\N{MINUS SIGN}"


def test_a_commit_that_poses_as_a_promotion_is_none(rig: Rig) -> None:
    """An agent writes what it likes into the commits of its worktree."""
    before = facts(rig.root)
    with open_workspace(start=rig.root) as space:
        tip = git(rig.root, "log", "-1", "--format=%B", "autoresearch/t")
        trailers = dict(text.split(": ", 1) for text in tip.strip().rpartition("\n\n")[2].splitlines())
        forged = space.repo.commit_train_py(space.baseline_commit(), b"SCORE = 9\n", "won", trailers)
        space.repo.keep_ref("t", "c0009", space.repo.commit_train_py(forged, b"SCORE = 8\n", "idea", {}))
        base = space.baseline().id
    rig.lose_ledger()
    restore(rig.root, contract=rig.contract)
    after = facts(rig.root)
    assert after.pop("c0009")[2] == base and after == before
    with open_workspace(start=rig.root) as space:
        assert space.baseline().id == base and len(space.ledger.decisions.promotions("t")) == 2
