"""`arsched report`: progress.png, results.tsv and the totals."""

from __future__ import annotations

import os
from pathlib import Path

import click

from scheduler.app.cli import options
from scheduler.app.cli.output import print_json, say


@click.command(short_help="Progress plot and results.tsv.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Default: report/")
@options.tag
@options.as_json
def command(out: Path | None, tag: str | None, as_json: bool) -> None:
    """Draw progress.png, write results.tsv in autoresearch's five columns, and print the totals of the lab."""
    from scheduler.app.report.write import write_report
    from scheduler.app.screens.summary import summary_screen
    from scheduler.app.screens.terminal import paint
    from scheduler.app.workspace import open_workspace

    with open_workspace(tag) as space:
        report = write_report(space, out or space.paths.report)
    if as_json:
        print_json(report.to_json())
        return
    paint(summary_screen(report.summary))
    say("")
    for path in (report.progress_png, report.results_tsv):
        say(f"wrote {os.path.relpath(path)}")
