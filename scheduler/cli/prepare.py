"""`arsched prepare`: a contract's cache on this node."""

from __future__ import annotations

from pathlib import Path

import click

from harness.contract import describe_references
from scheduler.cli import options
from scheduler.cli.output import print_json


@click.command(short_help="Build a contract's cache on this node.")
@click.option("--contract", metavar="C", help=f"{describe_references()}. Default: the lab's, else cpu.")
@click.option("--from", "brought", type=click.Path(path_type=Path), metavar="DIR", help="Take shards from this folder.")
@click.option("--verify", is_flag=True, help="Only check the cache that is there, reading all of it.")
@options.tag
@options.dry_run
@options.as_json
def command(
    contract: str | None, brought: Path | None, verify: bool, tag: str | None, dry_run: bool, as_json: bool
) -> int:
    """Download, tokenise and pack the contract's corpus, once per node. Interrupted, it goes on where it stopped."""
    from scheduler.actions.prepare import prepare_command, run_program

    ref = contract or _of_lab(tag)
    program = prepare_command(ref, brought, as_json=as_json, verify=verify)
    if dry_run:
        print_json({"contract": ref, "command": program}) if as_json else click.echo(" ".join(program))
        return 0
    code = run_program(program)
    if code and as_json:
        print_json({"error": f"the cache of {ref} is not prepared; stderr says why", "hint": ""})
    return code


def _of_lab(tag: str | None) -> str:
    """The contract of the lab; "cpu" where there is none, unless one was asked for."""
    from scheduler.contracts import contract_ref
    from scheduler.domain.errors import LabProblem
    from scheduler.workspace import open_workspace

    try:
        with open_workspace(tag) as space:
            return contract_ref(space.lab, space.paths.contract)
    except LabProblem:
        if tag:
            raise
        return "cpu"
