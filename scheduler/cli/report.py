"""`arsched report`: one page with everything, its pictures, results.tsv and the totals."""

from __future__ import annotations

import os
from pathlib import Path

import click

from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_screen
from scheduler.lab import open_workspace


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Default: report/")
@options.reading
def command(out: Path | None, tag: str | None, as_json: bool) -> None:
    """Write the lab on one HTML page, its plots as PNG and results.tsv in autoresearch's columns; print the totals.

    index.html needs no other file and no network: every candidate with its effect and error, unions, dead ends,
    failed ideas, and who held which slot when.
    """
    from scheduler.report.page import write_report
    from scheduler.screens.tables import summary_screen

    with open_workspace(tag) as space:
        report = write_report(space, out or space.paths.report)
    if as_json:
        print_json(report.to_json())
        return
    print_screen(summary_screen(report.summary))
    log("")
    for path in (report.index_html, report.progress_png, report.timeline_png, report.results_tsv):
        log(f"wrote {os.path.relpath(path)}")
