"""Ideas reach the queue in time and in bounds; a proposer's troubles stay its own; nothing is measured twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from scheduler.domain.candidate import Origin
from scheduler.domain.errors import ProposerProblem
from scheduler.domain.run import Finished, Queued, RunKind
from scheduler.domain.search import (
    Answer,
    Ask,
    NoIdea,
    Proposal,
    ProposalFailure,
    ProposalState,
    Proposed,
    SearchState,
    SeveralIdeas,
)
from scheduler.queue.runtime import StopReason
from scheduler.search.session import run_search
from tests.scheduler.git_kit import git, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import RUN_S
from tests.scheduler.ledger_kit import broken_invariants
from tests.scheduler.search_kit import BrokenProposer, SearchLab, idea, scores, settings, trouble


@pytest.fixture
def lab(tmp_path: Path) -> SearchLab:
    return SearchLab(tmp_path)


def of(lab: SearchLab, name: str) -> list[Proposal]:
    return [one for one in lab.proposals if one.proposer == name]


@pytest.mark.parametrize(("slots", "backlog", "latency_s"), [(2, None, 0.0), (2, 1, 15.0), (3, 5, 70.0), (1, 1, 3.0)])
def test_asks_and_queued_ideas_stay_bounded(tmp_path: Path, slots: int, backlog: int | None, latency_s: float) -> None:
    lab = SearchLab(tmp_path, slots)
    fake = lab.fake(idea(1.95), latency=lambda ask: latency_s, capacity=50)
    deepest = 0

    def look() -> None:
        nonlocal deepest
        waiting = sum(isinstance(run.state, Queued) and run.kind is RunKind.NEW for run in lab.runs())
        deepest = max(deepest, waiting)
        assert waiting + len(fake._open) <= (backlog or slots) + slots

    lab.each_round = look
    lab.search(settings(runs=16, backlog=backlog), fake)
    assert deepest >= min(1, backlog or slots)


def test_slots_never_idle_while_ideas_come_in_time(tmp_path: Path) -> None:
    lab = SearchLab(tmp_path, slots=4)
    lab.search(settings(runs=40), lab.fake(idea(1.95), latency=lambda ask: 12.0))
    states = lab.finished(*(kind for kind in RunKind if kind is not RunKind.CLAIM))
    begun, over = min(s.started_at for s in states), max(s.finished_at for s in states)
    busy = sum(state.finished_at - state.started_at for state in states)
    assert busy / (4 * (over - begun)) > 0.85  # a round is a second, a run twenty


def test_ideas_are_asked_for_while_the_first_baseline_is_still_measured(lab: SearchLab) -> None:
    fake = lab.fake(idea(1.95))
    lab.search(settings(runs=8), fake)
    assert fake.asked_at[0] == 1000.0


def test_an_ask_holds_the_baseline_its_commit_and_every_trial_so_far(lab: SearchLab) -> None:
    fake = lab.fake(scores(1.7, *[2.0] * 20), capacity=1)
    lab.search(settings(runs=14, seed=3), fake)
    first, last = fake.asks[0], fake.asks[-1]
    assert (first.base_id, first.train_py) == ("c0001", b"SCORE = 1.9\n")
    assert first.base_commit == lab.candidate("c0001").commit
    assert "val_bpb" in first.brief and "c0002" in last.brief and "c0002" not in first.brief
    assert [trial.candidate_id for trial in first.trials] == ["c0001"] and first.trials[0].pending
    assert (last.base_id, last.train_py) == ("c0002", b"SCORE = 1.7\nIDEA = 300009\n")
    assert last.base_commit == lab.space.baseline_commit() != lab.candidate("c0002").commit
    assert len({ask.seed for ask in fake.asks}) == len(fake.asks)
    by_id = {trial.candidate_id: trial for trial in last.trials}
    assert by_id["c0002"].val_bpb == pytest.approx(1.7, abs=0.01) and by_id["c0002"].proposer == "fake"
    assert by_id["c0002"].base_id == "c0001" and not by_id["c0003"].pending


def test_a_candidate_of_a_proposer_is_a_commit_on_its_base_with_its_words(lab: SearchLab) -> None:
    def answer(ask: Ask) -> Answer:
        source = f"SCORE = 2.0\nIDEA = {ask.seed}\n".encode()
        return Proposed(ask.id, source, "Wider MLP: 4 → 6\n\x1b[31mred", "more\x07 room", "width", ("c0001",), "log")

    lab.search(settings(runs=5), lab.fake(answer))
    made = lab.candidate("c0002")
    assert (made.name, made.title) == ("wider-mlp-4-6-red", "Wider MLP: 4 → 6 red")
    assert (made.hypothesis, made.theme, made.author) == ("more room", "width", "fake")
    assert made.code_lines == 2 and made.origin is Origin.PROPOSED
    root = lab.space.repo.root
    assert git(root, "rev-parse", f"{made.commit}~1").strip() == lab.candidate("c0001").commit
    assert git(root, "rev-parse", f"refs/arsched/t/{made.id}").strip() == made.commit
    message = git(root, "log", "-1", "--format=%B", made.commit)
    for trailer in ("Proposer: fake", "Proposal: p0001", "Builds-on: c0001", "Theme: width", "Hypothesis: more room"):
        assert trailer in message
    assert lab.candidate("c0003").name == "wider-mlp-4-6-red-2"


@pytest.mark.parametrize(
    ("title", "name"),
    [("", "idea"), ("c0007", "idea-c0007"), ("last", "idea-last"), ("../../etc", "etc"), ("ÄÖ 12", "idea-12"),
     ("x" * 300, "x" * 40), ("r12", "idea-r12")],
)  # fmt: skip
def test_names_are_safe_whatever_the_title_says(lab: SearchLab, title: str, name: str) -> None:
    lab.search(settings(runs=4), lab.fake(lambda ask: Proposed(ask.id, f"A = {ask.seed}\n".encode(), title)))
    assert lab.candidate("c0002").name == name


def test_shares_follow_the_weights_whatever_the_latencies(lab: SearchLab) -> None:
    slow = lab.fake(idea(1.95), name="slow", latency=lambda ask: 25.0)
    quick = lab.fake(idea(1.96), name="quick")
    lab.search(settings("slow:1", "quick:3", runs=43), slow, quick)
    made = Counter(one.proposer for one in lab.proposals if one.state is ProposalState.QUEUED)
    assert made["slow"] == pytest.approx(10, abs=2) and made["quick"] == pytest.approx(30, abs=2)


def test_a_failing_proposer_rests_longer_and_longer_is_given_up_and_the_others_go_on(lab: SearchLab) -> None:
    bad = lab.fake(trouble(), name="bad", capacity=1)
    good = lab.fake(idea(1.95), name="good", capacity=1, latency=lambda ask: 4.0)
    ended = lab.search(settings("bad:9", "good:1", runs=80), bad, good)
    assert ended.state is SearchState.ENDED and "80 of 80 runs" in ended.reason
    pauses = [later - before for before, later in zip(bad.asked_at, bad.asked_at[1:], strict=False)]
    rests = [5, 10, 20, 40, 80, 160, 320]
    assert len(bad.asks) == 8
    assert all(rest <= pause <= rest + RUN_S for rest, pause in zip(rests, pauses, strict=True))
    assert len(lab.screen.said("bad rests")) == 1 and len(lab.screen.said("bad is not asked any more")) == 1
    assert all(one.state is not ProposalState.FAILED for one in of(lab, "good"))


def test_failures_of_one_burst_are_one_trouble(lab: SearchLab) -> None:
    calls = Counter[str]()

    def answer(ask: Ask) -> Answer:
        calls["asks"] += 1
        return trouble()(ask) if calls["asks"] <= 12 else idea(1.95)(ask)

    ended = lab.search(settings(runs=12, backlog=4), lab.fake(answer, capacity=4, latency=lambda ask: 2.0))
    assert "12 of 12 runs" in ended.reason
    assert not lab.screen.said("not asked any more")


def test_an_idea_between_makes_the_troubles_forgotten(lab: SearchLab) -> None:
    answers = iter(range(10**6))
    flaky = lab.fake(lambda ask: (trouble() if next(answers) % 4 else idea(1.95))(ask), capacity=1)
    ended = lab.search(settings(runs=12), flaky)
    assert "12 of 12 runs" in ended.reason


def test_one_that_has_brought_ideas_is_waited_for(lab: SearchLab) -> None:
    """Three ideas, then nothing for a while, as with an agent at its usage limit."""
    back_at = lab.clock() + 2400.0

    def answer(ask: Ask) -> Answer:
        return (idea(1.95) if len(lab.proposals) <= 3 or lab.clock() > back_at else trouble())(ask)

    ended = lab.search(settings(runs=12), lab.fake(answer, capacity=1))
    assert "12 of 12 runs" in ended.reason and not lab.screen.said("is not asked any more")
    assert len(lab.screen.said("fake rests")) == 1


def test_one_that_only_repeats_itself_is_given_up_soon(lab: SearchLab) -> None:
    answers = iter(range(10**6))
    stuck = lab.fake(lambda ask: Proposed(ask.id, f"A = {min(3, next(answers))}\n".encode(), "again"), capacity=1)
    ended = lab.search(settings(runs=40), stuck)
    assert "no proposer is left to ask: fake: 8 troubles in a row, the last: only repeats" in ended.reason


def test_a_proposer_that_cannot_begin_is_given_up_and_every_ask_is_answered(lab: SearchLab) -> None:
    broken = BrokenProposer(lab.clock, idea(1.95), name="broken")
    ended = lab.search(settings("broken", runs=9), broken)
    assert ended.ending is StopReason.DONE and "no proposer is left to ask: broken: 8 troubles in a row" in ended.reason
    assert {one.state for one in lab.proposals} == {ProposalState.FAILED} and len(lab.proposals) == 8
    assert "the command is not there" in lab.proposals[0].reason
    assert lab.claims and not lab.claims[0].first_scores


@pytest.mark.parametrize("method", ["ask", "poll", "close"])
def test_a_plug_in_with_a_defect_fails_alone(lab: SearchLab, method: str) -> None:
    broken = lab.fake(idea(1.96), name="broken")

    def fail(*_: object) -> None:
        raise KeyError("its own bug")

    setattr(broken, method, fail)
    ended = lab.search(settings("broken", "good", runs=20), broken, lab.fake(idea(1.95), name="good"))
    assert "20 of 20 runs" in ended.reason
    assert lab.screen.said("its own bug")
    assert all(one.state is not ProposalState.ASKED for one in lab.proposals)


def test_when_all_are_exhausted_the_search_ends_with_its_claim(lab: SearchLab) -> None:
    one, two = lab.fake(scores(1.7), name="one"), lab.fake(scores(2.0, 2.1), name="two")
    ended = lab.search(settings("one", "two", runs=500), one, two)
    assert ended.state is SearchState.ENDED
    assert "one: that was all" in ended.reason and "two: that was all" in ended.reason
    assert lab.claims[0].final_scores


def test_unions_alone_may_be_a_search_and_end_at_once_when_there_is_nothing_to_merge(lab: SearchLab) -> None:
    ended = lab.search(settings("union", runs=50))
    assert ended.state is SearchState.ENDED and "nothing on the shelf" in ended.reason
    assert len(lab.finished()) == 3


def test_an_exact_repeat_is_answered_from_the_ledger(lab: SearchLab) -> None:
    def answer(ask: Ask) -> Answer:
        number = ask.seed // 2  # every program twice, the second time with other words in it
        comment = "" if ask.seed % 2 else "# another comment\n"
        return Proposed(ask.id, f"{comment}SCORE = 2.0\nIDEA = {number}\n".encode(), f"idea {number}")

    lab.search(settings(runs=10), lab.fake(answer))
    candidates = lab.space.ledger.candidates.list("t")
    assert len({c.fingerprint for c in candidates}) == len(candidates) == 11
    known = [one for one in lab.proposals if one.state is ProposalState.KNOWN]
    assert len(known) >= 9 and all(one.candidate_id for one in known)
    assert len(lab.finished()) == 13
    assert lab.screen.said("the same program as c0002 idea-0")


def test_the_baseline_again_is_known_and_only_repeats_make_a_proposer_rest(lab: SearchLab) -> None:
    repeating = lab.fake(lambda ask: Proposed(ask.id, ask.train_py, "nothing new"), name="parrot", capacity=1)
    ended = lab.search(settings("parrot", runs=9), repeating)
    assert "only repeats" in ended.reason
    assert {one.candidate_id for one in lab.proposals} == {"c0001"}
    assert len(lab.proposals) == 2 + 8


@pytest.mark.parametrize(
    ("source", "words"),
    [(b"def broken(:\n", "does not parse"), (b"", "empty"), (b"\xff\xfe", "UTF-8"), (b"A = 1\n" * 40_000, "limit")],
)
def test_a_bad_source_is_refused_with_a_reason_the_next_ask_can_read(lab: SearchLab, source: bytes, words: str) -> None:
    def answer(ask: Ask) -> Answer:
        return Proposed(ask.id, source, "bad") if ask.seed == 0 else idea(1.95)(ask)

    lab.search(settings(runs=6), lab.fake(answer))
    refused = lab.proposals[0]
    assert (refused.state, refused.trouble) == (ProposalState.FAILED, "refused")
    assert words in refused.reason and refused.title == "bad"
    assert lab.screen.said("refused: ")


def test_what_a_proposer_says_cannot_move_the_cursor(lab: SearchLab) -> None:
    nasty = "\x1b[2Jclear\r\nline two\u202e"
    lab.search(settings(runs=4), lab.fake(lambda ask: NoIdea(ask.id, ProposalFailure.CRASHED, nasty, nasty)))
    assert all(one.reason == "clear line two" for one in lab.proposals)
    assert not [line for line in lab.screen.lines if "\x1b" in line or "\n" in line]


def test_answers_no_one_asked_for_are_ignored(lab: SearchLab) -> None:
    class Chatty(type(lab.fake(idea(1.95)))):  # type: ignore[misc]
        def poll(self) -> tuple[Answer, ...]:
            mine = super().poll()
            return (*mine, *mine, Proposed("p9999", b"A = 1\n", "uninvited"))

    lab.search(settings(runs=6), Chatty(lab.clock, idea(1.95)))
    assert not any(c.title == "uninvited" for c in lab.space.ledger.candidates.list("t"))
    assert len([one for one in lab.proposals if one.state is ProposalState.QUEUED]) == len(lab.runs(RunKind.NEW))
    assert all(isinstance(run.state, Finished) for run in lab.runs())


def test_a_plug_in_goes_by_the_name_it_was_chosen_by(lab: SearchLab) -> None:
    fake = lab.fake(idea(1.95), name="mine")
    fake.name = "what its author calls it"
    run_search(lab.space, lab.screen, lab.means, settings("mine", runs=6), {"mine": fake})
    assert {one.proposer for one in lab.proposals} == {"mine"} and lab.candidate("c0002").proposer == "mine"


def test_trouble_of_git_is_no_refusal_of_the_idea_and_leaves_no_half_candidate(lab: SearchLab) -> None:
    left = lab.space.repo.root / ".git" / "refs" / "arsched" / "t" / "c0002.lock"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.touch()

    def answer(ask: Ask) -> Answer:
        if any(one.trouble for one in lab.proposals):
            left.unlink(missing_ok=True)
        return idea(1.9)(ask)

    lab.search(settings(runs=5, claim_runs=0), lab.fake(answer, capacity=1))
    failed = [one for one in lab.proposals if one.trouble]
    assert failed and {one.trouble for one in failed} == {ProposalFailure.CRASHED}
    assert "c0002.lock" in failed[0].reason
    candidates = lab.space.ledger.candidates.list("t")
    assert len(candidates) > 1 and not broken_invariants(lab.space.paths.ledger)
    assert {one.candidate_id for one in lab.proposals if not one.trouble} == {one.id for one in candidates[1:]}


def batch(ask: Ask) -> Answer:
    """As many ideas as wanted; of four the third is refused and the fourth a repeat of the first."""
    ideas: list[Proposed | NoIdea] = [
        Proposed(ask.id, f"SCORE = 1.95\nIDEA = {ask.seed * 100 + n}\n".encode(), f"idea {ask.seed}.{n}")
        for n in range(ask.ideas)
    ]
    if ask.ideas == 4:
        ideas[2] = Proposed(ask.id, b"def broken(:\n", "broken")
        ideas[3] = ideas[0]
    return SeveralIdeas(ask.id, tuple(ideas))


def test_one_answer_brings_several_candidates_each_on_record(lab: SearchLab) -> None:
    fake = lab.fake(batch, ideas_per_ask=4, capacity=1, latency=lambda ask: 5.0)
    ended = lab.search(settings(rounds=2, ideas=4), fake)
    assert "8 of 8 ideas are decided" in ended.reason
    made = [one for one in lab.proposals if one.state is ProposalState.QUEUED]
    assert len(made) == len({one.candidate_id for one in made}) == 8 == len(lab.runs(RunKind.NEW))
    assert [ask.ideas for ask in fake.asks] == [4, 4, 4, 2], "the budget counts each, and no more are asked for"
    assert len({one.id for one in lab.proposals}) == len(lab.proposals) == 4 * 3 + 2
    assert len(lab.screen.said("refused: train.py does not parse")) == 3
    assert len(lab.screen.said("the same program as")) == 3
    assert not lab.screen.said("rests"), "a session that brought ideas has not failed"


def test_a_session_whose_ideas_all_fail_counts_once(lab: SearchLab) -> None:
    def bad(ask: Ask) -> Answer:
        return SeveralIdeas(ask.id, tuple(NoIdea(ask.id, ProposalFailure.REFUSED, f"no {n}") for n in range(3)))

    lab.search(settings(runs=9), lab.fake(bad, ideas_per_ask=3, capacity=1))
    assert len(lab.proposals) == 3 * 8, "given up after eight sessions, not after three"


def test_an_answer_with_more_than_was_asked_for_or_with_none_harms_nothing(lab: SearchLab) -> None:
    def answer(ask: Ask) -> Answer:
        return SeveralIdeas(ask.id, ()) if ask.seed == 0 else SeveralIdeas(ask.id, (idea(1.95)(ask),) * 3)  # type: ignore[arg-type]

    lab.search(settings(rounds=1, ideas=2), lab.fake(answer, capacity=1))
    assert [one.state for one in lab.proposals] == [ProposalState.FAILED, *[ProposalState.QUEUED] * 2]


def test_a_command_that_cannot_be_run_ends_the_search_at_once_and_it_goes_on_with_another(lab: SearchLab) -> None:
    unusable = lab.fake(trouble(ProposalFailure.UNUSABLE, "exit code 127"), capacity=1)
    with pytest.raises(ProposerProblem, match="the command of fake cannot be run: exit code 127"):
        lab.search(settings(runs=5), unusable)
    assert len(unusable.asks) == 1 and unusable.closed
    assert all(isinstance(run.state, Queued) for run in lab.runs()), "what ran is queued again"
    ended = lab.search(None, lab.fake(idea(1.95)))
    assert ended.state is SearchState.ENDED and "5 of 5 runs" in ended.reason


def test_one_that_cannot_be_run_any_more_is_given_up_and_the_others_go_on(lab: SearchLab) -> None:
    answers = iter(range(10**6))
    broken = lab.fake(
        lambda ask: (trouble(ProposalFailure.UNUSABLE) if next(answers) else idea(1.96))(ask), name="broken", capacity=1
    )
    ended = lab.search(settings("broken", "good", runs=12), broken, lab.fake(idea(1.95), name="good"))
    assert "12 of 12 runs" in ended.reason and len(broken.asks) == 2
