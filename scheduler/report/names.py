"""Names in progress.png: of every baseline, and of the other candidates while they are few and there is room."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scheduler.report.marks import AT_TOP, GREY, INK, KEPT, OFF_SCALE, fits
from scheduler.report.scale import Scale, is_crowded, named_steps
from scheduler.views.history import CandidatePoint, History, Step

FEW = 24  # candidates up to which every one is named
NAME_CHARACTERS = 26
ROOM_LEFT = 0.3  # of the width, that a name left of its step needs
NEAR_EDGE = 0.8  # of the width, from where on a name goes left of its marker


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
    axes.annotate(_short(step.name), (step.number, step.val_bpb), **place, fontsize=8.5, **_look(INK))


def extent(name: Any) -> Any:
    """The box of the letters in pixels, without the line to what they name, which may pass below others."""
    from matplotlib.text import Text

    name.get_window_extent()  # moves it to where it belongs
    return Text.get_window_extent(name)


def _ways_to_name_step(axes: Any, step: Step, history: History, scale: Scale) -> Iterator[Any]:
    """Below and left of the step, where nothing has ever been measured; right of the first ones; then deeper."""
    text = "first baseline" if step == history.baselines[0] else _short(step.name)
    right = step.number < ROOM_LEFT * scale.last_run
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
            arrowprops=_line_from((0, 1) if right else (1, 1)) if deeper else None,
            **_look(INK),
        )


def _ways_to_name(axes: Any, point: CandidatePoint, scale: Scale) -> Iterator[Any]:
    """Right of the marker, or left of it near the right edge; a little higher, then a little lower; then over there."""
    shown = fits(point, scale)
    height = point.val_bpb if shown else AT_TOP if point.val_bpb is None else OFF_SCALE
    first = 9 if point.number <= NEAR_EDGE * scale.last_run else -9
    for across, up in ((first, 3), (first, -3), (-first, 3), (-first, -3)):
        yield axes.annotate(
            _short(point.name),
            (point.number, height),
            xycoords="data" if shown else axes.get_xaxis_transform(),
            xytext=(across, up),
            textcoords="offset points",
            ha="left" if across > 0 else "right",
            va=("bottom" if up > 0 else "top") if shown else "center",
            fontsize=9.5,
            **_look("#555555"),
        )


def _line_from(corner: tuple[int, int]) -> dict[str, Any]:
    return {"arrowstyle": "-", "color": GREY, "linewidth": 0.8, "relpos": corner, "shrinkA": 0}


def _look(color: str) -> dict[str, Any]:
    return {"color": color, "zorder": 7, "path_effects": halo(), "parse_math": False}


def halo() -> list[Any]:
    """White around letters, so that lines may pass below them."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3, foreground="white", alpha=0.8)]


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARACTERS else name[: NAME_CHARACTERS - 1] + "…"
