"""index.html: the whole night on one page that needs nothing else, neither network nor script.

Everything that candidates, agents and logs said is text: Jinja escapes it, and it was cleaned and is cut here. The page
is a function of the view and the pictures alone, so the same ledger gives the same bytes.
"""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from scheduler.screens import numbers
from scheduler.screens.search import proposer, spent, used
from scheduler.screens.whiskers import Axis, effect_axis, value_axis
from scheduler.views.explanation import describe_merge
from scheduler.views.medians import describe_medians
from scheduler.views.night import Night

TEMPLATES = Path(__file__).parent / "templates"
TITLE, SENTENCE = 200, 600  # characters
DIFF_LINES, DIFF_CHARACTERS, ALL_DIFFS = 160, 12_000, 1_000_000
LOGS = 150_000  # characters of what failed ideas printed, the earliest first; their reasons are all shown


def render_page(night: Night, progress_png: bytes, timeline_png: bytes) -> str:
    """The page as text."""
    places = numbers.decimals(night.summary.noise_sd_bpb)
    axis = effect_axis(_effects(night))
    return (
        _environment(places, axis)
        .get_template("page.html")
        .render(
            night=night,
            summary=night.summary,
            pictures={"progress": _inline(progress_png), "timeline": _inline(timeline_png)},
            axis=axis,
            claim_axis=value_axis([score for scores in night.claim_runs for score in scores]),
            diffs=_diffs(night),
            logs=_logs(night),
            describe_merge=describe_merge,
            describe_medians=describe_medians,
            spent=spent,
            used=used,
            proposer=proposer,
        )
    )


def _environment(places: int, axis: Axis) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bpb": lambda value, se=None: numbers.bpb(value, se, places),
        "effect": lambda value, se: numbers.effect(value, se, places),
        "signed": lambda value: numbers.effect(value, 0.0, places).partition(" ")[0],
        "p": numbers.probability,
        "seconds": numbers.seconds,
        "count": numbers.count,
        "hours": numbers.hours,
        "share": numbers.share,
        "title": lambda text: numbers.cut(text, TITLE),
        "sentence": lambda text: numbers.cut(text, SENTENCE),
    }
    environment.globals["whisker"] = axis.whisker
    return environment


def _effects(night: Night) -> list[tuple[float, float]]:
    rows = [line.row for line in night.candidates]
    return [(row.effect_bpb, row.effect_se_bpb or 0.0) for row in rows if row.effect_bpb is not None]


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _diffs(night: Night) -> dict[str, tuple[str, ...]]:
    """Candidate id -> lines of its diff, cut; () where the page has no room for more."""
    found: dict[str, tuple[str, ...]] = {}
    left = ALL_DIFFS
    for step in reversed(night.lineage):
        lines = _cut_diff(step.diff) if left > 0 else ()
        left -= sum(map(len, lines))
        found[step.row.candidate] = lines
    return found


def _cut_diff(diff: str) -> tuple[str, ...]:
    lines = diff[:DIFF_CHARACTERS].splitlines()
    if len(lines) <= DIFF_LINES and len(diff) <= DIFF_CHARACTERS:
        return tuple(lines)
    return (*lines[:DIFF_LINES], "… and more")


def _logs(night: Night) -> dict[str, str]:
    """Proposal id -> what was printed, while there is room."""
    found: dict[str, str] = {}
    left = LOGS
    for idea in night.failed_ideas:
        if 0 < len(idea.log) <= left:
            found[idea.id] = idea.log
            left -= len(idea.log)
    return found
