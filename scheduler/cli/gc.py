"""`arsched gc`: remove what labs left on this disk and nothing needs any more."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

import click

from scheduler.actions.gc import Sweep, collect_garbage
from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_text
from scheduler.domain.text import clean, count


@click.command()
@click.option("--days", type=options.Finite(0), default=30, show_default=True, metavar="D",
              help="Caches of other contracts and output of ended labs go once not used for so long.")  # fmt: skip
@options.dry_run
@options.as_json
def command(days: float, dry_run: bool, as_json: bool) -> None:
    """Remove worktrees of decided candidates, scratch folders of proposers, spools of runs that are over, output of
    labs that ended, what verbs of a laptop left here, and caches that no lab here and no shipped contract uses.

    Never a branch or ref, a ledger or its copies, what a running queue uses, or a worktree with anything uncommitted.
    """
    sweep = collect_garbage(days, dry_run=dry_run)
    if as_json:
        print_json(_as_json(sweep, dry_run))
        return
    for one in sweep.removed:
        print_text(f"{one.kind:<9} {size(one.bytes):>9}  {_shown(one.path)}  {clean(one.reason)}")
    for kept in sweep.kept:
        log(f"kept      {_shown(kept.path)}: {clean(kept.reason)}")
    kinds = Counter(one.kind for one in sweep.removed)
    what = ", ".join(count(number, kind) for kind, number in kinds.items()) or "nothing to remove"
    print_text(f"{'would free' if dry_run else 'freed'} {size(sweep.bytes)}: {what}")


def size(number: float) -> str:
    """Bytes as people say them, in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def _shown(path: Path) -> str:
    with suppress(OSError, ValueError):  # the current folder was deleted
        path = path.relative_to(Path.cwd())
    return clean(str(path))


def _as_json(sweep: Sweep, dry_run: bool) -> dict[str, object]:
    removed = [{**one._asdict(), "path": str(one.path)} for one in sweep.removed]
    kept = [{"path": str(one.path), "reason": one.reason} for one in sweep.kept]
    return {"dry_run": dry_run, "bytes": sweep.bytes, "removed": removed, "kept": kept}
