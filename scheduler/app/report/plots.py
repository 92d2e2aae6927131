"""progress.png: every run of a lab, kept and discarded, and the staircase of baselines.

Frame, words and file; the marks are plot_marks'. Draws what it is given; reads no ledger.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

from scheduler.app.files import write_whole
from scheduler.app.report.marks import GREY, INK, draw_marks
from scheduler.app.report.scale import scale_of
from scheduler.app.views.history import History

WIDTH_IN, HEIGHT_IN, DPI = 12.0, 6.75, 160  # 16:9: fills a slide


def draw_progress(history: History, path: Path) -> None:
    """Write the plot as PNG, whole or not at all. Raises LabProblem when it cannot be written."""
    write_whole(path, render_progress(history))


def render_progress(history: History) -> bytes:
    """The picture as PNG bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw_marks(axes, history, scale_of(history))
    _frame(axes)
    _words(figure, axes, history)
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter the font lacks is drawn as a box
        figure.savefig(picture, format="png")
    return picture.getvalue()


def _frame(axes: Any) -> None:
    axes.set_xlabel("finished runs", fontsize=12)
    axes.set_ylabel("val_bpb (lower is better)", fontsize=12)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _words(figure: Any, axes: Any, history: History) -> None:
    title = f"autoresearch/{history.tag}  ·  contract {history.contract}"
    axes.set_title(title, loc="left", fontsize=14, weight="bold", parse_math=False)
    axes.set_title(_counts(history), loc="right", fontsize=11)
    if not history.runs:
        middle = {"transform": axes.transAxes, "ha": "center", "fontsize": 16, "color": GREY}
        axes.text(0.5, 0.5, "no run has finished yet", **middle)
    elif history.noise_sd_bpb is not None:
        note = f"errors: one standard error of the mean, from a run-to-run noise of sd {history.noise_sd_bpb:.4f} bpb"
        axes.text(0.0, -0.115, note, transform=axes.transAxes, fontsize=8.5, color=INK)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=10)


def _counts(history: History) -> str:
    counts = {
        "candidate": max(0, len(history.candidates) - 1),
        "run": len(history.runs),
        "promotion": max(0, len(history.baselines) - 1),
    }
    return "  ·  ".join(f"{count} {noun}{'' if count == 1 else 's'}" for noun, count in counts.items())
