"""Options that several verbs share, so that they read and behave the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import click

Option = Callable[[Callable[..., Any]], Callable[..., Any]]

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON value on stdout, nothing else there.")
tag = click.option("--tag", metavar="TAG", help="The lab, when it is not the current one.")
dry_run = click.option("--dry-run", is_flag=True, help="Say what would happen, change nothing.")
address = click.option(
    "--address", metavar="ADDRESS", help="Ray cluster to run on: auto, or host:port. Default: this machine alone."
)
slots = click.option("--slots", type=click.IntRange(1), metavar="N", help="Use at most so many slots.")


def _together(*several: Option) -> Option:
    return lambda command: reduce(lambda made, option: option(made), reversed(several), command)


pool = _together(address, slots)  # where the queue is run
reading = _together(tag, as_json)
changing = _together(tag, dry_run, as_json)
