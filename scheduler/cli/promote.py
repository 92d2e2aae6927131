"""`arsched promote CANDIDATE`: by hand."""

from __future__ import annotations

import click

from scheduler.cli import options
from scheduler.cli.output import print_json, print_text, say


@click.command(short_help="Make a candidate the baseline by hand.")
@click.argument("ref", metavar="CANDIDATE")
@options.tag
@options.dry_run
@options.as_json
def command(ref: str, tag: str | None, dry_run: bool, as_json: bool) -> None:
    """Make CANDIDATE (id, name or last) the baseline, whatever the rule says of it. The record says it was by hand."""
    from scheduler.actions.promote import promote_by_hand
    from scheduler.workspace import open_workspace

    with open_workspace(tag) as space:
        done = promote_by_hand(space, ref, dry_run=dry_run)
        branch = space.lab.branch
    effect = done.decision.effect
    if as_json:
        print_json({
            "candidate": done.candidate.id, "name": done.candidate.name, "base": done.decision.base_id,
            "commit": done.commit or None, "branch": branch, "effect_bpb": effect.diff, "effect_se_bpb": effect.se,
            "p_better": effect.p_better, "sentence": done.sentence, "dry_run": dry_run,
        })  # fmt: skip
        return
    print_text(f"{'would be ' if dry_run else ''}{done.sentence}")
    if not dry_run:
        say(f"{branch} is at {done.commit[:12]}" + (f"; {done.followed} follows" if done.followed else ""))
