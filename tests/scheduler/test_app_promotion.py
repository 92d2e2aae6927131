"""Promotions: commit, ledger and branch agree in the end, wherever a crash, an edit or a person comes between."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scheduler.actions.candidate import promote_by_hand
from scheduler.domain.candidate import CandidateState
from scheduler.domain.errors import LabProblem, LedgerProblem, NotYet, UsageProblem
from scheduler.queue.decide import follow_ledger
from tests.scheduler.git_kit import git, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab
from tests.scheduler.ledger_kit import broken_invariants


@pytest.fixture
def played(tmp_path: Path) -> PlayedLab:
    return PlayedLab(tmp_path)


def branch_at(played: PlayedLab) -> str | None:
    return played.space.repo.branch_commit(played.space.lab.branch)


class Crash(Exception):
    """The process ends here."""


def test_a_crash_between_ledger_and_branch_is_healed_by_the_next_run(
    played: PlayedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    played.submit("better", "SCORE = 1.7\n")
    first = branch_at(played)

    def crash(*_: object) -> str:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("scheduler.queue.decide.follow_ledger", crash)
        with pytest.raises(Crash):
            played.run()
    assert branch_at(played) == first and played.state("better") is CandidateState.BASELINE
    played.run()
    (made,) = played.space.ledger.decisions.promotions("t")
    assert branch_at(played) == made.commit
    assert not broken_invariants(played.space.paths.ledger)


def test_a_crash_before_the_ledger_leaves_nothing_and_the_promotion_happens_once(
    played: PlayedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    played.submit("better", "SCORE = 1.7\n")

    def crash(*_: object, **__: object) -> str:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(played.space.ledger.decisions, "apply", crash)
        with pytest.raises(Crash):
            played.run()
    assert played.state("better") is CandidateState.OPEN
    played.run()
    assert len(played.space.ledger.decisions.promotions("t")) == 1


def test_a_branch_that_was_deleted_comes_back(played: PlayedLab) -> None:
    played.submit("better", "SCORE = 1.7\n")
    played.run()
    at = branch_at(played)
    git(played.space.repo.root, "branch", "-D", played.space.lab.branch)
    follow_ledger(played.space)
    assert branch_at(played) == at


def test_a_checkout_of_the_branch_follows_when_clean(played: PlayedLab) -> None:
    root = played.space.repo.root
    git(root, "switch", "-q", played.space.lab.branch)
    played.submit("better", "SCORE = 1.7\n")
    played.run()
    assert (root / "train.py").read_text() == "SCORE = 1.7\n"
    assert git(root, "status", "--porcelain") == ""


def test_an_edit_in_the_checkout_is_kept_and_the_lab_goes_on_without_the_branch(played: PlayedLab) -> None:
    root = played.space.repo.root
    git(root, "switch", "-q", played.space.lab.branch)
    (root / "train.py").write_text("SCORE = 9  # mine\n")
    played.submit("better", "SCORE = 1.7\n")
    played.submit("best", "SCORE = 1.5\n")
    played.run()
    assert (root / "train.py").read_text() == "SCORE = 9  # mine\n"
    assert played.screen.said("did not move")
    promotions = played.space.ledger.decisions.promotions("t")
    git(root, "checkout", "-q", "--", "train.py")
    played.run()
    assert branch_at(played) == promotions[-1].commit
    assert (root / "train.py").read_text() == "SCORE = 1.5\n"


def test_a_branch_someone_moved_is_left_where_it_is(played: PlayedLab) -> None:
    root = played.space.repo.root
    elsewhere = git(root, "rev-parse", "main").strip()
    git(root, "update-ref", f"refs/heads/{played.space.lab.branch}", elsewhere)
    played.submit("better", "SCORE = 1.7\n")
    played.run()
    assert branch_at(played) == elsewhere
    assert played.state("better") is CandidateState.BASELINE
    with pytest.raises(LabProblem, match="was moved by hand to"):
        follow_ledger(played.space)


@pytest.mark.parametrize("place", ["nowhere", "the main checkout", "a worktree"])
def test_the_way_back_of_a_moved_branch_works_as_printed(played: PlayedLab, place: str) -> None:
    root, branch = played.space.repo.root, played.space.lab.branch
    home = root.parent / "its own" if place == "a worktree" else root
    if home == root:
        git(root, "checkout", "-q", branch)
    else:
        git(root, "worktree", "add", "-q", str(home), branch)
    (home / "train.py").write_text("SCORE = 3.0\n")
    git(home, "-c", "user.name=a", "-c", "user.email=b", "commit", "-qam", "by hand")
    by_hand = branch_at(played)
    if place == "nowhere":
        git(root, "checkout", "-q", "main")
    with pytest.raises(LabProblem) as raised:
        follow_ledger(played.space)
    way = raised.value.hint.partition(": ")[2].partition("; ")[0]
    done = subprocess.run(["sh", "-c", way], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert branch_at(played) == played.candidate("baseline").commit
    assert git(root, "rev-parse", "NEWNAME").strip() == by_hand
    assert follow_ledger(played.space) == "" and git(home, "status", "--porcelain", "train.py") == ""


def test_promotions_stack_up_on_one_another(played: PlayedLab) -> None:
    for number, score in enumerate((1.7, 1.5, 1.3)):
        played.submit(f"step-{number}", f"SCORE = {score}\n")
        played.run()
    commits = [made.commit for made in played.space.ledger.decisions.promotions("t")]
    listed = git(played.space.repo.root, "rev-list", "--reverse", played.space.lab.branch).split()
    assert listed[-3:] == commits and listed[-4] == played.candidate("baseline").commit


def test_by_hand_a_dropped_candidate_becomes_the_baseline_with_its_effect_on_record(played: PlayedLab) -> None:
    played.submit("simpler", "SCORE = 1.91\n")
    played.run()
    assert played.state("simpler") is CandidateState.DISCARDED
    said = promote_by_hand(played.space, "simpler")
    assert played.state("simpler") is CandidateState.BASELINE
    (made,) = played.space.ledger.decisions.promotions("t")
    assert made.commit == said.commit == branch_at(played)
    assert made.effect.diff > 0 and "by hand" in made.sentence
    played.run()
    assert len(played.space.ledger.board("t").baseline.scores) == 2
    assert not broken_invariants(played.space.paths.ledger)


def test_by_hand_dry_run_changes_nothing(played: PlayedLab) -> None:
    played.submit("simpler", "SCORE = 1.91\n")
    played.run()
    assert promote_by_hand(played.space, "last", dry_run=True).commit == ""
    assert played.state("simpler") is CandidateState.DISCARDED


def test_by_hand_without_a_trusted_score_is_refused(played: PlayedLab) -> None:
    played.submit("crash", "STATUS = 'crash'\n")
    played.submit("doubt", "STATUS = 'suspect: too good'\nSCORE = 1.95\n")
    played.run()
    for ref in ("crash", "doubt", "baseline"):
        with pytest.raises(NotYet):
            promote_by_hand(played.space, ref)
    with pytest.raises(UsageProblem, match="no candidate 'doub'"):
        promote_by_hand(played.space, "doub")
    assert played.space.ledger.decisions.promotions("t") == ()


def test_a_decision_that_another_process_made_stale_is_taken_again(
    played: PlayedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    played.submit("worse", "SCORE = 2.0\n")
    collisions = [True]
    apply = played.space.ledger.decisions.apply

    def collide(*arguments: object, **more: object) -> None:
        if collisions:
            collisions.pop()
            raise LedgerProblem("c0002 is not open any more")
        apply(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(played.space.ledger.decisions, "apply", collide)
    played.run()
    assert played.state("worse") is CandidateState.DISCARDED
