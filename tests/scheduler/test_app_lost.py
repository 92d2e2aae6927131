"""A command whose ledger or lock goes while it runs ends with an error: no result, no claim, no word of an end."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.actions import submit as submission
from scheduler.actions.init import InitRequest, create_lab
from scheduler.actions.submit import SubmitRequest, submit
from scheduler.domain.candidate import Candidate, CandidateState, Source
from scheduler.domain.errors import ArschedError, LabProblem, LedgerProblem
from scheduler.domain.run import Finished, RunKind, Running
from scheduler.lab import LabPaths, Live, Workspace, open_workspace, write_live
from scheduler.ledger.db import SAVED
from scheduler.queue.runner import run_queue
from scheduler.queue.runtime import PollIntervals, SchedulerLock, StopReason, exclusive
from scheduler.queue.wait import wait_for
from scheduler.search import pipeline
from scheduler.views.status import Watcher
from tests.scheduler.git_kit import git, make_repository, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab
from tests.scheduler.ledger_kit import broken_invariants, open_ledger
from tests.scheduler.search_kit import SearchLab, idea, scores, settings
from tests.scheduler.test_app_init import ContractFile, contract  # noqa: F401

LEDGER_LOST = re.compile("ledger.db.* was (deleted or moved away|replaced by another file)")


@pytest.fixture
def played(tmp_path: Path) -> PlayedLab:
    return PlayedLab(tmp_path)


@pytest.fixture
def lab(tmp_path: Path) -> SearchLab:
    return SearchLab(tmp_path)


def remove(space: Workspace) -> None:
    shutil.rmtree(space.paths.truth)


def move_away(space: Workspace) -> None:
    space.paths.truth.rename(space.repo.root / "moved")


LEDGER_LOSSES: list[Callable[[Workspace], None]] = [remove, move_away]


def clean(space: Workspace) -> None:
    git(space.repo.root, "clean", "-fdxq")


def stash(space: Workspace) -> None:
    git(space.repo.root, "stash", "push", "--quiet", "--all")


def check_out(space: Workspace) -> None:
    git(space.repo.root, "checkout", "--quiet", "--force", space.lab.branch)
    git(space.repo.root, "checkout", "--quiet", "--force", "main", ".")


def remove_state(space: Workspace) -> None:
    shutil.rmtree(space.paths.state, ignore_errors=True)


CLEANING: list[Callable[[Workspace], None]] = [clean, stash, check_out, remove_state]


def unlink_turn(space: Workspace) -> None:
    space.paths.scheduler_lock.unlink()


def replace_turn(space: Workspace) -> None:
    space.paths.scheduler_lock.rename(space.paths.truth / "gone")
    space.paths.scheduler_lock.touch()


TURN_LOSSES: list[Callable[[Workspace], None]] = [unlink_turn, replace_turn]


def at(played: PlayedLab, seconds: float, act: Callable[[Workspace], None]) -> list[float]:
    """Do it in the round after `seconds`; the times of all later rounds are noted."""
    later: list[float] = []

    def each_round() -> None:
        if later:
            later.append(played.clock())
        elif played.clock() >= 1000.0 + seconds:
            later.append(played.clock())
            act(played.space)

    played.each_round = each_round
    return later


@pytest.mark.parametrize("seconds", [1, 21, 30, 50])
@pytest.mark.parametrize("lose", LEDGER_LOSSES)
def test_a_queue_whose_ledger_goes_ends_in_the_next_round(
    played: PlayedLab, lose: Callable[[Workspace], None], seconds: float
) -> None:
    played.submit("better", "SCORE = 1.7\n")
    lines: list[int] = []

    def act(space: Workspace) -> None:
        lose(space)
        lines.append(len(played.screen.lines))

    later = at(played, seconds, act)
    with pytest.raises(LedgerProblem, match=LEDGER_LOST) as raised:
        played.run()
    assert len(later) == 1 and played.pool.closed
    assert not played.screen.lines[lines[0] :]
    assert "arsched restore" in raised.value.hint
    assert not played.space.paths.live.exists()
    (saved,) = played.space.paths.truth.glob(f"{SAVED}*.db")
    assert str(saved) in raised.value.message and not broken_invariants(saved)
    with open_ledger(saved) as copy:
        assert [one.name for one in copy.candidates.list("t")] == ["baseline", "better"]
        assert len([run for run in copy.runs.list("t") if isinstance(run.state, Finished)]) == len(
            played.screen.said("result ")
        )


def test_a_copy_is_kept_from_time_to_time_and_never_of_a_ledger_that_is_lost(played: PlayedLab) -> None:
    seen: list[bool] = []
    played.each_round = lambda: seen.append(played.space.paths.backup.is_file())
    means = replace(played.means, intervals=PollIntervals(round_s=1.0, show_s=5.0, back_up_s=10.0))
    assert run_queue(played.space, played.screen, means, lambda: False) is StopReason.DONE
    assert seen[0] is False and seen[-1] is True and not broken_invariants(played.space.paths.backup)
    played.submit("better", "SCORE = 1.7\n")
    at(played, 0, remove)
    before = played.space.paths.backup.stat().st_ino
    with pytest.raises(LedgerProblem):
        played.run()
    assert played.space.paths.backup.stat().st_ino == before


@pytest.mark.parametrize("act", CLEANING)
def test_what_agents_do_to_a_checkout_loses_nothing(played: PlayedLab, act: Callable[[Workspace], None]) -> None:
    """Whenever it is done; the stop file works, and what runs left is there for people, afterwards too."""
    played.submit("better", "SCORE = 1.7\n")
    played.each_round = lambda: act(played.space)
    assert played.run() is StopReason.DONE
    assert played.state("better") is CandidateState.BASELINE
    assert not broken_invariants(played.space.paths.ledger)
    logs = [played.space.paths.log(run.id, 1) for run in played.space.ledger.runs.list("t")]
    assert all(log.is_file() for log in logs)
    act(played.space)
    played.each_round = lambda: None
    played.submit("more", "SCORE = 1.5\n")
    at(played, 20, lambda space: space.paths.stop.touch())
    assert played.run() is StopReason.STOPPED
    assert all(os.path.samefile(log, played.space.paths.state / "runs" / log.parent.name / log.name) for log in logs)


def test_a_new_lab_in_the_place_of_the_lost_one_gets_nothing_of_its_runs(
    played: PlayedLab, request: pytest.FixtureRequest
) -> None:
    """Whoever sees no lab makes one."""
    played.submit("better", "SCORE = 1.7\n")
    write_contract: ContractFile = request.getfixturevalue("contract")
    wish = InitRequest("other", write_contract())

    def init_again(space: Workspace) -> None:
        shutil.rmtree(space.paths.truth)
        (played.folder / "train.py").write_text("DEPTH = 2\n")
        create_lab(replace(wish, train=played.folder / "train.py"), space.repo.root)

    at(played, 25, init_again)
    with pytest.raises(LedgerProblem, match="replaced"):
        played.run()
    played.space.ledger.close()
    assert not broken_invariants(played.space.paths.ledger)
    with open_workspace(start=played.space.repo.root) as new:
        assert new.tag == "other"
        assert not [run for run in new.ledger.runs.list("other") if isinstance(run.state, Finished | Running)]


def test_put_back_the_queue_goes_on_and_every_candidate_is_decided(played: PlayedLab) -> None:
    played.submit("better", "SCORE = 1.7\n")
    at(played, 30, move_away)
    with pytest.raises(LedgerProblem):
        played.run()
    played.space.ledger.close()
    root, truth = played.space.repo.root, played.space.paths.truth
    shutil.rmtree(truth)
    (root / "moved").rename(truth)
    with open_workspace(start=root, clock=played.clock) as again:
        played.each_round = lambda: None
        assert run_queue(again, played.screen, played.means, lambda: False) is StopReason.DONE
        assert [c.name for c in again.ledger.candidates.list("t") if c.state.undecided] == []
        assert again.baseline().name == "better"
    assert not broken_invariants(played.space.paths.ledger)


@pytest.mark.parametrize("lose", TURN_LOSSES)
def test_a_queue_whose_turn_is_lost_ends_and_leaves_its_runs_to_the_next(
    played: PlayedLab, lose: Callable[[Workspace], None]
) -> None:
    """No other process has the turn meanwhile; one that took it in another way would find runs where they are."""
    played.submit("better", "SCORE = 1.7\n")
    others: list[bool] = []

    def act(space: Workspace) -> None:
        lose(space)
        others.append(SchedulerLock(space.paths.scheduler_lock).try_take())

    later = at(played, 30, act)
    with pytest.raises(LabProblem, match=r"scheduler\.lock was deleted or replaced") as raised:
        played.run()
    assert others == [False]
    assert len(later) == 1 and played.pool.closed and "same command again" in raised.value.hint
    assert [run for run in played.space.ledger.runs.list("t") if isinstance(run.state, Running)]
    played.each_round = lambda: None
    assert played.run() is StopReason.DONE
    assert not broken_invariants(played.space.paths.ledger)


def test_a_turn_of_a_deleted_file_is_not_held_and_no_other_gets_it_before_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "turn.lock"
    first, second = SchedulerLock(path), SchedulerLock(path)
    assert first.try_take() and first.is_held() and not second.try_take() and not second.is_held()
    path.unlink()
    assert not first.is_held() and not second.try_take() and not second.is_held()
    path.touch()
    assert not second.try_take()
    with pytest.raises(LabProblem, match=r"turn\.lock was deleted or replaced"):
        first.ensure_held()
    first.release()
    assert second.try_take() and second.is_held() and not SchedulerLock(path).try_take()
    second.release()
    assert first.try_take()
    first.release()


def test_a_file_deleted_between_opening_and_locking_is_not_the_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "turn.lock", fcntl.flock
    deleted: list[Path] = []

    def flock(descriptor: int, how: int) -> None:
        if not deleted:
            deleted.append(path)
            path.unlink()
        real(descriptor, how)

    monkeypatch.setattr("fcntl.flock", flock)
    turn = SchedulerLock(path)
    assert turn.try_take() and deleted and turn.is_held() and path.exists()
    turn.release()


def test_a_lock_for_a_moment_that_was_lost_is_reported_at_its_end_but_hides_no_other_problem(tmp_path: Path) -> None:
    path = tmp_path / "submit.lock"
    with pytest.raises(LabProblem, match=r"submit\.lock was deleted"), exclusive(path, 1.0):
        path.unlink()
    with pytest.raises(ZeroDivisionError), exclusive(path, 1.0):
        path.unlink()
        raise ZeroDivisionError
    with exclusive(path, 1.0), pytest.raises(LabProblem, match="has held"), exclusive(path, 0.1):
        pass


def test_who_deletes_the_lock_for_a_moment_opens_it_to_no_other(tmp_path: Path) -> None:
    path = tmp_path / "submit.lock"
    with pytest.raises(LabProblem, match=r"submit\.lock was deleted"), exclusive(path, 1.0):
        path.unlink()
        with pytest.raises(LabProblem, match="has held"), exclusive(path, 0.1):
            pass


def test_the_lock_of_the_queue_and_that_of_submit_do_not_meet(tmp_path: Path) -> None:
    paths = LabPaths(tmp_path)
    queue = SchedulerLock(paths.scheduler_lock)
    assert queue.try_take()
    with exclusive(paths.submit_lock, 0.1):
        assert queue.is_held()
    queue.release()
    with exclusive(paths.submit_lock, 0.1):
        assert queue.try_take()
    queue.release()


def test_a_submit_whose_lock_goes_adds_no_further_candidate(played: PlayedLab, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    for number in range(3):
        paths.append(played.folder / f"idea-{number}.py")
        paths[-1].write_text(f"SCORE = 1.{number}\n")
    real = submission.read_source

    def check(data: bytes) -> Source:
        played.space.paths.submit_lock.unlink(missing_ok=True)
        return real(data)

    monkeypatch.setattr(submission, "read_source", check)
    with pytest.raises(LabProblem, match=r"submit\.lock was deleted or replaced"):
        submit(played.space, SubmitRequest(tuple(paths)))
    assert [one.name for one in played.space.ledger.candidates.list("t")] == ["baseline", "idea-0"]


def test_who_watches_the_queue_of_another_notices_too(played: PlayedLab) -> None:
    other = SchedulerLock(played.space.paths.scheduler_lock)
    assert other.try_take()
    write_live(played.space.paths.live, Live(played.clock(), 4711, "t", "memory", 0, False, ()))
    later = at(played, 5, remove)
    with pytest.raises(LedgerProblem, match=LEDGER_LOST):
        run_queue(played.space, played.screen, played.means, lambda: False)
    assert len(later) == 1 and not played.space.paths.scheduler_lock.exists()
    other.release()


def test_a_search_that_waits_for_its_turn_notices_too(lab: SearchLab) -> None:
    other = SchedulerLock(lab.space.paths.scheduler_lock)
    assert other.try_take()
    later = at(lab, 5, remove)
    with pytest.raises(LedgerProblem, match=LEDGER_LOST):
        lab.search(settings(runs=6), lab.fake(idea(1.95)))
    assert len(later) == 1
    other.release()


def test_who_waits_or_watches_notices_too(played: PlayedLab) -> None:
    watcher = Watcher(played.space.ledger, "t", played.space.paths.live)
    watcher.look(played.clock())
    later = at(played, 5, remove)
    with pytest.raises(LedgerProblem, match=LEDGER_LOST):
        wait_for(
            played.space,
            ("baseline",),
            timeout_s=None,
            clock=played.clock,
            sleep=played._sleep,
            report=lambda now: None,
        )
    assert len(later) == 1
    with pytest.raises(LedgerProblem, match=LEDGER_LOST):
        watcher.look(played.clock())


@pytest.mark.parametrize("lose", [*LEDGER_LOSSES, *TURN_LOSSES])
@pytest.mark.parametrize("when", ["running", "claiming"])
def test_a_search_that_loses_ledger_or_turn_makes_no_claim_and_leaves_no_proposer(
    lab: SearchLab, lose: Callable[[Workspace], None], when: str
) -> None:
    fake = lab.fake(scores(2.0, 1.7, 2.1, 1.95), latency=lambda ask: 30.0)
    lost: list[int] = []

    def each_round() -> None:
        if not lost and (len(lab.finished()) > 3 if when == "running" else lab.runs(RunKind.CLAIM)):
            lost.append(len(lab.screen.lines))
            lose(lab.space)

    lab.each_round = each_round
    with pytest.raises(ArschedError, match=r"was (deleted|replaced)") as raised:
        lab.search(settings(runs=12), fake)
    assert raised.value.exit_code == 1 and fake.closed and lab.pool.closed
    assert not [line for line in lab.screen.lines[lost[0] :] if not line.startswith("note")]
    assert not lab.screen.said("is over:") and not lab.screen.said("claim     c")


def test_a_search_whose_submit_lock_goes_while_it_enters_an_idea_ends(
    lab: SearchLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipeline._add_candidate

    def add_candidate(space: Workspace, *rest: object) -> Candidate:
        space.paths.submit_lock.unlink()
        return real(space, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "_add_candidate", add_candidate)
    fake = lab.fake(idea(1.95))
    with pytest.raises(LabProblem, match=r"submit\.lock was deleted"):
        lab.search(settings(runs=8), fake)
    assert fake.closed and not lab.claims
    monkeypatch.undo()
    assert lab.search(None, lab.fake(idea(1.95))).ending is StopReason.DONE
    assert not broken_invariants(lab.space.paths.ledger)
