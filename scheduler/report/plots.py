"""progress.png: every run of a lab with its score, means with their errors, and the staircase of baselines.

Shows the interesting part of the scores, not the one run that diverged. Colours are Okabe and Ito's
(https://jfly.uni-koeln.de/color/), and every kind has its own marker, so that nothing is said by colour alone.
"""

from __future__ import annotations

import io
import itertools
import logging
import statistics
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from scheduler.domain.text import count, shorten
from scheduler.views.candidates import CandidatePoint, History, Step
from scheduler.views.facts import describe_noise

WIDTH_IN, HEIGHT_IN, DPI = 12.0, 6.75, 160  # 16:9: fills a slide
INK, GREEN, GREY, ORANGE, RED = "#222222", "#009E73", "#8c8c8c", "#E69F00", "#D55E00"
BLUE, SKY, PURPLE = "#0072B2", "#56B4E9", "#CC79A7"
CROWDED_RUNS = 150  # from which on markers shrink
FEW_EDGES = 8  # scores above the picture up to which each is written out
AT_TOP, OFF_SCALE = 0.982, 0.93  # height of what has no score, and of scores too high, as a share of the axes
FEW = 24  # candidates up to which every one is named
NAME_CHARACTERS = 26
ROOM_LEFT = 0.3  # of the width, that a name left of its step needs
NEAR_EDGE = 0.8  # of the width, from where on a name goes left of its marker
ROOM_ABOVE = 0.35  # above the first baseline, as a multiple of the way from there to the best score
MIN_SIGMAS = 6.0  # the picture is at least this many noise sd high, so that noise looks like noise
FALLBACK_SD_BPB = 0.01  # before any noise is known
MARGIN = 0.14  # of the height, free below
SLANTED_MARGIN = 0.35  # the same where many baselines carry slanted names
TOP_MARGIN = 0.2  # of the height, free above: for what has no score
MANY_STEPS = 6  # promotions from which on names are slanted
MIN_APART = 0.02  # of the width, between two slanted names
FREE_LEFT = 0.08  # of the width: a slanted name there would run out of the picture


@dataclass(frozen=True, slots=True)
class Scale:
    """val_bpb at the lower and upper edge, and the number of the last run (at least 1)."""

    low: float
    high: float
    last_run: int


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of candidate is drawn. `size` is relative to the plot's."""

    label: str
    states: tuple[str, ...]
    color: str
    marker: str
    size: float
    zorder: int


KEPT = Kind("promoted: mean ± error", ("baseline", "promoted"), GREEN, "o", 1.4, 5)
SHELVED = Kind("near-miss or merged", ("shelved",), SKY, "v", 1.1, 4)
DISCARDED = Kind("discarded", ("discarded",), GREY, "s", 0.9, 4)
UNDECIDED = Kind("undecided", ("open", "contender", "cancelled"), ORANGE, "D", 1.0, 4)


def render_progress(history: History) -> bytes:
    """The picture as PNG bytes."""
    figure, (axes,) = new_figure(HEIGHT_IN)
    scale = scale_of(history)
    draw_marks(axes, history, scale)
    _frame(axes)
    set_title(axes, history.tag, history.contract, _counts(history))
    if not history.runs:
        note_nothing(axes)
    elif history.noise_sd_bpb is not None:
        noise = describe_noise(history.noise_sd_bpb, history.noise_parts)
        note = f"errors: one standard error of the mean, from a run-to-run noise of {noise}"
        axes.text(0.0, -0.115, note, transform=axes.transAxes, fontsize=8.5, color=INK)
    settle(figure)
    with _any_letter():
        write_names(axes, history, scale)
    return to_png(figure)


def scale_of(history: History) -> Scale:
    """Scores above `high` are the caller's to draw at the edge."""
    last_run = max((point.number for point in history.runs), default=1)
    scores = [point.val_bpb for point in history.runs if point.val_bpb is not None]
    if not scores:
        return Scale(0.0, 1.0, last_run)
    best, least = min(scores), MIN_SIGMAS * (history.noise_sd_bpb or FALLBACK_SD_BPB)
    start = history.baselines[0].val_bpb if history.baselines else best
    limit = start + max(ROOM_ABOVE * (start - best), least, _fence(history))
    top = max(score for score in scores if score <= max(limit, best))
    height = max(top - best, least)
    below = SLANTED_MARGIN if is_crowded(history) else MARGIN
    return Scale(best - below * height, best + (1 + TOP_MARGIN) * height, last_run)


def _fence(history: History) -> float:
    """How far above the baseline of its time an ordinary score lies, at most: Tukey's outer fence."""
    above, steps = [], iter(history.baselines)
    step, following = next(steps, None), next(steps, None)
    for point in history.runs:
        while following is not None and following.number <= point.number:
            step, following = following, next(steps, None)
        if step is not None and point.val_bpb is not None:
            above.append(point.val_bpb - step.val_bpb)
    if len(above) < 2:
        return 0.0
    low, _, high = statistics.quantiles(above, n=4, method="inclusive")
    return high + 3 * (high - low)


def is_crowded(history: History) -> bool:
    return len(history.baselines) > MANY_STEPS + 1


def named_steps(history: History, last_run: int) -> tuple[Step, ...]:
    """The baselines to name: all when they are few, else the largest gains that keep their distance."""
    steps = history.baselines
    if not is_crowded(history):
        return steps
    gains = {after: before.val_bpb - after.val_bpb for before, after in itertools.pairwise(steps)}
    chosen: list[Step] = []
    for step in sorted(gains, key=lambda step: -gains[step]):
        if step.number >= FREE_LEFT * last_run and all(
            abs(step.number - other.number) >= MIN_APART * last_run for other in chosen
        ):
            chosen.append(step)
    return tuple(chosen)


def draw_marks(axes: Any, history: History, scale: Scale) -> None:
    """Everything that stands for data, and the limits it is drawn in."""
    size = 4.0 if len(history.runs) > CROWDED_RUNS else 7.0
    axes.set_xlim(0.2, 1.02 * scale.last_run + 0.8)
    axes.set_ylim(scale.low, scale.high)
    _staircase(axes, history.baselines, scale)
    _single_runs(axes, history, scale, size)
    for kind in (KEPT, SHELVED, DISCARDED, UNDECIDED):
        _means(axes, history, kind, scale, size)
    _merged(axes, history, scale, size)
    _off_scale(axes, history, scale, size)
    _without_score(axes, history, size)


def _staircase(axes: Any, steps: Sequence[Step], scale: Scale) -> None:
    if not steps:
        return
    ends = [*(step.number for step in steps[1:]), scale.last_run + 1]
    x = [edge for step, end in zip(steps, ends, strict=True) for edge in (step.number, end)]
    y = [step.val_bpb for step in steps for _ in range(2)]
    error = [step.val_bpb_se for step in steps for _ in range(2)]
    axes.plot(x, y, color=GREEN, linewidth=2.2, zorder=2, label="baseline")
    low, high = ([v + sign * e for v, e in zip(y, error, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=GREEN, alpha=0.13, linewidth=0, zorder=1)


def _single_runs(axes: Any, history: History, scale: Scale, size: float) -> None:
    shown = [point for point in history.runs if point.val_bpb is not None and point.val_bpb <= scale.high]
    single, fresh = ([point for point in shown if point.claim is claim] for claim in (False, True))
    for points, marker, style in (
        (single, ".", {"color": INK, "alpha": 0.4, "markersize": size - 1, "label": "one run"}),
        (fresh, "*", {"color": BLUE, "markersize": 1.3 * size, "label": "fresh run of the claim"}),
    ):
        if points:
            axes.plot([p.number for p in points], [p.val_bpb for p in points], marker, zorder=8, **style)


def _merged(axes: Any, history: History, scale: Scale, size: float) -> None:
    """A ring around unions and ports, whatever became of them."""
    rings = [(p.number, p.val_bpb) for p in history.candidates if p.merged and fits(p, scale)]
    if rings:
        x, y = zip(*rings, strict=True)
        style = {"markersize": 2.2 * size, "markerfacecolor": "none", "markeredgecolor": PURPLE, "markeredgewidth": 1.5}
        axes.plot(x, y, "h", **style, zorder=6, label="union or port")


def _means(axes: Any, history: History, kind: Kind, scale: Scale, size: float) -> None:
    points = [p for p in history.candidates if p.status in kind.states and p.val_bpb is not None]
    inside = [(p.number, p.val_bpb, p.val_bpb_se or 0.0) for p in points if fits(p, scale)]
    if not inside:
        return
    x, y, error = zip(*inside, strict=True)
    edge = INK if kind is KEPT else kind.color
    style = {"color": kind.color, "markersize": kind.size * size, "markeredgecolor": edge, "zorder": kind.zorder}
    if kind is DISCARDED and len(history.runs) > CROWDED_RUNS:  # hundreds of errors would hide what they are about
        axes.plot(x, y, kind.marker, **style, alpha=0.6, label=kind.label)
        return
    axes.errorbar(x, y, error, fmt=kind.marker, **style, elinewidth=1.2, capsize=2.5, label=kind.label)


def _off_scale(axes: Any, history: History, scale: Scale, size: float) -> None:
    """Scores too high for the picture: an arrow at the top, with the value while they are few."""
    high = [p for p in history.candidates if p.val_bpb is not None and not fits(p, scale)]
    top = axes.get_xaxis_transform()
    if high:
        numbers = [point.number for point in high]
        axes.plot(numbers, [OFF_SCALE] * len(high), "^", color=GREY, markersize=size, transform=top, zorder=6)
    for point in high if len(high) <= FEW_EDGES else ():
        place = {"xycoords": top, "xytext": (0, -8), "textcoords": "offset points", "ha": "center", "va": "top"}
        axes.annotate(f"{point.val_bpb:.2f}", (point.number, OFF_SCALE), **place, fontsize=8, color=INK)


def _without_score(axes: Any, history: History, size: float) -> None:
    failed = [point.number for point in history.runs if point.val_bpb is None]
    if failed:
        style = {"color": RED, "markersize": size, "markeredgewidth": 2, "label": "no score (crash, timeout, …)"}
        axes.plot(failed, [AT_TOP] * len(failed), "x", transform=axes.get_xaxis_transform(), zorder=6, **style)


def fits(point: CandidatePoint, scale: Scale) -> bool:
    return point.val_bpb is not None and point.val_bpb <= scale.high


def write_names(axes: Any, history: History, scale: Scale) -> None:
    """Call once the axes have their place: each name looks for room, and one that finds none is left out."""
    taken: list[Any] = []
    steps = named_steps(history, scale.last_run)
    if is_crowded(history):
        for step in steps:  # slanted, at a distance from each other
            _name_slanted(axes, step)
        return
    for step in dict.fromkeys((*steps[-1:], *steps[:1], *reversed(steps))):  # the last and the first are sure of room
        _write(_ways_to_name_step(axes, step, history, scale), taken)
    if len(history.candidates) <= FEW:
        for point in (p for p in history.candidates if p.status not in KEPT.states):
            _write(_ways_to_name(axes, point, scale), taken)


def _write(ways: Iterator[Any], taken: list[Any]) -> None:
    """Keep the first of the ways that covers nothing that is taken."""
    for name in ways:
        box = extent(name)
        if not any(box.overlaps(other) for other in taken):
            taken.append(box)
            return
        name.remove()


def _name_slanted(axes: Any, step: Step) -> None:
    place = {"xytext": (-3, -5), "textcoords": "offset points", "ha": "right", "va": "top", "rotation": 45}
    axes.annotate(shorten(step.name, NAME_CHARACTERS), (step.number, step.val_bpb), **place, fontsize=8.5, **_look(INK))


def extent(name: Any) -> Any:
    """The box of the letters in pixels, without the line to what they name, which may pass below others."""
    from matplotlib.text import Text

    name.get_window_extent()  # moves it to where it belongs
    return Text.get_window_extent(name)


def _ways_to_name_step(axes: Any, step: Step, history: History, scale: Scale) -> Iterator[Any]:
    """Below and left of the step, where nothing has ever been measured; right of the first ones; then deeper."""
    text = "first baseline" if step == history.baselines[0] else shorten(step.name, NAME_CHARACTERS)
    right = step.number < ROOM_LEFT * scale.last_run
    corner = (0, 1) if right else (1, 1)
    line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.8, "relpos": corner, "shrinkA": 0}
    for deeper in (0, 16, 32, 48):
        yield axes.annotate(
            f"{text}  {step.val_bpb:.4f}",
            (step.number, step.val_bpb),
            xytext=(10, -18 - deeper) if right else (-9, -5 - deeper),
            textcoords="offset points",
            ha="left" if right else "right",
            va="top",
            fontsize=11,
            weight="bold",
            arrowprops=line if deeper else None,
            **_look(INK),
        )


def _ways_to_name(axes: Any, point: CandidatePoint, scale: Scale) -> Iterator[Any]:
    """Right of the marker, or left of it near the right edge; a little higher, then a little lower; then over there."""
    shown = fits(point, scale)
    height = point.val_bpb if shown else AT_TOP if point.val_bpb is None else OFF_SCALE
    first = 9 if point.number <= NEAR_EDGE * scale.last_run else -9
    for across, up in ((first, 3), (first, -3), (-first, 3), (-first, -3)):
        yield axes.annotate(
            shorten(point.name, NAME_CHARACTERS),
            (point.number, height),
            xycoords="data" if shown else axes.get_xaxis_transform(),
            xytext=(across, up),
            textcoords="offset points",
            ha="left" if across > 0 else "right",
            va=("bottom" if up > 0 else "top") if shown else "center",
            fontsize=9.5,
            **_look("#555555"),
        )


def _look(color: str) -> dict[str, Any]:
    return {"color": color, "zorder": 7, "path_effects": halo(), "parse_math": False}


def halo() -> list[Any]:
    """White around letters, so that lines may pass below them."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3, foreground="white", alpha=0.8)]


def new_figure(*heights_in: float) -> tuple[Any, list[Any]]:
    """The figure and its axes from top to bottom, one for each height; they share what is across."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # of a home that it cannot write to it says so at length
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, sum(heights_in)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(len(heights_in), sharex=True, height_ratios=heights_in, squeeze=False)[:, 0])


def settle(figure: Any) -> None:
    """Add the legend and give everything its place, so that what comes on top can look for room."""
    if any(axes.get_legend_handles_labels()[0] for axes in figure.axes):
        figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=10)
    with _any_letter():
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def to_png(figure: Any) -> bytes:
    picture = io.BytesIO()
    with _any_letter():
        figure.savefig(picture, format="png")
    return picture.getvalue()


@contextmanager
def _any_letter() -> Iterator[None]:
    """A letter that the font lacks is drawn as a box, without a warning."""
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


def set_title(axes: Any, tag: str, contract: str, right: str) -> None:
    title = f"autoresearch/{tag}  ·  contract {contract}"
    axes.set_title(title, loc="left", fontsize=14, weight="bold", parse_math=False)
    axes.set_title(right, loc="right", fontsize=11)


def note_nothing(axes: Any) -> None:
    middle = {"transform": axes.transAxes, "ha": "center", "fontsize": 16, "color": GREY}
    axes.text(0.5, 0.5, "no run has finished yet", **middle)


def _counts(history: History) -> str:
    counts = (
        count(max(0, len(history.candidates) - 1), "candidate"),
        count(len(history.runs), "run"),
        count(max(0, len(history.baselines) - 1), "promotion"),
    )
    return "  ·  ".join(counts)
