"""Promotions: commit, ledger and branch agree in the end, wherever a crash, an edit or a person comes between."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.actions.promote import promote_by_hand
from scheduler.domain.candidate import CandidateState
from scheduler.domain.errors import LabProblem, LedgerProblem, NotYet, UsageProblem
from scheduler.queue.promotion import follow_ledger
from tests.scheduler.git_kit import git, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import Night
from tests.scheduler.ledger_kit import broken_invariants


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def branch_at(night: Night) -> str | None:
    return night.space.repo.branch_commit(night.space.lab.branch)


class Crash(Exception):
    """The process ends here."""


def test_a_crash_between_ledger_and_branch_is_healed_by_the_next_run(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.submit("better", "SCORE = 1.7\n")
    first = branch_at(night)

    def crash(*_: object) -> str:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("scheduler.queue.deciding.follow_ledger", crash)
        with pytest.raises(Crash):
            night.run()
    assert branch_at(night) == first and night.state("better") is CandidateState.BASELINE
    night.run()
    (made,) = night.space.ledger.decisions.promotions("t")
    assert branch_at(night) == made.commit
    assert not broken_invariants(night.space.paths.ledger)


def test_a_crash_before_the_ledger_leaves_nothing_and_the_promotion_happens_once(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.submit("better", "SCORE = 1.7\n")

    def crash(*_: object, **__: object) -> str:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(night.space.ledger.decisions, "apply", crash)
        with pytest.raises(Crash):
            night.run()
    assert night.state("better") is CandidateState.OPEN
    night.run()
    assert len(night.space.ledger.decisions.promotions("t")) == 1


def test_a_branch_that_was_deleted_comes_back(night: Night) -> None:
    night.submit("better", "SCORE = 1.7\n")
    night.run()
    at = branch_at(night)
    git(night.space.repo.root, "branch", "-D", night.space.lab.branch)
    follow_ledger(night.space)
    assert branch_at(night) == at


def test_a_checkout_of_the_branch_follows_when_clean(night: Night) -> None:
    root = night.space.repo.root
    git(root, "switch", "-q", night.space.lab.branch)
    night.submit("better", "SCORE = 1.7\n")
    night.run()
    assert (root / "train.py").read_text() == "SCORE = 1.7\n"
    assert git(root, "status", "--porcelain") == ""


def test_an_edit_in_the_checkout_is_kept_and_the_lab_goes_on_without_the_branch(night: Night) -> None:
    root = night.space.repo.root
    git(root, "switch", "-q", night.space.lab.branch)
    (root / "train.py").write_text("SCORE = 9  # mine\n")
    night.submit("better", "SCORE = 1.7\n")
    night.submit("best", "SCORE = 1.5\n")
    night.run()
    assert (root / "train.py").read_text() == "SCORE = 9  # mine\n"
    assert night.screen.said("did not move")
    promotions = night.space.ledger.decisions.promotions("t")
    git(root, "checkout", "-q", "--", "train.py")
    night.run()
    assert branch_at(night) == promotions[-1].commit
    assert (root / "train.py").read_text() == "SCORE = 1.5\n"


def test_a_branch_somebody_moved_is_left_where_it_is(night: Night) -> None:
    root = night.space.repo.root
    elsewhere = git(root, "rev-parse", "main").strip()
    git(root, "update-ref", f"refs/heads/{night.space.lab.branch}", elsewhere)
    night.submit("better", "SCORE = 1.7\n")
    night.run()
    assert branch_at(night) == elsewhere
    assert night.state("better") is CandidateState.BASELINE
    with pytest.raises(LabProblem, match="somebody moved the branch"):
        follow_ledger(night.space)


def test_promotions_stack_up_on_one_another(night: Night) -> None:
    for number, score in enumerate((1.7, 1.5, 1.3)):
        night.submit(f"step-{number}", f"SCORE = {score}\n")
        night.run()
    commits = [made.commit for made in night.space.ledger.decisions.promotions("t")]
    listed = git(night.space.repo.root, "rev-list", "--reverse", night.space.lab.branch).split()
    assert listed[-3:] == commits and listed[-4] == night.candidate("baseline").commit


def test_by_hand_a_dropped_candidate_becomes_the_baseline_with_its_effect_on_record(night: Night) -> None:
    night.submit("simpler", "SCORE = 1.91\n")
    night.run()
    assert night.state("simpler") is CandidateState.DISCARDED
    said = promote_by_hand(night.space, "simpler")
    assert night.state("simpler") is CandidateState.BASELINE
    (made,) = night.space.ledger.decisions.promotions("t")
    assert made.commit == said.commit == branch_at(night)
    assert made.effect.diff > 0 and "by hand" in made.sentence
    night.run()
    assert len(night.space.ledger.board("t").baseline.scores) == 2
    assert not broken_invariants(night.space.paths.ledger)


def test_by_hand_dry_run_changes_nothing(night: Night) -> None:
    night.submit("simpler", "SCORE = 1.91\n")
    night.run()
    assert promote_by_hand(night.space, "last", dry_run=True).commit == ""
    assert night.state("simpler") is CandidateState.DISCARDED


def test_by_hand_without_a_trusted_score_is_refused(night: Night) -> None:
    night.submit("crash", "STATUS = 'crash'\n")
    night.submit("doubt", "STATUS = 'suspect: too good'\nSCORE = 1.95\n")
    night.run()
    for ref in ("crash", "doubt", "baseline"):
        with pytest.raises(NotYet):
            promote_by_hand(night.space, ref)
    with pytest.raises(UsageProblem, match="no candidate 'doub'"):
        promote_by_hand(night.space, "doub")
    assert night.space.ledger.decisions.promotions("t") == ()


def test_a_decision_that_another_process_made_stale_is_taken_again(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.submit("worse", "SCORE = 2.0\n")
    collisions = [True]
    apply = night.space.ledger.decisions.apply

    def collide(*arguments: object, **more: object) -> None:
        if collisions:
            collisions.pop()
            raise LedgerProblem("c0002 is not open any more")
        apply(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(night.space.ledger.decisions, "apply", collide)
    night.run()
    assert night.state("worse") is CandidateState.DISCARDED
