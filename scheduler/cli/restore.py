"""`arsched restore`: a lab whose ledger is gone, put together again."""

from __future__ import annotations

from pathlib import Path

import click

from scheduler.actions.restore import Restoration, restore
from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_problem, print_text


@click.command()
@click.option("--from", "copy", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="Take this copy of the ledger. Default: the latest that is found.")  # fmt: skip
@click.option("--contract", metavar="C", help="The lab's contract, by name or file, where it is not found.")
@options.as_json
def command(copy: Path | None, contract: str | None, as_json: bool) -> int:
    """Bring back every lab of this repository: from the latest saved copy of the ledger, then from the refs and
    promotions that git keeps. Says what could not be brought back. A ledger that is there is completed.

    Exit code 1 when a lab could not be brought back at all.
    """
    done = restore(copy=copy, contract=contract)
    if as_json:
        print_json(_as_json(done))
    else:
        _print(done)
    if not done.refused:
        log("next: arsched status")
    return 1 if done.refused else 0


def _print(done: Restoration) -> None:
    if done.damaged:
        print_text(f"ledger    the one that was there is damaged, or empty: kept as {done.damaged}")
    if done.copy:
        print_text(f"ledger    {done.copy} is put back")
    for lab in done.labs:
        for text in lab.back or ("nothing was missing that git knows of",):
            print_text(f"{lab.tag:<9} {text}")
        for text in lab.lost:
            print_text(f"{lab.tag:<9} lost: {text}")
    for problem in done.refused:
        print_problem(problem, as_json=False)


def _as_json(done: Restoration) -> dict[str, object]:
    labs = [{"tag": lab.tag, "restored": lab.back, "lost": lab.lost} for lab in done.labs]
    refused = [{"error": problem.message, "hint": problem.hint} for problem in done.refused]
    return {"copy": str(done.copy or ""), "damaged": str(done.damaged or ""), "labs": labs, "refused": refused}
