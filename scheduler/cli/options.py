"""Options that several verbs share, so that they read and behave the same everywhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from functools import reduce
from typing import Any

import click

from scheduler.cli.output import spell_address
from scheduler.ray.failures import check_address

Option = Callable[[Callable[..., Any]], Callable[..., Any]]


class Finite(click.FloatRange):
    """A number in a range. nan is in every range to click, and as a limit it would never be reached; nor would inf."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


def ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """What a shell may complete to a candidate or a run: ids, names and `last`; nothing where there is no lab."""
    from scheduler.domain.errors import ArschedError
    from scheduler.lab import open_workspace

    with suppress(ArschedError, OSError), open_workspace(ctx.params.get("tag")) as space:
        candidates = space.ledger.candidates.list(space.tag)
        runs = [run.id for run in space.ledger.runs.list(space.tag)] if incomplete.startswith("r") else []
        known = ["last", *(one.id for one in candidates), *(one.name for one in candidates), *runs]
        return [name for name in known if name.startswith(incomplete)]
    return []


def tags(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """What a shell may complete to a lab."""
    from scheduler.domain.errors import ArschedError
    from scheduler.lab import open_workspace

    with suppress(ArschedError, OSError), open_workspace() as space:
        return [lab.tag for lab in space.ledger.labs.all() if lab.tag.startswith(incomplete)]
    return []


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON value on stdout, nothing else there.")
tag = click.option("--tag", metavar="TAG", shell_complete=tags, help="The lab, when it is not the current one.")
dry_run = click.option("--dry-run", is_flag=True, help="Say what would happen, change nothing.")


def _checked(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """An address that can be one, before anything is queued; hints name it from here on. Raises UsageProblem."""
    if value and not ctx.resilient_parsing:
        check_address(value)
    spell_address(value or "")
    return value


address = click.option(
    "--address",
    metavar="ADDRESS",
    callback=_checked,
    help="Ray cluster to run on: auto, or host:port. Default: this machine alone.",
)
slots = click.option("--slots", type=click.IntRange(1), metavar="N", help="Use at most so many slots.")


def _together(*several: Option) -> Option:
    return lambda command: reduce(lambda made, option: option(made), reversed(several), command)


pool = _together(address, slots)  # where the queue is run
reading = _together(tag, as_json)
changing = _together(tag, dry_run, as_json)


def dated_tag() -> str:
    """Like "nov23": what a lab is called when no tag was given."""
    return time.strftime("%b%d").lower()
