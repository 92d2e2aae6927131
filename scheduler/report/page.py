"""The report of a lab as files: index.html, which needs nothing else, and results.tsv.

Everything that candidates, agents and logs printed is text: Jinja escapes it, and the filters clean and cut it. The
page is a function of the data and the pictures alone, so the same ledger gives the same bytes. Not covered: the
pictures (report.plots, report.timeline).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from scheduler.domain.text import clean, count, one_line, shorten
from scheduler.lab import Workspace, write_whole
from scheduler.policy.explain import describe_undecided
from scheduler.report.plots import render_progress
from scheduler.report.timeline import render_timeline
from scheduler.screens import text
from scheduler.screens.drawings import effect_axis, value_axis
from scheduler.views import View, utc
from scheduler.views.candidates import describe_merge, history, results_tsv
from scheduler.views.facts import LabFacts
from scheduler.views.report import ReportData, Summary, read_report
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
        "count": count,
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
        "describe_undecided": describe_undecided,
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
