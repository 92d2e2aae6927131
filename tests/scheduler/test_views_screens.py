"""Screens read well at 80 columns without colour: golden text, and no line longer whatever the names.

Golden files are in golden/; ARSCHED_WRITE_GOLDEN=1 writes them anew, to be read before they are committed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from scheduler.live import Live, LiveSlot
from scheduler.screens import numbers
from scheduler.screens.details import candidate_screen, run_screen
from scheduler.screens.explanation import explanation_screen
from scheduler.screens.leaderboard import leaderboard_screen
from scheduler.screens.status import status_screen
from scheduler.screens.summary import summary_screen
from scheduler.screens.terminal import painted
from scheduler.views.candidate_details import CandidateView, candidate_view
from scheduler.views.explanation import explain_candidate, explain_run
from scheduler.views.leaderboard import leaderboard
from scheduler.views.run_details import run_view
from scheduler.views.status import FRESH_S, read_status
from scheduler.views.summary import summary
from tests.scheduler.view_kit import Play, demo_lab

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
        slot="laptop/cpu0", run="r0013", attempt=1, candidate="c0009", name=LONG, kind="new", seed=13,
        started_at=now - 12, phase="train", elapsed_s=8.4, budget_s=20.0, step=82, loss=3.1234,
    )  # fmt: skip
    broken = LiveSlot("other/cpu0", problem="cache is missing: run `arsched prepare --contract cpu` on other")
    return Live(now - 1, 4242, "nov23", "pool-a", 2, False, (busy, LiveSlot("laptop/cpu1"), broken))


def without_sentences(view: CandidateView) -> CandidateView:
    """How decisions are worded is the policy's to say and to test."""
    return replace(view, decisions=tuple(replace(d, sentence=SENTENCE, reason="") for d in view.decisions))


def test_leaderboard(play: Play) -> None:
    check("leaderboard", painted(leaderboard_screen(leaderboard(play.facts()))))


def test_leaderboard_cut_short(play: Play) -> None:
    said = painted(leaderboard_screen(leaderboard(play.facts()), limit=2))
    assert "depth-1" in said and "no-softcap" not in said and "6 more" in said


def test_status_while_the_queue_is_run(play: Play) -> None:
    play.add(LONG, "late", "later")
    play.lease(play.ledger.runs.queued("nov23")[0])
    view = read_status(play.ledger, play.facts(), live_of(play), play.clock.now)
    fixed = tuple(replace(row, why="it is next") for row in view.queued)
    check("status_running", painted(status_screen(replace(view, queued=fixed, recent_decisions=(SENTENCE,)))))


def test_status_when_nobody_runs_the_queue(play: Play) -> None:
    play.add("late")
    view = read_status(play.ledger, play.facts(), live_of(play), play.clock.now + FRESH_S + 1)
    said = painted(status_screen(view))
    assert "nobody runs the queue" in said and "arsched submit" in said and "4242" not in said


def test_status_of_another_lab_is_not_ours(play: Play) -> None:
    other = replace(live_of(play), tag="other")
    assert read_status(play.ledger, play.facts(), other, play.clock.now).runner is None


def test_a_run(play: Play) -> None:
    crashed = run_view(play.ledger, play.facts(), play.ledger.runs.get("r0009", "nov23"))
    check("run_crashed", painted(run_screen(crashed)))
    scored = run_view(play.ledger, play.facts(), play.ledger.runs.get("r0004", "nov23"))
    check("run_scored", painted(run_screen(scored)))


def test_a_candidate(play: Play) -> None:
    view = candidate_view(play.ledger, play.facts(), play.ledger.candidates.get("depth-1", "nov23"))
    check("candidate", painted(candidate_screen(without_sentences(view))))


def test_the_summary(play: Play) -> None:
    check("summary", painted(summary_screen(summary(play.ledger, play.facts()))))


def test_a_diff_is_never_wrapped(play: Play) -> None:
    view = candidate_view(play.ledger, play.facts(), play.ledger.candidates.get("depth-1", "nov23"))
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
        status_screen(read_status(play.ledger, facts, live_of(play), play.clock.now)),
        candidate_screen(replace(candidate_view(play.ledger, facts, long), diff="")),
        explanation_screen(explain_candidate(facts, long, 2)),
        explanation_screen(explain_run(facts, facts.runs[0], 2)),
        summary_screen(summary(play.ledger, facts)),
    ]
    for screen in screens:
        assert [line for line in painted(screen, width).splitlines() if cell_len(line) > width] == []


def test_markup_of_a_candidate_is_text(play: Play) -> None:
    play.script = lambda name, before: 1.9
    play.add("[red]x[/red]:smile:", title="[/] [link=http://evil]x")
    play.until_idle()
    assert "[red]x[/red]:smile:" in painted(leaderboard_screen(leaderboard(play.facts())), 120)


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
    assert numbers.seconds(value) == said


def test_a_quiet_contract_gets_a_fifth_decimal() -> None:
    assert numbers.bpb(0.97412, 0.0004, numbers.decimals(0.0005)) == "0.97412 ± 0.00040"
    assert numbers.effect(-0.013, 0.005, numbers.decimals(0.005)) == "−0.0130 ± 0.0050"
