"""`arsched doctor`: is everything here?"""

from __future__ import annotations

from pathlib import Path

import click

from scheduler.cli import options
from scheduler.cli.output import print_json, print_text, say
from scheduler.cli.program import typable


@click.command(short_help="Is everything here that a night needs?")
@click.option("--contract", metavar="C", help="Examine for this contract. Default: the lab's, else cpu.")
@click.option("--quick", is_flag=True, help="Compare sizes instead of reading every byte of the cache.")
@options.address
@options.slots
@options.tag
@options.as_json
def command(
    contract: str | None, quick: bool, address: str | None, slots: int | None, tag: str | None, as_json: bool
) -> int:
    """Look at this machine, the repository, the cache and the slots (with --address: of a cluster).

    One line for each thing; exit code 1 when a problem is in the way.
    """
    from scheduler.doctor.examine import Wish, examine
    from scheduler.doctor.findings import Grade
    from scheduler.queue.pools import PoolOptions
    from scheduler.queue.progress import tidy

    findings = []
    for finding in examine(Wish(tag, contract, not quick, PoolOptions(address, slots)), say, Path.cwd()):
        findings.append(finding)
        if not as_json:
            print_text(tidy(f"{finding.grade:<8} {finding.about:<10} {finding.said}"))
            if finding.hint:
                print_text(tidy(f"{'':<19} → {typable(finding.hint)}"))
    problems = sum(finding.grade is Grade.PROBLEM for finding in findings)
    if as_json:
        print_json({"ok": not problems, "findings": [
            {"about": one.about, "grade": one.grade.value, "said": one.said, "hint": typable(one.hint)}
            for one in findings
        ]})  # fmt: skip
    else:
        say("all is well" if not problems else f"{problems} problem{'s' if problems > 1 else ''} to solve first")
    return 1 if problems else 0
