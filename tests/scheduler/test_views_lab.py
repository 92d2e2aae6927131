"""What is said of a lab is what its ledger holds: ranks, effects, counts, results.tsv; also with next to nothing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.domain.decision import PRESETS, BusyCore, GateSettings, MeasureBaseline, Noise, SlotOffset
from scheduler.domain.run import RunKind, parse_result
from scheduler.domain.slot import Slot
from scheduler.ledger import Ledger
from scheduler.policy.explain import describe_undecided
from scheduler.policy.stats import effect_of, undecided_below
from scheduler.report.page import render_page
from scheduler.screens.details import run_screen
from scheduler.screens.tables import leaderboard_screen, status_screen, summary_screen
from scheduler.screens.terminal import painted
from scheduler.screens.watch import watch_frame
from scheduler.views.candidate import candidate_view, describe_gates, explain_candidate, explain_run
from scheduler.views.candidates import HEADER, history, leaderboard, results_tsv
from scheduler.views.facts import LabFacts, describe_noise, noise_parts
from scheduler.views.report import read_report, summary
from scheduler.views.runs import run_view
from scheduler.views.status import Watch, read_status
from tests.scheduler.ledger_kit import make_lab
from tests.scheduler.view_kit import DEMO, RUN_S, Play, demo_lab, demo_script, judged


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    played = demo_lab(tmp_path / "ledger.db")
    yield played
    played.ledger.close()


def lab_without(path: Path, script: dict[str, tuple[float | str, ...]]) -> Play:
    """A lab with these candidates only, played until nothing is due."""
    play = Play(path, lambda name, before: script[name][min(before, len(script[name]) - 1)])
    play.begin()
    play.until_idle()
    play.add(*(name for name in script if name != "baseline"))
    play.until_idle()
    return play


def test_the_leaderboard_ranks_by_mean(play: Play) -> None:
    board = leaderboard(play.facts())
    ranked = [row for row in board.candidates if row.rank]
    assert [row.rank for row in ranked] == list(range(1, 8))
    assert [row.val_bpb for row in ranked] == sorted(row.val_bpb for row in ranked if row.val_bpb)
    assert ranked[0].name == "depth-1" and ranked[0].is_baseline
    assert [(row.name, row.status, row.detail) for row in board.candidates if not row.rank] == [
        ("typo", "failed", "crash")
    ]


def test_the_leaderboard_says_that_scores_of_another_pool_are_left_out(play: Play) -> None:
    (pool,) = leaderboard(play.facts()).pools
    assert pool.compared and pool.runs > pool.candidates > 1
    assert "pools of slots" not in painted(leaderboard_screen(leaderboard(play.facts())))
    play.add("elsewhere")
    (run,) = play.ledger.runs.queued("nov23")
    slot = Slot("far/gpu0", "far", "boot-9", "cuda", "an H200", "H200 driver 580 / \x1b[2Jpool-b", "cache-1")
    attempt = play.ledger.runs.lease(run.id, slot, play.clock.now + 60)
    assert attempt and play.ledger.runs.record(run.id, attempt, judged(1.5))
    board = leaderboard(play.facts(), limit=3)
    first, second = board.pools
    assert first == pool and (second.runs, second.candidates, second.compared) == (1, 1, False)
    assert all(row.val_bpb is None or row.val_bpb > 1.6 for row in leaderboard(play.facts()).candidates)
    shown = painted(leaderboard_screen(board), 120)
    assert "scores of 2 pools" in shown and "shown: " in shown
    assert "left out: 1 run of 1 candidate on H200 driver 580" in shown and "\x1b" not in shown


@pytest.mark.parametrize("jump_s", [-90_000.0, 90_000.0])
def test_the_pool_that_is_shown_is_the_one_that_is_compared_whatever_the_clock_was_set_to(
    play: Play, jump_s: float
) -> None:
    before = leaderboard(play.facts())
    assert before.baseline
    run = play.ledger.runs.add(before.baseline, RunKind.BASELINE, "again")
    play.clock.now += jump_s
    slot = Slot("far/gpu0", "far", "boot-9", "cuda", "an H200", "another", "cache-1")
    attempt = play.ledger.runs.lease(run.id, slot, play.clock.now + 60)
    assert attempt and play.ledger.runs.record(run.id, attempt, judged(1.5))
    after = leaderboard(play.facts())
    assert [(one.pool, one.compared) for one in after.pools] == [(before.pools[0].pool, True), ("another", False)]
    assert [row.val_bpb for row in after.candidates] == [row.val_bpb for row in before.candidates]


def test_on_a_machine_that_drifts_errors_and_words_are_those_of_all_the_noise(play: Play) -> None:
    """Of means as of effects, which nearness in time, slot and seed may make surer than the means are."""
    steady, drifting = play.facts(), play.facts()
    steady.__dict__["noise"] = Noise(0.005, 3)
    noise = Noise(0.0075, 12, drift=0.012, offset=0.003, scale_s=600.0, seed_sd=0.004)
    drifting.__dict__["noise"] = noise
    for view in (leaderboard_screen(leaderboard(drifting)), summary_screen(summary(drifting)),
                 status_screen(read_status(drifting, None, play.clock.now))):  # fmt: skip
        words = "sd 0.00750 bpb side by side, 0.01200 over time, 0.00300 between slots, 0.00400 between seeds"
        assert words in painted(view, 200)
    assert "side by side" not in painted(leaderboard_screen(leaderboard(steady)), 200)
    parts = {"over_time_sd_bpb": 0.012, "scale_s": 600.0, "between_slots_sd_bpb": 0.003, "between_seeds_sd_bpb": 0.004}
    assert leaderboard(drifting).to_json()["noise_parts"] == {**parts, "p_unsteady": 1.0, "slots": [], "busy": None}
    assert leaderboard(steady).noise_parts is None
    for row in leaderboard(drifting).candidates:
        standing = drifting.standings[row.candidate]
        if standing.n == 1:
            assert row.val_bpb_se == pytest.approx(math.hypot(0.0075, 0.012, 0.003, 0.004))
        if standing.n and row.base:
            expected = effect_of(standing, drifting.standings[row.base], noise)
            assert (row.effect_bpb, row.effect_se_bpb, row.p_better) == (expected.diff, expected.se, expected.p_better)
    baseline = drifting.standings["c0001"]
    one, two = (occasion.slot_id for occasion in baseline.occasions[:2])
    assert baseline.n == 3 and one != two
    assert 0.012 < (drifting.mean_error("c0001") or 0.0) < math.hypot(0.0075, 0.012, 0.003, 0.004)


def test_what_is_known_of_the_machine_is_said_and_no_more() -> None:
    """In doubt no drift is named, and of the slots those that differ."""
    slots = (SlotOffset("n/gpu0", 0.0004, 0.0003), SlotOffset("n/gpu3", 0.0061, 0.001))
    noise = Noise(0.0075, 12, drift=0.003, offset=0.004, scale_s=600.0, slots=slots, p_unsteady=0.3)
    doubt, known = noise_parts(noise), noise_parts(replace(noise, p_unsteady=0.8))
    said = describe_noise(noise.sigma, doubt)
    assert said == "sd 0.00750 bpb side by side, 0.00500 in doubt of the machine (chance 0.30)"
    said = describe_noise(noise.sigma, known)
    assert said == "sd 0.00750 bpb side by side, 0.00300 over time, 0.00400 between slots (n/gpu3 +0.00610)"
    assert noise_parts(Noise(0.0075, 12)) is None
    learnt, guessed = BusyCore(-0.004, 0.001, 20.0), BusyCore(-0.001, 0.001, 20.0)
    said = describe_noise(0.0075, noise_parts(Noise(0.0075, 12, busy=learnt)))
    assert said == "sd 0.00750 bpb side by side, -0.00277 with half a core"
    assert noise_parts(Noise(0.0075, 12, busy=guessed)) is None


def test_a_machine_too_unsteady_to_decide_is_called_that_on_every_screen(play: Play) -> None:
    steady, drifting = play.facts(), play.facts()
    steady.__dict__["noise"] = Noise(0.005, 3)
    drifting.__dict__["noise"] = noise = Noise(0.0075, 12, drift=0.03, scale_s=600.0)
    below = undecided_below(noise, 0.005)
    assert below == drifting.undecided_below_bpb and steady.undecided_below_bpb is None
    for facts in (drifting, steady):
        seen = read_status(facts, None, play.clock.now)
        watch = Watch("2026-11-23T02:12:00Z", seen, leaderboard(facts), history(facts))
        screens = [painted(screen, 200) for screen in (summary_screen(summary(facts)), status_screen(seen))]
        for said in (*screens, watch_frame(watch, 200, 40).plain, render_page(read_report(facts), b"", b"")):
            assert (describe_undecided(below or 0.0) in said) is (facts is drifting)
            assert ("are not decided" in said) is (facts is drifting)


def test_an_effect_is_on_the_baseline_the_idea_was_made_from(play: Play) -> None:
    """no-softcap lost against depth-1, and is still worth 0.045 on what it was made from."""
    row = next(row for row in leaderboard(play.facts()).candidates if row.name == "no-softcap")
    baseline = DEMO["baseline"]
    assert row.status == "discarded" and row.base == "c0001"
    assert row.effect_bpb == pytest.approx(DEMO["no-softcap"][0] - sum(baseline) / 3, abs=0.003)
    facts = play.facts()
    assert facts.noise is not None
    expected = effect_of(facts.standings[row.candidate], facts.standings["c0001"], facts.noise)
    assert (row.effect_bpb, row.effect_se_bpb) == (expected.diff, expected.se)
    assert row.p_better is not None and row.p_better > 0.99


def test_the_staircase_goes_down_by_its_promotions(play: Play) -> None:
    course = history(play.facts())
    assert [step.name for step in course.baselines] == ["baseline", "depth-2", "depth-1"]
    assert [step.number for step in course.baselines] == [1, 4, 5]
    assert [point.number for point in course.runs] == list(range(1, len(course.runs) + 1))
    assert {p.candidate for p in course.candidates} == {c.id for c in play.facts().candidates}
    assert sum(point.val_bpb is None for point in course.runs) == 1


def test_the_summary_counts_everything_once(play: Play) -> None:
    said, facts = summary(play.facts()), play.facts()
    parts = said.promoted + said.discarded + said.failed + said.cancelled + said.undecided
    assert said.candidates == parts == 7
    assert said.runs == said.scored_runs + said.failed_runs == facts.count_runs("finished")
    assert said.gain is not None and said.gain.diff_bpb == pytest.approx(1.844 - 1.953, abs=0.004)
    assert said.slot_time.busy_s == pytest.approx(RUN_S * said.runs)


def test_results_tsv_byte_by_byte(play: Play) -> None:
    said = results_tsv(play.facts())
    assert said.encode() == (
        b"commit\tval_bpb\tmemory_gb\tstatus\tdescription\n"
        b"baselin\t1.953000\t0.4\tkeep\ttry baseline\n"
        b"promoc0\t1.905000\t0.4\tkeep\ttry depth-2\n"
        b"promoc0\t1.844000\t0.4\tkeep\ttry depth-1\n"
        b"no-soft\t1.910000\t0.4\tdiscard\ttry no-softcap\n"
        b"lr-too-\t2.610000\t0.4\tdiscard\ttry lr-too-high\n"
        b"small-b\t1.949000\t0.4\tdiscard\ttry small-batch\n"
        b"typoxxx\t0.000000\t0.0\tcrash\ttry typo\n"
        b"unembed\t1.938000\t0.4\tdiscard\ttry unembedding-lr-0.008\n"
    )


def test_a_hostile_title_cannot_break_a_row(play: Play) -> None:
    evil = replace(play.facts().candidates[3], title="a\tb\nkeep\t0.1\x1b[2J  c")
    facts = play.facts()
    facts.candidates = (*facts.candidates[:3], evil)
    lines = results_tsv(facts).splitlines()
    assert len(lines) == 5 and all(len(line.split("\t")) == 5 for line in lines)
    assert lines[-1].endswith("\ta b keep 0.1 c")


def test_a_candidate_is_shown_with_its_diff_and_decisions(play: Play) -> None:
    candidate = play.ledger.candidates.get("depth-1", "nov23")
    view = candidate_view(play.facts(), candidate)
    assert "-NAME = 'baseline'\n+NAME = 'depth-1'" in view.diff
    assert [decision.kind for decision in view.decisions] == ["promote", "measure-baseline"]
    promoted = view.to_json()["decisions"][0]  # type: ignore[index]
    assert (promoted["base"], promoted["candidate_runs"], promoted["base_runs"]) == ("c0002", 1, 1)
    assert [run.val_bpb for run in view.runs] == list(DEMO["depth-1"])


def test_a_run_is_shown_with_its_figures(play: Play) -> None:
    view = run_view(play.facts(), play.ledger.runs.get("r0004", "nov23"))
    assert view.figures is not None and view.val_bpb == DEMO["depth-2"][0]
    assert sum(seconds for _, seconds in view.figures.phases_s) == pytest.approx(RUN_S, abs=0.5)
    assert (view.figures.steps, view.figures.peak_memory_mb) == (214, 412.5)
    assert (view.figures.attention, view.figures.exchange) == ("sdpa", "host")
    assert [attempt.outcome for attempt in view.attempts] == ["ok"]


def test_what_a_candidate_reports_of_itself_may_be_no_number(play: Play) -> None:
    play.add("odd")
    run = play.ledger.runs.queued("nov23")[0]
    attempt = play.lease(run)
    text = judged(1.9).text.replace("2.81", "NaN").replace("21800.0", "Infinity")
    assert play.ledger.runs.record(run.id, attempt, parse_result(text))
    view = run_view(play.facts(), play.ledger.runs.get(run.id, "nov23"))
    assert view.figures is not None and (view.figures.last_loss, view.figures.tokens_per_s) == (None, None)
    assert "nan" not in painted(run_screen(view)) and "inf" not in painted(run_screen(view))
    assert json.dumps(view.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("baseline", "first baseline"),
        ("depth-1", "promoted over c0002 depth-2"),
        ("typo", "no score (crash): train.py ended with exit code 1"),
        ("no-softcap", "P(better) 0.0"),
    ],
)
def test_why(play: Play, name: str, part: str) -> None:
    about = explain_candidate(play.facts(), play.ledger.candidates.get(name, "nov23"), slots=2)
    assert part in about.answer and "0.98" in about.rule


def test_a_candidate_dropped_after_the_baseline_moved_is_reported_so(play: Play) -> None:
    about = explain_candidate(play.facts(), play.ledger.candidates.get("no-softcap", "nov23"), slots=2)
    assert "c0003 depth-1" in about.note and "on c0001 baseline" in about.note and "−0.04" in about.note


def test_why_a_run_waits(play: Play) -> None:
    play.script = demo_script
    play.add("late", "later", "latest")
    first, second, _ = play.ledger.runs.queued("nov23")
    play.lease(first)
    facts = play.facts()
    assert "runs on laptop/cpu0" in explain_run(facts, facts.running[0], slots=2).answer
    assert "no process runs the queue" in explain_run(facts, second, slots=None).answer
    busy = explain_run(facts, facts.queued[1], slots=1)
    assert "1 run goes first" in busy.answer and busy.waiting[0].run == "r0015"
    candidate = explain_candidate(facts, play.ledger.candidates.get("late", "nov23"), slots=1)
    assert candidate.answer.startswith("undecided: r0013 runs on")


def test_why_a_candidate_whose_runs_are_over_is_undecided(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    play.add("late")
    (run,) = play.ledger.runs.queued("nov23")
    attempt = play.lease(run)
    assert play.ledger.runs.record(run.id, attempt, judged(1.7, run.seed))
    late = play.ledger.candidates.get("late", "nov23")
    assert "no process runs the queue" in explain_candidate(play.facts(), late, slots=None).answer
    answer = explain_candidate(play.facts(), late, slots=2).answer
    assert answer == "undecided: its runs are over; the decision on it is due"
    control = MeasureBaseline("c0003", "a control before c0010 is promoted")
    monkeypatch.setattr("scheduler.views.candidate.awaited_control", lambda _, ref: control if ref == late.id else None)
    waits = explain_candidate(play.facts(), late, slots=2).answer
    assert waits == f"undecided: its runs are over; it waits for {control.reason}"


def every_view(play: Play) -> list[object]:
    """All views of a lab, as JSON."""
    facts = play.facts()
    views = [
        leaderboard(facts), read_status(facts, None, play.clock.now), history(facts),
        summary(facts),
        *(candidate_view(facts, c) for c in facts.candidates),
        *(run_view(facts, r) for r in facts.runs),
        *(explain_candidate(facts, c, 2) for c in facts.candidates), *(explain_run(facts, r, None) for r in facts.runs),
    ]  # fmt: skip
    return [view.to_json() for view in views]


def test_every_view_is_json_without_nan(play: Play) -> None:
    assert json.dumps(every_view(play), allow_nan=False)


def test_a_lab_without_anything(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.labs.create(make_lab("new"))
        facts = LabFacts(ledger, ledger.labs.get("new"))
        assert facts.board is None and facts.noise is None
        assert leaderboard(facts).candidates == () and read_status(facts, None, 0.0).baseline is None
        assert results_tsv(facts) == HEADER + "\n"
        assert history(facts).runs == () and summary(facts).gain is None


def test_a_lab_of_one_run_in_the_middle(tmp_path: Path) -> None:
    play = Play(tmp_path / "ledger.db", demo_script)
    play.begin()
    play.lease(play.ledger.runs.queued("nov23")[0])
    assert json.dumps(every_view(play), allow_nan=False)
    seen = read_status(play.facts(), None, play.clock.now)
    assert (seen.running_runs, seen.queued_runs, seen.runner) == (1, 2, None)
    assert [(slot.run, slot.phase) for slot in seen.slots] == [("r0001", "unwatched")]
    assert results_tsv(play.facts()) == HEADER + "\n"


def test_a_lab_in_which_all_crash(tmp_path: Path) -> None:
    play = lab_without(tmp_path / "ledger.db", {"baseline": (1.9,), "a": ("crash",), "b": ("timeout: train",)})
    assert json.dumps(every_view(play), allow_nan=False)
    assert [row.detail for row in leaderboard(play.facts()).candidates] == ["baseline", "crash", "timeout: train"]
    rows = results_tsv(play.facts()).splitlines()[1:]
    assert [row.split("\t")[3] for row in rows] == ["keep", "crash", "crash"]
    assert summary(play.facts()).gain is None


def test_a_baseline_that_crashes_has_no_score_to_show(tmp_path: Path) -> None:
    play = Play(tmp_path / "ledger.db", lambda name, before: "crash")
    play.begin()
    play.until_idle()
    assert json.dumps(every_view(play), allow_nan=False)
    assert leaderboard(play.facts()).candidates[0].val_bpb is None
    assert results_tsv(play.facts()) == HEADER + "\n"


@pytest.mark.parametrize("gates", PRESETS.values(), ids=str)
def test_a_rule_in_words_is_grammatical(gates: GateSettings) -> None:
    said = describe_gates(gates)
    assert re.search(r"\b1 (runs|candidates)\b", said) is None and f"{gates.promote_now:.2f}" in said
    assert ("repeat" in said) == (gates.max_runs > 1)
    assert (f"both at least {gates.drift_promote:g} where" in said) == (gates.drift_promote > gates.promote_now)
    assert ("or 6 where only that keeps it out" in said) == (gates.drift_runs == 3)
