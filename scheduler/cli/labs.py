"""`arsched labs [TAG]`: the labs of this repository, and which one commands mean without --tag."""

from __future__ import annotations

import click

from scheduler.cli import options
from scheduler.cli.output import print_json, print_screen, print_text
from scheduler.domain.lab import Lab
from scheduler.lab import Workspace, open_workspace
from scheduler.views import utc


@click.command()
@click.argument("tag", required=False, shell_complete=options.tags)
@options.as_json
def command(tag: str | None, as_json: bool) -> None:
    """List the labs of this repository; with TAG, make that one the lab that commands mean without --tag.

    A process that runs another lab goes on with that one.
    """
    with open_workspace() as space:
        if tag:
            space.ledger.labs.set_current(tag)
        current = space.ledger.labs.current() or space.lab
        shown = [_describe(space, lab, current) for lab in space.ledger.labs.all()]
    if as_json:
        print_json({"current": current.tag, "labs": shown})
    elif tag:
        print_text(f"lab {tag} is the current one")
    else:
        _draw(shown)


def _describe(space: Workspace, lab: Lab, current: Lab) -> dict[str, object]:
    candidates = space.ledger.candidates.list(lab.tag)
    return {
        "tag": lab.tag, "branch": lab.branch, "contract": lab.contract_name, "candidates": len(candidates),
        "created_at": utc(lab.created_at), "is_current": lab.tag == current.tag, "paused": lab.paused_at is not None,
    }  # fmt: skip


def _draw(labs: list[dict[str, object]]) -> None:
    from scheduler.screens.terminal import Columns

    table = Columns(
        "", "lab", "contract", "candidates", "begun", "branch", right=("candidates",), drop=("branch", "begun")
    )
    for lab in labs:
        mark = "▶" if lab["is_current"] else ""
        paused = ", paused" if lab["paused"] else ""
        cells = (f"{lab['tag']}{paused}", lab["contract"], lab["candidates"], lab["created_at"], lab["branch"])
        table.add(mark, *map(str, cells))
    print_screen([table])
