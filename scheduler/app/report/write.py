"""The report of a lab: progress.png, results.tsv in autoresearch's five columns, and the totals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scheduler.app.files import write_whole
from scheduler.app.report.plots import draw_progress
from scheduler.app.views.facts import read_facts
from scheduler.app.views.history import history
from scheduler.app.views.plain import View
from scheduler.app.views.results import result_rows, results_tsv
from scheduler.app.views.summary import Summary, summary
from scheduler.app.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Report(View):
    """Where the files are, and the totals."""

    progress_png: str
    results_tsv: str
    summary: Summary


def write_report(space: Workspace, folder: Path) -> Report:
    """Write both files whole, replacing earlier ones. Raises LabProblem when the folder cannot be written."""
    facts = read_facts(space.ledger, space.lab)
    picture, table = folder / "progress.png", folder / "results.tsv"
    write_whole(table, results_tsv(result_rows(facts)))
    draw_progress(history(facts), picture)
    return Report(str(picture), str(table), summary(space.ledger, facts))
