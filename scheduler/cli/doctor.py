"""`arsched doctor`: is everything here?"""

from __future__ import annotations

from pathlib import Path

import click

from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_text, typable
from scheduler.doctor import run_checks
from scheduler.doctor.checks import Grade
from scheduler.domain.text import clean, count
from scheduler.queue.progress import tidy
from scheduler.queue.runtime import PoolOptions


@click.command()
@click.option("--contract", metavar="C", help="Examine for this contract. Default: the lab's, else cpu.")
@click.option("--quick", is_flag=True, help="Compare sizes instead of reading every byte of the cache.")
@options.pool
@options.reading
def command(
    contract: str | None, quick: bool, address: str | None, slots: int | None, tag: str | None, as_json: bool
) -> int:
    """Look at this machine, the repository, the cache and the slots (with --address: of a cluster).

    One line for each thing; exit code 1 when a problem is in the way.
    """
    results = []
    for result in run_checks(tag, contract, not quick, PoolOptions(address, slots), log, Path.cwd()):
        results.append(result)
        if not as_json:
            print_text(tidy(f"{result.grade:<8} {result.subject:<10} {result.message}"))
            if result.hint:
                print_text(f"{'':<19} → {clean(typable(result.hint))}")  # whole: it may be a command
    problems = sum(result.grade is Grade.PROBLEM for result in results)
    if as_json:
        print_json({"ok": not problems, "findings": [
            {"about": one.subject, "grade": one.grade.value, "said": one.message, "hint": typable(one.hint)}
            for one in results
        ]})  # fmt: skip
    else:
        log("all is well" if not problems else f"{count(problems, 'problem')} to solve first")
    return 1 if problems else 0
