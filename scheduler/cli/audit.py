"""`arsched audit RUN`: a stored candidate scored again from scratch, both results side by side."""

from __future__ import annotations

import click

from scheduler.actions.audit import queue_audit
from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_screen
from scheduler.cli.submit import run_and_watch
from scheduler.domain.errors import ExitCode, NotYet
from scheduler.domain.run import Finished
from scheduler.lab import open_workspace
from scheduler.views.audit import audit_view
from scheduler.views.facts import LabFacts


@click.command()
@click.argument("ref", metavar="RUN", shell_complete=options.ids)
@click.option("--seed", type=click.IntRange(1, 10**9), metavar="N", help="Seed of the new run. Default: a fresh one.")
@options.pool
@options.reading
def command(
    ref: str, seed: int | None, address: str | None, slots: int | None, tag: str | None, as_json: bool
) -> int:  # fmt: skip
    """Run the stored train.py of RUN (r0012, `last`, or a candidate) once more with a new seed, and compare.

    The audit goes through the queue and decides nothing. Exit code 0 when both results agree, 3 when they do not.
    """
    with open_workspace(tag) as space:
        first, queued = queue_audit(space, ref, seed)
        candidate = space.ledger.candidates.get(first.candidate_id, space.tag)
        log(f"audit     {queued.id} scores {candidate.id} {candidate.name} again, seed {queued.seed}")
        code = run_and_watch(space, [candidate], address, slots)
        again = space.ledger.runs.get(queued.id, space.tag)
        if not isinstance(again.state, Finished):
            if code:
                return code
            raise NotYet(f"{queued.id} has no result", f"why: arsched explain {queued.id}")
        with space.ledger.snapshot():
            view = audit_view(LabFacts(space.ledger, space.lab, whole=False), first, again)
    if as_json:
        print_json(view.to_json())
    else:
        from scheduler.screens.details import audit_screen

        print_screen(audit_screen(view))
    return 0 if view.consistent else ExitCode.ANSWER_IS_NO
