"""progress.png and timeline.png: every run of a lab with the staircase of baselines, and who held which slot when.

Frame and words; marks are report.marks' and report.timeline's, names report.names'. Draws what it is given; reads and
writes no file.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scheduler.report.marks import GREY, INK, draw_marks
from scheduler.report.names import write_names
from scheduler.report.scale import scale_of
from scheduler.report.timeline import draw_timeline
from scheduler.views.history import History
from scheduler.views.timeline import Timeline

WIDTH_IN, HEIGHT_IN, DPI = 12.0, 6.75, 160  # 16:9: fills a slide
LANE_IN, FRAME_IN, MOST_LANES = 0.4, 1.7, 40  # of the timeline: inches for a slot, and around them all


def render_progress(history: History) -> bytes:
    """The picture as PNG bytes."""
    figure, axes = _figure(HEIGHT_IN)
    scale = scale_of(history)
    draw_marks(axes, history, scale)
    _frame(axes)
    _title(axes, history.tag, history.contract, _counts(history))
    if not history.runs:
        _nothing(axes)
    elif history.noise_sd_bpb is not None:
        note = f"errors: one standard error of the mean, from a run-to-run noise of sd {history.noise_sd_bpb:.4f} bpb"
        axes.text(0.0, -0.115, note, transform=axes.transAxes, fontsize=8.5, color=INK)
    _settle(figure, axes)
    with _any_letter():
        write_names(axes, history, scale)
    return _png(figure)


def render_timeline(timeline: Timeline, contract: str) -> bytes:
    """The picture as PNG bytes; higher with more slots."""
    figure, axes = _figure(FRAME_IN + LANE_IN * min(MOST_LANES, max(2, len(timeline.slots))))
    draw_timeline(axes, timeline)
    runs = len({bar.run for bar in timeline.bars})
    _title(axes, timeline.tag, contract, f"{runs} runs  ·  {len(timeline.slots)} slots")
    if not timeline.bars:
        _nothing(axes)
    _settle(figure, axes)
    return _png(figure)


def _figure(height_in: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _settle(figure: Any, axes: Any) -> None:
    """Add the legend and give everything its place, so that what comes on top can look for room."""
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=10)
    with _any_letter():
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _png(figure: Any) -> bytes:
    picture = io.BytesIO()
    with _any_letter():
        figure.savefig(picture, format="png")
    return picture.getvalue()


@contextmanager
def _any_letter() -> Iterator[None]:
    """A letter the font lacks is drawn as a box, without a word."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def _frame(axes: Any) -> None:
    axes.set_xlabel("finished runs", fontsize=12)
    axes.set_ylabel("val_bpb (lower is better)", fontsize=12)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _title(axes: Any, tag: str, contract: str, right: str) -> None:
    title = f"autoresearch/{tag}  ·  contract {contract}"
    axes.set_title(title, loc="left", fontsize=14, weight="bold", parse_math=False)
    axes.set_title(right, loc="right", fontsize=11)


def _nothing(axes: Any) -> None:
    middle = {"transform": axes.transAxes, "ha": "center", "fontsize": 16, "color": GREY}
    axes.text(0.5, 0.5, "no run has finished yet", **middle)


def _counts(history: History) -> str:
    counts = {
        "candidate": max(0, len(history.candidates) - 1),
        "run": len(history.runs),
        "promotion": max(0, len(history.baselines) - 1),
    }
    return "  ·  ".join(f"{count} {noun}{'' if count == 1 else 's'}" for noun, count in counts.items())
