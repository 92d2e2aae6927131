"""`arsched calibrate`: the baseline with the same seeds on every slot, and which slots score differently."""

from __future__ import annotations

import click

from scheduler.actions.calibrate import calibration_runs, queue_calibration, seeds_of
from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_screen
from scheduler.cli.submit import run_and_watch
from scheduler.domain.text import count
from scheduler.lab import open_workspace
from scheduler.views.calibration import calibration_view
from scheduler.views.facts import LabFacts

SEEDS = 3


@click.command()
@click.option(
    "--runs", "seeds", type=click.IntRange(1, 100), default=SEEDS, show_default=True, metavar="N",
    help="So many runs on each slot, those there are already counted.",
)  # fmt: skip
@options.pool
@options.changing
def command(
    seeds: int, address: str | None, slots: int | None, tag: str | None, dry_run: bool, as_json: bool
) -> int:  # fmt: skip
    """Run the current baseline N times on every slot (GPU or core), with the same seeds on each.

    Reports each slot's offset from the mean of all in bpb with its error, steps and speed, and which slots differ by
    more than two errors. The runs go through the queue and decide nothing. Repeated, it goes on where it stopped.
    """
    code = 0
    with open_workspace(tag) as space:
        ref, _ = queue_calibration(space, seeds, dry_run=dry_run)
        candidate = space.ledger.candidates.get(ref, space.tag)
        if dry_run:
            missing = max(0, seeds - len(seeds_of(calibration_runs(space), ref)))
            log(f"would calibrate with {ref} {candidate.name}: {count(missing, 'more run')} on each slot")
        else:
            log(f"calibrate {ref} {candidate.name} on every slot, {count(seeds, 'run')} on each")
            code = run_and_watch(space, [candidate], address, slots)
        with space.ledger.snapshot():
            view = calibration_view(LabFacts(space.ledger, space.lab, whole=False), ref, calibration_runs(space))
    if as_json:
        print_json(view.to_json())
    else:
        from scheduler.screens.details import calibration_screen

        print_screen(calibration_screen(view))
    return code
