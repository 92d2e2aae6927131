"""`arsched new NAME`: a worktree to edit."""

from __future__ import annotations

import os

import click

from scheduler.actions.candidate import new_worktree
from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_text
from scheduler.lab import open_workspace


@click.command()
@click.argument("name")
@options.changing
def command(name: str, tag: str | None, dry_run: bool, as_json: bool) -> None:
    """Make candidates/NAME, a git worktree on the current baseline. Edit its train.py, then submit it."""
    with open_workspace(tag) as space:
        made = new_worktree(space, name, dry_run=dry_run)
    path = os.path.relpath(made.path)
    if as_json:
        print_json({"name": name, "path": str(made.path), "branch": made.branch, "base": made.base.id,
                    "commit": made.commit, "dry_run": dry_run})  # fmt: skip
        return
    print_text(path)
    log(f"\n{'would be' if dry_run else 'is'} on baseline {made.base.id} {made.base.name} ({made.commit[:12]})")
    log(f"next:\n  edit {path}/train.py, and nothing else\n  arsched submit {path}")
