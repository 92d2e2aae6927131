"""Screens read well at 80 columns without colour: golden text, and no line longer whatever the names.

Golden files are in golden/; ARSCHED_WRITE_GOLDEN=1 writes them anew, to be read before they are committed.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from scheduler.domain.decision import Effect
from scheduler.domain.run import parse_result
from scheduler.domain.search import SearchBudget, SearchSettings
from scheduler.domain.text import count, signed
from scheduler.lab import Live, LiveSlot
from scheduler.policy.explain import describe_effect
from scheduler.queue.progress import slots_line, slots_table
from scheduler.report.page import render_page
from scheduler.screens import text
from scheduler.screens.details import candidate_screen, explanation_screen, run_screen
from scheduler.screens.tables import leaderboard_screen, status_screen, summary_screen
from scheduler.screens.terminal import painted
from scheduler.screens.watch import watch_frame
from scheduler.views.candidate import CandidateView, candidate_view, explain_candidate, explain_run, not_running
from scheduler.views.candidates import history, leaderboard
from scheduler.views.report import read_report, summary
from scheduler.views.runs import run_view
from scheduler.views.status import FRESH_S, Watch, read_status
from tests.scheduler.view_kit import Play, demo_lab, judged

GOLDEN = Path(__file__).parent / "golden"
SENTENCE = "promoted  c0003 depth-1  −0.0630 ± 0.0072 (1 run vs 1)  P(better)=1.00  expect about −0.0622"
LONG = "an-idea-" * 12


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    played = demo_lab(tmp_path / "ledger.db")
    yield played
    played.ledger.close()


def check(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("ARSCHED_WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def live_of(play: Play) -> Live:
    """A slot at work, a free one, a broken one."""
    now = play.clock.now
    busy = LiveSlot(
        slot="laptop/cpu0", run="r0013", candidate="c0009", name=LONG, kind="new",
        phase="train", elapsed_s=8.4, budget_s=20.0, step=82, loss=3.1234,
    )  # fmt: skip
    broken = LiveSlot("other/cpu0", problem="cache is missing: run `arsched prepare --contract cpu` on other")
    return Live(now - 1, 4242, "nov23", "pool-a", 2, False, (busy, LiveSlot("laptop/cpu1"), broken))


def without_sentences(view: CandidateView) -> CandidateView:
    """How decisions are worded is the policy's to say and to test."""
    return replace(view, decisions=tuple(replace(d, sentence=SENTENCE) for d in view.decisions))


def test_leaderboard(play: Play) -> None:
    check("leaderboard", painted(leaderboard_screen(leaderboard(play.facts()))))


def test_leaderboard_cut_short(play: Play) -> None:
    said = painted(leaderboard_screen(leaderboard(play.facts(), 2), hidden=6))
    assert "depth-1" in said and "no-softcap" not in said and "6 more" in said


def test_status_while_the_queue_is_run(play: Play) -> None:
    play.add(LONG, "late", "later")
    play.lease(play.ledger.runs.queued("nov23")[0])
    view = read_status(play.facts(), live_of(play), play.clock.now)
    fixed = tuple(replace(row, why="it is next") for row in view.queued)
    check("status_running", painted(status_screen(replace(view, queued=fixed, recent_decisions=(SENTENCE,)))))


def test_status_when_the_queue_is_not_run(play: Play) -> None:
    play.add("late")
    view = read_status(play.facts(), live_of(play), play.clock.now + FRESH_S + 1)
    said = painted(status_screen(view))
    assert "no process runs the queue" in said and "arsched submit" in said and "4242" not in said
    play.ledger.searches.start("nov23", SearchSettings(SearchBudget(runs=9), ()))
    said = painted(status_screen(read_status(play.facts(), None, play.clock.now)), 100)
    assert "no process runs the queue; start it with `arsched search`" in said
    assert "1, not over, go on with `arsched search`" in said and "arsched submit" not in said
    assert "arsched search" in not_running(play.ledger, "nov23")


def test_status_of_another_lab_is_not_ours(play: Play) -> None:
    other = replace(live_of(play), tag="other")
    assert read_status(play.facts(), other, play.clock.now).runner is None


def test_slots_while_the_queue_is_run(play: Play) -> None:
    """The same words below the lines on a terminal, on one line in a pipe, in status and in watch."""
    live = live_of(play)
    live = replace(live, slots=(replace(live.slots[0], name="[red]\x1b[2Jwide[/red]", loss=math.nan), *live.slots[1:]))
    table = painted([slots_table(live)])
    for word in ("r0013 c0009 [red]wide[/red]", "████······ 8/20 s", "laptop/cpu1", "free", "2 queued"):
        assert word in table
    assert "other/cpu0: cache is missing" in table and "nan" not in table and "\x1b" not in table
    dirty = replace(live, slots=(LiveSlot("n/gpu0", problem="dirty: GPU 0 is in use by process 42 (blender)"),))
    table = painted([slots_table(dirty)])
    assert "broken" not in table and table.count("dirty") == 2 and "process 42 (blender)" in table
    line = slots_line(live)
    busy = "laptop/cpu0 r0013 c0009 [red]wide[/red] train 8/20 s step 82"
    assert line.startswith(f"{busy} · laptop/cpu1 free · other/cpu0 cache is missing")
    assert "finishing what runs" in painted([slots_table(replace(live, stopping=True))])


def test_a_run(play: Play) -> None:
    crashed = run_view(play.facts(), play.ledger.runs.get("r0009", "nov23"))
    check("run_crashed", painted(run_screen(crashed)))
    scored = run_view(play.facts(), play.ledger.runs.get("r0004", "nov23"))
    check("run_scored", painted(run_screen(scored)))


CPU = {"speed": 0.97, "speed_low": 0.8, "speed_high": 1.02, "calibration": "f00d", "steal": 0.004, "load": 2.26}
GPU = {
    "steal": 0, "load": math.nan, "throttled": ["sw power cap", "\x1b[2Jheat"],
    "gpu": {"sm_mhz": [1755, 1410, 1980], "memory_mhz": [2619] * 3, "power_w": [640, 90, 699.6],
            "temperature_c": [62, 41, 70], "fan_rpm": [2, 2, 2], "odd": [math.inf, 0, 0]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (CPU, "speed 0.97 (0.80 to 1.02), steal 0 %, load 2.3"),
        (GPU, "steal 0 %, sm 1755 MHz (1410 to 1980), memory 2619 MHz, 640 W, 62 °C, fan rpm 2, throttled: sw power"),
        ({"speed": 0.5}, "speed 0.50"),
        (
            {"energy_j": 189_400.4, "throttled": ["heat"], "throttled_share": 0.341},
            "189,400 J, throttled 34 % of the training: heat",
        ),
    ],
)
def test_a_run_says_what_the_machine_did(play: Play, machine: dict[str, object], said: str) -> None:
    """Of a run and of each of a candidate's; nothing where nothing was measured."""
    play.add("late")
    (run,) = play.ledger.runs.queued("nov23")
    raw = json.loads(judged(1.9).text) | {"machine": machine}
    assert play.ledger.runs.record(run.id, play.lease(run), parse_result(json.dumps(raw)))
    view = run_view(play.facts(), play.ledger.runs.get(run.id, "nov23"))
    shown = painted(run_screen(view), 200)
    assert f"machine   {said}" in shown and "\x1b" not in shown and "nan" not in shown
    candidate = candidate_view(play.facts(), play.ledger.candidates.get("late", "nov23"))
    assert f"{run.id}  {said}" in painted(candidate_screen(candidate), 200)
    figures = json.loads(json.dumps(view.to_json(), allow_nan=False))["figures"]
    assert figures["machine"]["speed"] == machine.get("speed")
    before = run_view(play.facts(), play.ledger.runs.get("r0001", "nov23"))
    assert "machine" not in painted(run_screen(before)) and before.to_json()["figures"]["machine"] is None  # type: ignore[index]


def test_a_candidate(play: Play) -> None:
    view = candidate_view(play.facts(), play.ledger.candidates.get("depth-1", "nov23"))
    check("candidate", painted(candidate_screen(without_sentences(view))))


def test_the_summary(play: Play) -> None:
    check("summary", painted(summary_screen(summary(play.facts()))))


def test_a_diff_is_never_wrapped(play: Play) -> None:
    view = candidate_view(play.facts(), play.ledger.candidates.get("depth-1", "nov23"))
    line = "+NAME = " + "x" * 200
    assert f"\n{line}\n" in painted(candidate_screen(replace(view, diff=line)))


@pytest.mark.parametrize("width", [40, 80, 132])
def test_no_line_is_longer_than_the_terminal(play: Play, width: int) -> None:
    """Long names, wide characters and no space to break at; diffs excepted."""
    play.script = lambda name, before: 1.8 + before
    play.add(LONG, "字" * 60)
    play.until_idle()
    facts = play.facts()
    long = play.ledger.candidates.get(LONG, "nov23")
    screens = [
        leaderboard_screen(leaderboard(facts)),
        status_screen(read_status(facts, live_of(play), play.clock.now)),
        candidate_screen(replace(candidate_view(facts, long), diff="")),
        explanation_screen(explain_candidate(facts, long, 2)),
        explanation_screen(explain_run(facts, facts.runs[0], 2)),
        summary_screen(summary(facts)),
    ]
    for screen in screens:
        assert [line for line in painted(screen, width).splitlines() if cell_len(line) > width] == []


def test_markup_of_a_candidate_is_text(play: Play) -> None:
    play.script = lambda name, before: 1.9
    play.add("[red]x[/red]:smile:", title="[/] [link=http://evil]x")
    play.until_idle()
    assert "[red]x[/red]:smile:" in painted(leaderboard_screen(leaderboard(play.facts())), 120)


def test_a_probability_is_never_rounded_up(play: Play) -> None:
    """0.9799 would have promoted as the 0.98 it is not: on every screen, on the page, and exact only as JSON."""
    close = Effect(-0.013, 0.006, 0.005, 1, 3, p_better=0.9799, shrunken=-0.012)
    facts = play.facts()
    facts.effect = lambda candidate: close if candidate.base_id else None  # type: ignore[method-assign]
    facts.recent_sentences = (describe_effect(close),)
    facts.promotions = tuple(replace(made, effect=close, sentence="") for made in facts.promotions)
    moved, board = facts.by_id["c0004"], leaderboard(facts)
    seen = read_status(facts, None, play.clock.now)
    said = {
        "leaderboard": painted(leaderboard_screen(board)),
        "status": painted(status_screen(seen)),
        "show": painted(candidate_screen(candidate_view(facts, moved))),
        "explain": painted(explanation_screen(explain_candidate(facts, moved, 2))),
        "watch": watch_frame(Watch("", seen, board, history(facts)), 160, 40).plain,
        "page": " ".join(re.sub("<[^>]*>", "", render_page(read_report(facts), b"", b"")).split()),
    }
    for where, screen in said.items():
        found = re.findall(r"(?<!≥ )(?<!\d)0\.9[78]\d*", screen)
        assert found and set(found) == {"0.97"}, (where, found)
    assert all(row.to_json()["p_better"] == 0.9799 for row in board.candidates if row.base)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (42.4, "42 s"),
        (100, "1 min 40 s"),
        (120, "2 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_seconds_as_people_say_them(value: float | None, said: str) -> None:
    assert text.seconds(value) == said


def test_nouns_agree_with_the_last_number_before_them() -> None:
    assert [text._of("1", "run", None), text._of("3", "run", None)] == ["1 run", "3 runs"]
    assert [text._of("1", "run", 8.0), text._of("9", "run", 1.0)] == ["1 of 8 runs", "9 of 1 run"]
    assert text._of("0.25", "hour", 1.0) == "0.25 of 1 hour"
    assert (count(1, "run"), count(0, "run"), count(2, "union or port", "unions")) == ("1 run", "0 runs", "2 unions")


@pytest.mark.parametrize("places", [4, 6])
def test_a_zero_has_no_sign(places: int) -> None:
    assert signed(-1e-9, places) == signed(1e-9, places) == f"{0:.{places}f}"
    assert text.effect(-0.00001, 0.001) == "0.0000 ± 0.0010"


def test_a_quiet_contract_gets_a_fifth_decimal() -> None:
    assert text.bpb(0.97412, 0.0004, text.decimals(0.0005)) == "0.97412 ± 0.00040"
    assert text.effect(-0.013, 0.005, text.decimals(0.005)) == "−0.0130 ± 0.0050"
