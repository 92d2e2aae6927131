"""`arsched promote CANDIDATE`: by hand."""

from __future__ import annotations

import click

from scheduler.actions.candidate import promote_by_hand
from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_text
from scheduler.lab import open_workspace


@click.command()
@click.argument("ref", metavar="CANDIDATE", shell_complete=options.ids)
@options.changing
def command(ref: str, tag: str | None, dry_run: bool, as_json: bool) -> None:
    """Make CANDIDATE (id, name or last) the baseline, whatever the rule says of it. The record says it was by hand."""
    with open_workspace(tag) as space:
        made = promote_by_hand(space, ref, dry_run=dry_run)
        branch = space.lab.branch
    effect = made.decision.effect
    if as_json:
        print_json({
            "candidate": made.candidate.id, "name": made.candidate.name, "base": made.decision.base_id,
            "commit": made.commit or None, "branch": branch, "effect_bpb": effect.diff, "effect_se_bpb": effect.se,
            "p_better": effect.p_better, "sentence": made.sentence, "dry_run": dry_run,
        })  # fmt: skip
        return
    print_text(f"{'would be ' if dry_run else ''}{made.sentence}")
    if not dry_run:
        log(f"{branch} is at {made.commit[:12]}" + (f"; {made.followed} follows" if made.followed else ""))
