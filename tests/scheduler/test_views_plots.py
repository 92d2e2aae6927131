"""progress.png appears whole for labs of any size, shows what matters, and survives hostile names."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from scheduler.report import timeline
from scheduler.report.plots import (
    DPI,
    HEIGHT_IN,
    WIDTH_IN,
    draw_marks,
    extent,
    named_steps,
    render_progress,
    scale_of,
    write_names,
)
from scheduler.views.candidates import CandidatePoint, History, RunPoint, Step, history
from scheduler.views.report import Bar, Timeline
from tests.scheduler.view_kit import demo_lab

SIZE = (round(HEIGHT_IN * DPI), round(WIDTH_IN * DPI))


def played(runs: int, name: str = "idea", every: int = 12) -> History:
    """A made-up course: every twelfth run is promoted, every seventh crashes, every fiftieth diverges."""
    points, candidates, steps, best = [], [], [], 1.95
    for number in range(1, runs + 1):
        ref = f"c{number:04d}"
        score: float | None = best + 0.02 * (number % 5) + (2.0 if number % 50 == 0 else 0.0)
        if number % 7 == 0:
            score = None
        elif number == 1 or number % every == 0:
            best = score = best - 0.01
            steps.append(Step(number, ref, f"{name} {number}", best, 0.003))
        points.append(RunPoint(number, f"r{number:04d}", ref, score))
        status = "promoted" if steps and steps[-1].candidate == ref else "failed" if score is None else "discarded"
        candidates.append(CandidatePoint(number, ref, f"{name} {number}", status, status, score, 0.005, 1))
    return History("nov23", "cpu", 0.005 if runs else None, tuple(points), tuple(candidates), tuple(steps))


def pixels(picture: bytes) -> np.ndarray:
    """RGB of a decoded PNG, uint8-like floats [rows, columns, 3]."""
    return np.asarray(matplotlib.image.imread(io.BytesIO(picture)))[..., :3]


@pytest.mark.parametrize("runs", [0, 1, 2, 500])
def test_a_lab_of_any_size_is_drawn(runs: int) -> None:
    drawn = pixels(render_progress(played(runs)))
    assert drawn.shape[:2] == SIZE
    assert 0.005 < (drawn < 0.9).any(axis=-1).mean() < 0.5


def test_two_pictures_of_the_same_lab_are_the_same() -> None:
    assert render_progress(played(40)) == render_progress(played(40))


def test_a_played_lab_is_drawn(tmp_path: Path) -> None:
    play = demo_lab(tmp_path / "ledger.db")
    assert pixels(render_progress(history(play.facts()))).shape[:2] == SIZE


@pytest.mark.parametrize("name", ["$\\frac{", "字" * 200, "a\u0301" * 80, "", "$" * 9, "\\n{}^_"])
def test_hostile_names_are_only_text(name: str) -> None:
    assert pixels(render_progress(played(30, name))).shape[:2] == SIZE


def test_one_divergence_does_not_flatten_the_rest() -> None:
    scale = scale_of(played(120))
    assert scale.high < 2.2 and scale.low < 1.85


def test_what_is_too_high_is_marked_at_the_edge() -> None:
    axes = Figure().subplots()
    course = played(60)
    draw_marks(axes, course, scale_of(course))
    arrows = [line for line in axes.lines if line.get_marker() == "^"]
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in arrows] == [[50]]
    assert [list(line.get_xdata()) for line in crosses] == [[n for n in range(1, 61) if n % 7 == 0]]
    assert any(text.get_text().startswith("3.") for text in axes.texts)


def test_every_score_inside_is_drawn_inside() -> None:
    for runs in (1, 2, 5, 30, 200):
        course = played(runs)
        scale = scale_of(course)
        scores = [point.val_bpb for point in course.runs if point.val_bpb is not None and point.val_bpb < 3]
        assert all(scale.low < score < scale.high for score in scores)


def test_noise_looks_like_noise() -> None:
    """Two runs a hair apart do not fill the picture."""
    points = (RunPoint(1, "r0001", "c0001", 1.9), RunPoint(2, "r0002", "c0001", 1.9001))
    course = History("t", "cpu", 0.005, points, (), (Step(1, "c0001", "b", 1.90005, 0.003),))
    scale = scale_of(course)
    assert scale.high - scale.low > 5 * 0.005


def test_names_of_many_baselines_keep_their_distance() -> None:
    course = played(500)
    chosen = sorted(step.number for step in named_steps(course, 500))
    assert 10 <= len(chosen) < len(course.baselines)
    assert min(after - before for before, after in itertools.pairwise(chosen)) >= 0.02 * 500


@pytest.mark.parametrize("bars", [12, 26, 32, 40, 60])
def test_the_names_of_runs_next_to_each_other_keep_apart(bars: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(timeline, "to_png", lambda figure: drawn.append(figure) or b"")
    runs = [Bar("node/cpu0", f"r{n:04d}", f"c{n:04d}", "new", "ok", 60.0 * n, 60.0 * n + 59) for n in range(bars)]
    timeline.render_timeline(Timeline("t", "", 60.0 * bars, ("node/cpu0",), tuple(runs), ()), "cpu")
    (figure,) = drawn
    names = [text for text in figure.axes[0].texts if text.get_text().startswith("c0")]
    assert len(names) == (bars if bars < 20 else len(names))
    assert not any(one.overlaps(two) for one, two in itertools.pairwise(map(extent, names)))


def close_scores(course: History) -> History:
    """Everything of one lab within a few thousandths: names are in each other's way."""
    near = tuple(replace(c, val_bpb=c.val_bpb and 1.95 + 0.001 * (c.number % 3)) for c in course.candidates)
    steps = tuple(replace(step, val_bpb=1.94 - 0.001 * n) for n, step in enumerate(course.baselines))
    return replace(course, candidates=near, baselines=steps)


@pytest.mark.parametrize(("runs", "every"), [(22, 12), (22, 6), (60, 12)])
def test_no_name_covers_another(runs: int, every: int) -> None:
    """Some find another place, some are left out; the first and the last baseline always have theirs."""
    course = close_scores(played(runs, "an-idea-of-some-length-no", every))
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=DPI)
    axes, scale = figure.subplots(), scale_of(course)
    draw_marks(axes, course, scale)
    figure.draw_without_rendering()
    write_names(axes, course, scale)
    boxes = [extent(text) for text in axes.texts]
    assert 2 <= len(boxes) < len(course.candidates)
    assert not any(one.overlaps(two) for one, two in itertools.combinations(boxes, 2))
    named = [text.get_text() for text in axes.texts]
    assert named[0].startswith(course.baselines[-1].name[:20]) and named[1].startswith("first baseline")
