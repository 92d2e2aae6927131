"""A search from its first ask to its claim: budgets, supply, troubles, ends and restarts, on a virtual clock."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from scheduler.domain.candidate import CandidateState, Origin
from scheduler.domain.decision import PRESETS
from scheduler.domain.errors import LabProblem, PoolProblem, UsageProblem
from scheduler.domain.run import Finished, RunKind
from scheduler.domain.search import ProposalState, SearchSettings, SearchState
from scheduler.domain.text import count
from scheduler.lab import Live, write_live
from scheduler.queue.runtime import SchedulerLock, StopReason
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.ledger_kit import broken_invariants
from tests.scheduler.memory_pool import memory_slots
from tests.scheduler.search_kit import SearchLab, idea, press, scores, settings

OF_IDEAS = (RunKind.NEW, RunKind.REPEAT, RunKind.UNION)


@pytest.fixture
def lab(tmp_path: Path) -> SearchLab:
    return SearchLab(tmp_path)


def test_a_search_promotes_what_is_better_and_ends_with_a_claim_on_fresh_runs(lab: SearchLab) -> None:
    ended = lab.search(settings(runs=12), lab.fake(scores(2.0, 1.7, 2.1, 1.95)))
    assert (ended.ending, ended.state) == (StopReason.DONE, SearchState.ENDED)
    (promotion,) = lab.space.ledger.decisions.promotions("t")
    promoted = lab.candidate(promotion.candidate_id)
    assert promoted.origin is Origin.PROPOSED and promoted.proposer == "fake" and promoted.round == 1
    (claim,) = lab.claims
    assert (claim.first_id, claim.final_id) == ("c0001", promoted.id)
    assert len(claim.first_scores) == len(claim.final_scores) == 2
    assert claim.diff == pytest.approx(-0.2, abs=0.01) and claim.excludes_zero
    assert all(not standing.state.undecided for standing in lab.space.ledger.board("t").standings)
    assert not broken_invariants(lab.space.paths.ledger)


def test_a_budget_of_runs_is_met_exactly_and_the_claim_comes_on_top(lab: SearchLab) -> None:
    lab.search(settings(runs=10), lab.fake(idea(1.95)))
    assert len(lab.finished(*OF_IDEAS)) == 10 and len(lab.finished()) == 13, "the first baseline's come on top"
    assert not lab.runs(RunKind.CLAIM)  # nothing was promoted: nothing to claim
    (claim,) = lab.claims
    assert claim.first_id == claim.final_id == "c0001" and not claim.first_scores and not claim.excludes_zero
    assert all(one.state is not ProposalState.ASKED for one in lab.proposals)


def test_no_idea_is_asked_for_that_a_budget_of_runs_could_not_measure(lab: SearchLab) -> None:
    lab.search(settings(runs=10), lab.fake(idea(1.95)))
    assert not [c for c in lab.space.ledger.candidates.list("t") if c.state is CandidateState.CANCELLED]
    assert len([one for one in lab.proposals if one.state is ProposalState.QUEUED]) == 10


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("queued", [0, 2])
def test_a_small_budget_of_runs_buys_ideas_whatever_was_queued_before(lab: SearchLab, runs: int, queued: int) -> None:
    for number in range(queued):
        lab.submit(f"earlier-{number}", f"SCORE = 2.1\nIDEA = {number}\n")
    lab.clock.advance(1.0)
    fake = lab.fake(idea(1.95), latency=lambda ask: 90.0)
    ended = lab.search(settings(runs=runs), fake)
    assert f"{runs} of {count(runs, 'run')}" in ended.reason
    assert len([one for one in lab.proposals if one.state is ProposalState.QUEUED]) == runs
    assert len(lab.finished(*OF_IDEAS)) == runs + queued and len(lab.finished(RunKind.BASELINE)) == 3
    assert not lab.screen.said("claim     first and final"), "there is nothing to claim"


def test_the_only_idea_cancelled_by_hand_ends_a_small_search(lab: SearchLab) -> None:
    def cancel() -> None:
        for one in lab.proposals:
            if one.candidate_id and lab.clock() < 1018:
                lab.space.ledger.candidates.cancel(one.candidate_id, "by hand")

    lab.each_round = cancel
    lab.search(settings(runs=1), lab.fake(idea(1.95), latency=lambda ask: 1.0))
    assert lab.space.ledger.searches.list("t")[0].state is SearchState.ENDED


def test_what_is_submitted_meanwhile_does_not_cost_the_one_idea(lab: SearchLab) -> None:
    def submit_first() -> None:
        if not any(c.name == "mine" for c in lab.space.ledger.candidates.list("t")):
            lab.submit("mine", "SCORE = 2.2\n")

    lab.each_round = submit_first
    lab.search(settings(runs=1), lab.fake(idea(1.95), latency=lambda ask: 200.0))
    assert [one.state for one in lab.proposals] == [ProposalState.QUEUED]
    assert len(lab.finished(*OF_IDEAS)) == 2


def test_a_budget_of_time_leaves_room_for_the_claim(tmp_path: Path) -> None:
    lab = SearchLab(tmp_path, slots=2)
    made = iter(range(10**6))
    answer = lambda ask: idea(1.95 if next(made) else 1.7)(ask)  # noqa: E731
    begun_at = lab.clock()
    lab.search(settings(hours=0.2, claim_runs=2), lab.fake(answer))
    (claim,) = lab.claims
    assert len(claim.first_scores) == len(claim.final_scores) == 2
    assert 0.15 * 3600 < lab.clock() - begun_at < 0.21 * 3600


def test_rounds_of_ideas_are_all_measured_and_label_the_candidates(lab: SearchLab) -> None:
    fake = lab.fake(idea(1.95))
    lab.search(settings(rounds=3, ideas=4), fake)
    made = [c for c in lab.space.ledger.candidates.list("t") if c.origin is Origin.PROPOSED]
    assert [c.round for c in made] == [1] * 4 + [2] * 4 + [3] * 4
    assert all(c.state is CandidateState.DISCARDED for c in made)
    assert len(fake.asks) == 12


def test_a_target_ends_the_search_once_two_runs_agree(lab: SearchLab) -> None:
    ended = lab.search(settings(target_bpb=1.75, runs=100), lab.fake(scores(1.7, *[2.0] * 50)))
    assert "the target was 1.75" in ended.reason
    board = lab.space.ledger.board("t")
    assert board.baseline.n >= 2 and len(lab.finished(*OF_IDEAS)) < 20


def test_ideas_that_never_began_are_cancelled_at_the_end_and_running_ones_decided(tmp_path: Path) -> None:
    lab = SearchLab(tmp_path)
    fake = lab.fake(idea(1.95))
    lab.search(settings(hours=0.05, backlog=6, claim_runs=1), fake)
    states = [c.state for c in lab.space.ledger.candidates.list("t") if c.origin is Origin.PROPOSED]
    assert CandidateState.CANCELLED in states
    assert set(states) <= {CandidateState.CANCELLED, CandidateState.DISCARDED}
    assert lab.screen.said("that had not begun")


def test_open_asks_are_stopped_when_the_budget_is_over(lab: SearchLab) -> None:
    fake = lab.fake(idea(1.95), latency=lambda ask: 5.0 if ask.seed < 8 else 10_000.0)
    lab.search(settings(hours=0.1), fake)
    assert fake.closed
    assert {one.trouble for one in lab.proposals if one.state is ProposalState.FAILED} == {"stopped"}


def test_a_second_search_begins_from_the_baseline_of_the_first_and_claims_from_the_labs_first(lab: SearchLab) -> None:
    lab.search(settings(runs=8), lab.fake(scores(1.8)))
    lab.search(settings(runs=8), lab.fake(scores(1.6), name="fake"))
    first, second = lab.claims
    assert (first.final_id, second.first_id) == ("c0002", "c0001")
    assert second.diff < first.diff < 0
    assert not set(first.first_scores) & set(second.first_scores) or len(lab.runs(RunKind.CLAIM)) == 8
    assert [search.number for search in lab.space.ledger.searches.list("t")] == [1, 2]


def test_without_words_an_ended_search_is_left_alone(lab: SearchLab) -> None:
    lab.search(settings(runs=6), lab.fake(idea(1.95)))
    ended = lab.search(None)
    assert ended.nothing_to_do and ended.number is None and "search 1 is over" in ended.reason
    assert lab.connected == 1


@pytest.mark.parametrize("wanted", [None, settings(), settings(ideas=4)])
def test_a_search_without_a_budget_is_refused(lab: SearchLab, wanted: SearchSettings | None) -> None:
    with pytest.raises(UsageProblem, match="needs a budget"):
        lab.search(wanted)
    assert not lab.space.ledger.searches.list("t")


def test_the_lab_gets_no_union_under_a_rule_that_combines_nothing(lab: SearchLab) -> None:
    lab.space.ledger.labs.set_gates("t", PRESETS["greedy"])
    with pytest.raises(UsageProblem, match="merges nothing"):
        lab.search(settings("union", runs=3))


def test_what_is_submitted_meanwhile_is_served_like_ideas(lab: SearchLab) -> None:
    def submit_once() -> None:
        if lab.clock() > 1050 and not any(c.name == "mine" for c in lab.space.ledger.candidates.list("t")):
            lab.submit("mine", "SCORE = 1.6\n")

    lab.each_round = submit_once
    lab.search(settings(runs=14), lab.fake(idea(1.95)))
    assert lab.state("mine") is CandidateState.BASELINE
    assert lab.claims[0].final_id == lab.candidate("mine").id


def test_what_is_submitted_during_the_claim_is_run_after_it(lab: SearchLab) -> None:
    def submit_late() -> None:
        if lab.runs(RunKind.CLAIM) and not any(c.name == "late" for c in lab.space.ledger.candidates.list("t")):
            lab.submit("late", "SCORE = 2.1\n")

    lab.each_round = submit_late
    lab.search(settings(runs=6), lab.fake(scores(1.7)))
    (late,) = [run for run in lab.runs(RunKind.NEW) if run.candidate_id == lab.candidate("late").id]
    assert isinstance(late.state, Finished)
    assert all(state.finished_at <= late.state.started_at for state in lab.finished(RunKind.CLAIM))
    assert lab.state("late") is CandidateState.DISCARDED


def test_pausing_finishes_what_runs_and_leaves_resuming_goes_on_with_the_same_search(lab: SearchLab) -> None:
    def pause_once() -> None:
        if 1070 < lab.clock() < 1075:
            lab.space.ledger.labs.pause("t", "the slots are needed")

    lab.each_round = pause_once
    fake = lab.fake(idea(1.95))
    ended = lab.search(settings(runs=12), fake)
    assert ended.ending is StopReason.PAUSED and ended.nothing_to_do and ended.state is SearchState.RUNNING
    assert not lab.space.ledger.runs.running("t") and fake.closed
    assert not [at for at in fake.asked_at if at > 1075]
    assert lab.screen.said("paused: ")
    again = lab.search(None, lab.fake(idea(1.95)))
    assert again.ending is StopReason.PAUSED and lab.connected == 1
    assert lab.run() is StopReason.PAUSED
    lab.space.ledger.labs.resume("t")
    assert lab.search(None, lab.fake(idea(1.95))).state is SearchState.ENDED
    assert len(lab.finished(*OF_IDEAS)) == 12


def test_a_pause_that_is_over_before_the_runs_are_is_only_a_rest(lab: SearchLab) -> None:
    def blink() -> None:
        if lab.clock() == 1045:
            lab.space.ledger.labs.pause("t", "")
        if lab.clock() == 1050:
            lab.space.ledger.labs.resume("t")

    lab.each_round = blink
    assert lab.search(settings(runs=12), lab.fake(idea(1.95))).state is SearchState.ENDED
    assert lab.screen.said("resumed")


def test_paused_time_and_time_without_a_scheduler_are_not_hours(lab: SearchLab) -> None:
    press(lab, {1100.0: signal.SIGINT})
    lab.search(settings(hours=0.2), lab.fake(idea(1.95)))
    active_s = lab.space.ledger.searches.list("t")[0].active_s
    assert 90 <= active_s <= 125
    lab.clock.advance(50_000)
    lab.each_round = lambda: None
    lab.search(None, lab.fake(idea(1.95)))
    (search,) = lab.space.ledger.searches.list("t")
    assert search.state is SearchState.ENDED and search.active_s < 0.22 * 3600


def test_ctrl_c_once_finishes_what_runs_and_the_search_goes_on_at_the_next_start(lab: SearchLab) -> None:
    press(lab, {1050.0: signal.SIGINT})
    fake = lab.fake(idea(1.95), latency=lambda ask: 15.0)
    ended = lab.search(settings(runs=12), fake)
    assert (ended.ending, ended.state) == (StopReason.INTERRUPTED, SearchState.RUNNING)
    assert not lab.space.ledger.runs.running("t") and fake.closed and not lab.claims
    assert not [one for one in lab.proposals if one.state is ProposalState.ASKED]
    assert lab.search(None, lab.fake(idea(1.95))).state is SearchState.ENDED
    assert len(lab.finished(*OF_IDEAS)) == 12
    assert {run.attempts for run in lab.runs() if isinstance(run.state, Finished)} == {1}


def test_ctrl_c_twice_stops_what_runs_uncounted(lab: SearchLab) -> None:
    press(lab, {1050.0: signal.SIGINT, 1052.0: signal.SIGINT})
    ended = lab.search(settings(runs=12), lab.fake(idea(1.95)))
    assert ended.ending is StopReason.INTERRUPTED and lab.clock() < 1056
    assert len(lab.pool.stopped) == 2
    lab.each_round = lambda: None
    assert lab.search(None, lab.fake(idea(1.95))).state is SearchState.ENDED
    assert len(lab.finished(*OF_IDEAS)) == 12


def test_a_stop_file_is_ctrl_c_once_and_a_stale_one_is_removed_with_a_note(lab: SearchLab) -> None:
    lab.space.paths.stop.touch()

    def stop_once() -> None:
        if lab.clock() == 1050:
            lab.space.paths.stop.touch()

    lab.each_round = stop_once
    ended = lab.search(settings(runs=12), lab.fake(idea(1.95)))
    assert lab.screen.said("left behind") and lab.finished()
    assert ended.ending is StopReason.STOPPED and not lab.space.paths.stop.exists()
    assert not lab.space.ledger.runs.running("t")
    assert lab.search(None, lab.fake(idea(1.95))).state is SearchState.ENDED


def test_ctrl_c_after_a_stop_file_is_an_interruption(lab: SearchLab) -> None:
    press(lab, {1052.0: signal.SIGINT})
    pressed = lab.each_round

    def stop_then_press() -> None:
        if lab.clock() == 1050:
            lab.space.paths.stop.touch()
        pressed()

    lab.each_round = stop_then_press
    assert lab.search(settings(runs=12), lab.fake(idea(1.95))).ending is StopReason.INTERRUPTED


def test_new_words_change_a_search_that_goes_on_and_say_so(lab: SearchLab) -> None:
    press(lab, {1050.0: signal.SIGINT})
    lab.search(settings(runs=100), lab.fake(idea(1.95)))
    lab.search(settings("other", runs=8, backlog=1), lab.fake(idea(1.96), name="other"))
    (search,) = lab.space.ledger.searches.list("t")
    assert search.settings.budget.runs == 8 and search.settings.backlog == 1
    assert [choice.name for choice in search.settings.proposers] == ["other"]
    assert lab.screen.said("budget: 8 runs (was 100 runs)") and lab.screen.said("proposers: other (was fake)")
    assert len(lab.finished(*OF_IDEAS)) == 8


def test_a_search_waits_for_whoever_runs_the_queue(lab: SearchLab) -> None:
    other = SchedulerLock(lab.space.paths.scheduler_lock)
    assert other.try_take()
    write_live(lab.space.paths.live, Live(lab.clock(), 4711, "t", "memory", 0, False, ()))
    lab.each_round = lambda: other.release() if lab.clock() > 1005 else None
    assert lab.search(settings(runs=6), lab.fake(idea(1.95))).state is SearchState.ENDED
    assert lab.screen.said("pid 4711") and lab.screen.said("begins when it has ended")


def test_a_search_that_is_run_already_is_not_waited_for(lab: SearchLab) -> None:
    other = SchedulerLock(lab.space.paths.scheduler_lock)
    assert other.try_take()
    write_live(lab.space.paths.live, Live(lab.clock(), 4711, "t", "memory", 0, False, (), search=1))
    with pytest.raises(LabProblem, match="search 1 of lab 't' is run by another arsched"):
        lab.search(settings(runs=6), lab.fake(idea(1.95)))
    other.release()


def test_no_slot_loses_nothing_and_closes_the_proposers(tmp_path: Path) -> None:
    lab = SearchLab(tmp_path, slots=[])  # type: ignore[arg-type]
    fake = lab.fake(idea(1.95))
    with pytest.raises(PoolProblem):
        lab.search(settings(runs=6), fake)
    assert fake.closed and not fake.asks
    lab.pool.add_slot(memory_slots(1)[0])
    assert lab.search(None, lab.fake(idea(1.95))).state is SearchState.ENDED


def test_the_live_file_says_how_many_ideas_are_being_written(lab: SearchLab) -> None:
    lab.search(settings(runs=8), lab.fake(idea(1.95), latency=lambda ask: 40.0))
    notes = {live.note for live in lab.screen.shown}
    assert {live.search for live in lab.screen.shown} == {1}
    assert any("being written" in note for note in notes)
