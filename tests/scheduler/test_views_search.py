"""What a search shows: unions and their parts, near-misses, claims, hours, themes, and which run held which slot."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.domain.decision import Combine, Replicate
from scheduler.domain.run import RunKind
from scheduler.ledger.runs import AttemptRow
from scheduler.screens.details import candidate_screen, explanation_screen
from scheduler.screens.tables import leaderboard_screen, status_screen, summary_screen
from scheduler.screens.terminal import painted
from scheduler.views.candidate import Explanation, candidate_view, explain_candidate, not_running
from scheduler.views.candidates import history, leaderboard, merge_rows, results_tsv
from scheduler.views.report import CUT_S, PAUSE_S, read_report, summary, timeline
from scheduler.views.slots import SlotInterval, efficiency, slot_time
from scheduler.views.status import read_status
from tests.scheduler import searched_lab as kit
from tests.scheduler.searched_lab import SETTINGS, SearchedLab, searched_lab
from tests.scheduler.view_kit import judged

UNION = "c0005"


@pytest.fixture
def played(tmp_path: Path) -> Iterator[SearchedLab]:
    played = searched_lab(tmp_path / "ledger.db")
    yield played
    played.ledger.close()


def why(played: SearchedLab, ref: str) -> Explanation:
    facts = played.facts()
    return explain_candidate(facts, facts.by_id[ref], 2)


# unions and near-misses


def test_a_union_says_its_parts_what_was_predicted_and_what_came(played: SearchedLab) -> None:
    about = why(played, UNION)
    assert "promoted over c0002 wider" in about.answer
    said = "union of c0003 warmup + c0004 rope-base on c0002: predicted −0.0172, measured −0.0160 ±"
    assert said in about.note
    view = candidate_view(played.facts(), played.facts().by_id[UNION])
    assert view.merge is not None and [part.merged for part in view.merge.parts] == [True, True]
    assert "merged from" in painted(candidate_screen(view)) and "predicted" in painted(candidate_screen(view))


def test_a_part_says_what_became_of_it(played: SearchedLab) -> None:
    about = why(played, "c0004")
    assert about.answer.startswith("kept, its patch was to be merged")
    assert f"its patch went into {UNION}" in about.note and "c0001 baseline, which it was made from" in about.note
    assert [decision.kind for decision in about.decisions] == ["replicate", "combine"]
    merge = about.decisions[-1].decision
    assert isinstance(merge, Combine) and merge.parts == ("c0003", "c0004") and merge.predicted == -0.0172
    assert "parts c0003, c0004" in painted(explanation_screen(about))
    view = candidate_view(played.facts(), played.facts().by_id["c0004"])
    assert "merged into" in painted(candidate_screen(view))


def test_a_near_miss_says_why_it_was_kept(played: SearchedLab) -> None:
    assert why(played, "c0006").answer.startswith("kept as a near-miss: P(better) 0.76")


def test_who_was_left_by_a_merge_is_a_near_miss_while_a_union_would_take_it(tmp_path: Path) -> None:
    """Its repeat was on its way when a promotion handed its patch on, and came out badly."""
    lab = SearchedLab(tmp_path / "ledger.db", lambda name, before: 1.944 if name == "late" else 1.95 + 0.003 * before)
    lab.begin()
    lab.ledger.searches.start(lab.tag, SETTINGS)
    lab.until_idle()
    late = lab.idea("late").id
    lab.until_idle()
    lab.apply(Replicate(late, "c0001", lab.effect(late), "one more"))
    (run,) = lab.ledger.runs.queued(lab.tag)
    attempt = lab.lease(run)
    lab.apply(Combine("c0001", (late,), 0, -0.004, "late"), problem="nothing could be merged: it conflicts")

    def row() -> tuple[str, int, int]:
        view, (line,) = summary(lab.facts()), [one for one in leaderboard(lab.facts()).candidates if one.name == "late"]
        assert view.candidates == view.shelved + view.shelved_lower
        return line.detail, view.shelved, view.shelved_lower

    assert row() == ("near-miss", 1, 0)
    assert lab.ledger.runs.record(run.id, attempt, judged(1.99, run.seed))
    assert row() == ("shelved", 0, 1) and lab.facts().near_misses == ()
    assert "1 shelved with a lower P" in painted(summary_screen(summary(lab.facts())))
    lab.ledger.close()


def test_merges_that_gave_nothing_are_on_record(played: SearchedLab) -> None:
    made, none = merge_rows(played.facts())
    assert (made.candidate, made.kind, made.runs) == (UNION, "union", 1)
    assert made.measured_bpb == pytest.approx(1.884 - 1.900)
    assert (none.candidate, none.kind, none.measured_bpb) == (None, "port", None) and "it conflicts" in none.problem


def test_states_have_words(played: SearchedLab) -> None:
    said = {row.candidate: (row.status, row.detail, row.origin) for row in leaderboard(played.facts()).candidates}
    assert said["c0006"] == ("shelved", "near-miss", "proposed")
    assert said["c0003"] == ("shelved", "merged", "proposed")  # its patch is in the baseline by now
    assert said[UNION] == ("baseline", "baseline", "union")
    assert "near-miss" in painted(leaderboard_screen(leaderboard(played.facts())))


@pytest.mark.parametrize(("name", "word"), [("union-c0006-c0007", "union"), ("port-c0006", "port")])
def test_a_merged_candidate_waits_under_its_own_word(tmp_path: Path, name: str, word: str) -> None:
    played = searched_lab(tmp_path / "ledger.db", ended=False)
    played.union(*(("c0006", "c0007") if word == "union" else ("c0006",)), name=name, predicted=-0.01)
    made = played.ledger.candidates.get(name, played.tag)
    row = next(row for row in leaderboard(played.facts()).candidates if row.candidate == made.id)
    assert (row.origin, row.detail) == (word, f"{word} due")
    played.lease(played.ledger.runs.of_candidate(made.id)[0], 1)
    assert leaderboard(played.facts()).candidates[-1].detail == f"{word} runs"
    assert "not measured yet" in why(played, made.id).note


# claims count for the claim alone


def test_the_runs_of_a_claim_change_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, seen = kit._claim, []
    monkeypatch.setattr(kit, "_claim", lambda lab: (seen.append(figures(lab)), claim(lab)))
    played = searched_lab(tmp_path / "ledger.db")
    assert sum(run.kind is RunKind.CLAIM for run in played.facts().runs) == 4
    assert figures(played) == seen[0]
    assert [point.claim for point in history(played.facts()).runs] == [False] * 10 + [True] * 4


def figures(played: SearchedLab) -> object:
    """What is shown of candidates."""
    facts = played.facts()
    course = history(facts)
    return results_tsv(facts), leaderboard(facts), course.candidates, course.baselines


def test_near_misses_are_discards_to_the_outside(played: SearchedLab) -> None:
    rows = [line.split("\t") for line in results_tsv(played.facts()).splitlines()[1:]]
    said = {row[0]: row[3] for row in rows}
    assert set(said.values()) == {"keep", "discard", "crash"} and said["swiglux"] == "discard"


def test_the_claim_is_the_only_total_said(played: SearchedLab, tmp_path: Path) -> None:
    said = painted(summary_screen(summary(played.facts())))
    assert "claim       1.9530 → 1.8835, −0.0695 ± 0.0031 (2 + 2 runs)" in said and "gain" not in said
    running = searched_lab(tmp_path / "other.db", ended=False)
    assert "flatters" in painted(summary_screen(summary(running.facts())))


# what is spent


def test_status_tells_the_search(played: SearchedLab, tmp_path: Path) -> None:
    said = painted(status_screen(read_status(played.facts(), None, played.clock.now)), 100)
    assert "search      1, ended: 40 of 40 runs are spent" in said
    assert "spent       3.0 of 8 hours, 7 of 40 runs, 6 ideas in round 2" in said
    assert "agent: 12 asked, 4 new, 0 known, 7 failed" in said and "claim       1.9530 → 1.8835" in said
    running = searched_lab(tmp_path / "other.db", ended=False)
    running.ledger.labs.pause(running.tag, "lunch")
    said = painted(status_screen(read_status(running.facts(), None, running.clock.now)), 100)
    assert "1, not over, paused" in said and "arsched resume" in said and "ideas       1 being written: agent" in said
    assert "start it with `arsched search`" in said and "arsched submit" not in said
    assert "`arsched search`" in not_running(running.ledger, running.tag)
    assert "`arsched submit`" in not_running(played.ledger, played.tag)
    running.ledger.labs.resume(running.tag)
    said = painted(status_screen(read_status(running.facts(), None, running.clock.now)), 100)
    assert "1, not over, go on with `arsched search`" in said and "1, running" not in said


def test_hours_worked_out_by_hand() -> None:
    """Two slots for 7200 s: one judged all the time, the other half of it and held its slot 600 s longer."""
    intervals = [SlotInterval("r1", "a", 0, 0, 7200, 7200, 0), SlotInterval("r2", "b", 0, 0, 4200, 3600, 0)]
    used = efficiency("GPU", 14, 2, intervals, slot_time(intervals))
    assert (used.unit, used.slots, used.runs, used.promotions) == ("GPU", 2, 14, 2)
    assert used.offered_hours == 4.0 and used.used_hours == pytest.approx(11400 / 3600)
    assert used.runs_per_hour == 14 / 4 and used.best_runs_per_hour == pytest.approx(14 / 3)
    assert used.hours_per_promotion == 2.0 and used.utilisation == 0.75
    nothing = efficiency("slot", 14, 2, [], slot_time([]))
    assert (nothing.runs_per_hour, nothing.best_runs_per_hour, nothing.hours_per_promotion) == (None, None, None)


# who held which slot


def attempt(run: int, number: int, slot: str, start: float, end: float | None, outcome: str = "ok") -> AttemptRow:
    return AttemptRow(run, 1, "new", number, slot, start, start, end, outcome if end is not None else "", 0, None, None)


def test_a_timeline_keeps_gaps_and_cuts_pauses() -> None:
    held = [
        attempt(2, 1, "b", 1010.0, None),
        attempt(1, 1, "a", 100.0, 124.0),
        attempt(1, 2, "a", 130.0, 154.0, "lost"),
    ]
    drawn = timeline("t", held, until=1034.0)
    skipped = 1010.0 - 154.0 - CUT_S
    assert skipped > PAUSE_S - CUT_S and [pause.skipped_s for pause in drawn.pauses] == [skipped]
    assert [(bar.slot, bar.start_s, bar.end_s, bar.outcome) for bar in drawn.bars] == [
        ("a", 0.0, 24.0, "ok"),
        ("a", 30.0, 54.0, "lost"),
        ("b", 54.0 + CUT_S, 78.0 + CUT_S, ""),
    ]
    assert (drawn.length_s, drawn.slots) == (78.0 + CUT_S, ("a", "b"))


def test_every_attempt_is_a_bar(played: SearchedLab) -> None:
    drawn = timeline(played.tag, played.facts().attempts, played.clock.now)
    assert len(drawn.bars) == 14 and {bar.kind for bar in drawn.bars} == {"baseline", "new", "union", "claim"}
    assert len(drawn.pauses) == 1 and drawn.length_s < 600
    lanes = {slot: [bar for bar in drawn.bars if bar.slot == slot] for slot in drawn.slots}
    for bars in lanes.values():
        assert all(before.end_s <= after.start_s for before, after in itertools.pairwise(bars))


# everything at once


def test_a_report_sorts_what_happened(played: SearchedLab) -> None:
    view = read_report(played.facts())
    assert [step.row.candidate for step in view.lineage] == ["c0001", "c0002", UNION]
    first, second, _ = (step.promotion for step in view.lineage)
    assert first is None and second is not None and second.effect.diff == pytest.approx(1.900 - 1.953, abs=0.003)
    assert [(t.theme, t.tried, t.promoted, t.shelved, len(t.dead_ends)) for t in view.themes] == [
        ("architecture", 3, 2, 1, 0),  # one of the two by itself, one in the union
        ("schedule", 2, 1, 0, 1),
        ("other", 1, 0, 0, 1),
    ]
    slow, crashed = (dead for theme in view.themes for dead in theme.dead_ends)
    assert slow.why == "worse per token at the same speed" and slow.medians.tokens_per_s == pytest.approx(21892, abs=1)
    assert crashed.why.startswith("crash: train.py ended with exit code 1") and crashed.effect_bpb is None
    assert [line.row.candidate for line in view.near_misses] == ["c0006"] and len(view.failed_ideas) == 8
    assert {"lab", "s0001", "s0001.claim", "c0002", UNION} <= {event.subject for event in view.events}
