"""Names in progress.png: of every baseline, and of the other candidates while they are few and there is room."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scheduler.app.report.marks import AT_TOP, INK, KEPT, OFF_SCALE, fits
from scheduler.app.report.scale import Scale, is_crowded, named_steps
from scheduler.app.views.history import CandidatePoint, History

FEW = 24  # candidates up to which every one is named
NAME_CHARACTERS = 26
ROOM_LEFT = 0.3  # of the width, that a name left of its step needs
NEAR_EDGE = 0.8  # of the width, from where on a name goes left of its marker


def name_baselines(axes: Any, history: History, scale: Scale) -> None:
    """Names below and left of each step, where nothing has ever been measured; slanted where they are many."""
    slanted = is_crowded(history)
    style = {"fontsize": 8.5, "rotation": 45} if slanted else {"fontsize": 11, "weight": "bold"}
    for step in named_steps(history, scale.last_run):
        text = "first baseline" if step == history.baselines[0] else _short(step.name)
        right = not slanted and step.number < ROOM_LEFT * scale.last_run
        axes.annotate(
            text if slanted else f"{text}  {step.val_bpb:.4f}",
            (step.number, step.val_bpb),
            xytext=(10, -18) if right else (-3, -5) if slanted else (-9, -5),
            textcoords="offset points",
            ha="left" if right else "right",
            va="top",
            **style,
            color=INK,
            zorder=7,
            path_effects=halo(),
            parse_math=False,
        )


def name_others(axes: Any, history: History, scale: Scale) -> None:
    """Beside each marker where no other name is in the way, else not at all. Call once the axes have their place."""
    if len(history.candidates) > FEW:
        return
    taken = [text.get_window_extent() for text in axes.texts]
    for point in (p for p in history.candidates if p.status not in KEPT.states):
        for name in _ways_to_name(axes, point, scale):
            box = name.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            name.remove()


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
            color="#555555",
            zorder=7,
            path_effects=halo(),
            parse_math=False,
        )


def halo() -> list[Any]:
    """White around letters, so that lines may pass below them."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3, foreground="white", alpha=0.8)]


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARACTERS else name[: NAME_CHARACTERS - 1] + "…"
