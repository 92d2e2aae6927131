"""The report of a lab: one page with everything, its pictures, results.tsv in autoresearch's columns, the totals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scheduler.files import write_whole
from scheduler.report.page import render_page
from scheduler.report.plots import render_progress, render_timeline
from scheduler.views.facts import read_facts
from scheduler.views.history import history
from scheduler.views.night import read_night
from scheduler.views.plain import View
from scheduler.views.results import result_rows, results_tsv
from scheduler.views.summary import Summary
from scheduler.workspace import Workspace


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
        facts = read_facts(space.ledger, space.ledger.labs.get(space.tag))
        night = read_night(space.ledger, facts)
    pictures = {
        "progress.png": render_progress(history(facts)),
        "timeline.png": render_timeline(night.timeline, facts.lab.contract_name),
    }
    write_whole(folder / "results.tsv", results_tsv(result_rows(facts)))
    for name, picture in pictures.items():
        write_whole(folder / name, picture)
    write_whole(folder / "index.html", render_page(night, *pictures.values()))
    return Report(
        index_html=str(folder / "index.html"),
        progress_png=str(folder / "progress.png"),
        timeline_png=str(folder / "timeline.png"),
        results_tsv=str(folder / "results.tsv"),
        summary=night.summary,
    )
