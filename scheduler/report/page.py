"""The report of a lab as files: index.html, which needs nothing else, its timeline, and results.tsv.

Everything that candidates, agents and logs printed is text: Jinja escapes it, and the filters clean and cut it. The
page is a function of the data and the pictures alone, so the same ledger gives the same bytes. timeline.png has a lane
for every slot and a bar for every attempt. Not covered: progress.png (report.plots).
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from scheduler.domain.text import clean, one_line, shorten
from scheduler.lab import Workspace, write_whole
from scheduler.report.plots import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    halo,
    new_figure,
    note_nothing,
    render_progress,
    set_title,
    settle,
    to_png,
)
from scheduler.screens import text
from scheduler.screens.drawings import effect_axis, value_axis
from scheduler.views import View, utc
from scheduler.views.candidates import describe_merge, history, results_tsv
from scheduler.views.facts import LabFacts
from scheduler.views.report import Bar, ReportData, Summary, Timeline, read_report
from scheduler.views.runs import describe_medians
from scheduler.views.search import claim_sentence

TEMPLATES = Path(__file__).parent / "templates"
TITLE, SENTENCE = 200, 600  # characters
DIFF_LINES, DIFF_CHARACTERS, ALL_DIFFS = 160, 12_000, 1_000_000
LOG_LINES, LOG_CHARACTERS = 12, 2000  # of what a proposer printed, the last ones
ALL_LOGS = 150_000  # characters of what failed ideas printed, the earliest first; their reasons are all shown


@dataclass(frozen=True, slots=True)
class Report(View):
    """Where the files are, and the totals."""

    index_html: str
    progress_png: str
    timeline_png: str
    results_tsv: str
    summary: Summary


def write_report(space: Workspace, folder: Path) -> Report:
    """Write every file whole, replacing earlier ones. Raises LabProblem when the folder cannot be written."""
    with space.ledger.snapshot():
        facts = LabFacts(space.ledger, space.ledger.labs.get(space.tag))
        data, course, results = read_report(facts), history(facts), results_tsv(facts)
    pictures = (render_progress(course), render_timeline(data.timeline, facts.lab.contract_words))
    report = Report(
        index_html=str(folder / "index.html"),
        progress_png=str(folder / "progress.png"),
        timeline_png=str(folder / "timeline.png"),
        results_tsv=str(folder / "results.tsv"),
        summary=data.summary,
    )
    write_whole(Path(report.results_tsv), results)
    write_whole(Path(report.progress_png), pictures[0])
    write_whole(Path(report.timeline_png), pictures[1])
    write_whole(Path(report.index_html), render_page(data, *pictures))
    return report


def render_page(data: ReportData, progress_png: bytes, timeline_png: bytes) -> str:
    """The page as text."""
    rows, claim = [line.row for line in data.candidates], data.summary.claim
    axis = effect_axis((row.effect_bpb, row.effect_se_bpb or 0.0) for row in rows if row.effect_bpb is not None)
    places = text.decimals(data.summary.noise_sd_bpb)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bpb": lambda value, se=None: text.bpb(value, se, places),
        "effect": lambda value, se: text.effect(value, se, places),
        "signed": lambda value: text.effect(value, 0.0, places).partition(" ")[0],
        "p": text.probability,
        "seconds": text.seconds,
        "count": text.count,
        "hours": text.hours,
        "share": text.share,
        "utc": utc,
        "title": lambda words: shorten(one_line(words), TITLE),
        "sentence": lambda words: shorten(one_line(words), SENTENCE),
    }
    environment.globals |= {
        "axis": axis,
        "claim_axis": value_axis([*claim.first_scores, *claim.final_scores] if claim else []),
        "claim_sentence": claim_sentence,
        "describe_merge": describe_merge,
        "describe_medians": describe_medians,
        "noise_text": text.noise_text,
        "spent": text.spent_text,
        "used": text.efficiency_text,
    }
    pictures = {"progress": _inline(progress_png), "timeline": _inline(timeline_png)}
    page = environment.get_template("page.html")
    return page.render(data=data, summary=data.summary, pictures=pictures, diffs=_diffs(data), logs=_logs(data))


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _diffs(data: ReportData) -> dict[str, tuple[str, ...]]:
    """Candidate id -> lines of its diff, cut; () where the page has no room for more."""
    found: dict[str, tuple[str, ...]] = {}
    left = ALL_DIFFS
    for step in reversed(data.lineage):
        lines = tuple(step.diff[:DIFF_CHARACTERS].splitlines()) if left > 0 else ()
        if len(lines) > DIFF_LINES or (lines and len(step.diff) > DIFF_CHARACTERS):
            lines = (*lines[:DIFF_LINES], "… and more")
        left -= sum(map(len, lines))
        found[step.row.candidate] = lines
    return found


def _logs(data: ReportData) -> dict[str, str]:
    """Proposal id -> the end of what was printed, while there is room."""
    found: dict[str, str] = {}
    left = ALL_LOGS
    for idea in data.failed_ideas:
        lines = clean(idea.log[-4 * LOG_CHARACTERS :]).strip().splitlines()
        log = "\n".join(lines[-LOG_LINES:])[-LOG_CHARACTERS:]
        if 0 < len(log) <= left:
            found[idea.id] = log
            left -= len(log)
    return found


KINDS = {
    "baseline": ("run of the baseline", GREEN),
    "new": ("first run", SKY),
    "repeat": ("repeat", ORANGE),
    "union": ("run of a union or port", PURPLE),
    "claim": ("run of the claim", BLUE),
    "audit": ("audit", GREY),
}
FINE = ("ok", "")
LANE_IN, FRAME_IN, MOST_LANES = 0.4, 1.7, 40  # inches for a slot, and around them all
LANE, BAR = 1.0, 0.74  # heights
FEW_BARS = 60  # up to which every bar names its candidate
NAMED_SLOTS = 40
HOURS_FROM_S, MINUTES_FROM_S = 3 * 3600.0, 240.0


def render_timeline(timeline: Timeline, contract: str) -> bytes:
    """The picture as PNG bytes; higher with more slots."""
    figure, axes = new_figure(FRAME_IN + LANE_IN * min(MOST_LANES, max(2, len(timeline.slots))))
    _draw(axes, timeline)
    runs = len({bar.run for bar in timeline.bars})
    set_title(axes, timeline.tag, contract, f"{runs} runs  ·  {len(timeline.slots)} slots")
    if not timeline.bars:
        note_nothing(axes)
    settle(figure, axes)
    return to_png(figure)


def _draw(axes: Any, timeline: Timeline) -> None:
    lanes = {slot: place for place, slot in enumerate(reversed(timeline.slots))}
    divisor, unit = _unit(timeline.length_s)
    few = len(timeline.bars) <= FEW_BARS
    for kind, (label, color) in KINDS.items():
        _bars(axes, [bar for bar in timeline.bars if bar.kind == kind], lanes, divisor, color, label, few=few)
    _troubles(axes, timeline.bars, lanes, divisor, few=few)
    if few:
        _names(axes, timeline, lanes, divisor)
    for pause in timeline.pauses:
        axes.axvline(pause.at_s / divisor, color=GREY, linestyle=":", linewidth=1.5)
        words = {"rotation": 90, "fontsize": 8, "color": INK, "va": "center", "ha": "left", "path_effects": halo()}
        axes.text(pause.at_s / divisor, (len(lanes) - 1) / 2, f"{pause.skipped_s / 3600:.1f} h left out", **words)
    _axes(axes, timeline, lanes, divisor, unit)


def _bars(
    axes: Any, bars: Sequence[Bar], lanes: dict[str, int], divisor: float, color: str, label: str, *, few: bool
) -> None:
    """One collection for every lane: a patch for every bar takes seconds when there are thousands."""
    by_slot: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for bar in bars:
        by_slot[bar.slot].append((bar.start_s / divisor, (bar.end_s - bar.start_s) / divisor))
    style = {"facecolors": color, "edgecolors": "white", "linewidth": 0.5 if few else 0.0, "zorder": 2}
    for number, (slot, spans) in enumerate(by_slot.items()):
        axes.broken_barh(spans, (lanes[slot] - BAR / 2, BAR), **style, label="" if number else label)


def _troubles(axes: Any, bars: Sequence[Bar], lanes: dict[str, int], divisor: float, *, few: bool) -> None:
    """Attempts that gave no score: a cross in the bar, whatever its colour."""
    bad = [bar for bar in bars if bar.outcome not in FINE and not bar.outcome.startswith("suspect")]
    if bad:
        x = [(bar.start_s + bar.end_s) / 2 / divisor for bar in bad]
        y = [lanes[bar.slot] for bar in bad]
        size, edge = (7, 2) if few else (4, 1.2)
        axes.plot(x, y, "x", color=RED, markersize=size, markeredgewidth=edge, zorder=4, label="no score")


def _names(axes: Any, timeline: Timeline, lanes: dict[str, int], divisor: float) -> None:
    for bar in timeline.bars:
        middle = (bar.start_s + bar.end_s) / 2 / divisor
        style = {"ha": "center", "va": "center", "fontsize": 7.5, "color": INK, "path_effects": halo()}
        if bar.end_s - bar.start_s > timeline.length_s / 40:
            axes.text(middle, lanes[bar.slot] - 0.22, bar.candidate, **style, clip_on=True, zorder=3)


def _axes(axes: Any, timeline: Timeline, lanes: dict[str, int], divisor: float, unit: str) -> None:
    axes.set_xlim(0, max(timeline.length_s, 1.0) / divisor)
    axes.set_ylim(-LANE / 2, max(1, len(lanes)) - LANE / 2)
    step = max(1, -(-len(lanes) // NAMED_SLOTS))
    shown = [(place, slot) for slot, place in lanes.items() if place % step == 0]
    axes.set_yticks([place for place, _ in shown], [slot for _, slot in shown], parse_math=False)
    axes.set_xlabel(f"{unit} since {timeline.began_at or 'the start'}", fontsize=12)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _unit(length_s: float) -> tuple[float, str]:
    if length_s >= HOURS_FROM_S:
        return 3600.0, "hours"
    return (60.0, "minutes") if length_s >= MINUTES_FROM_S else (1.0, "seconds")
