"""`arsched init`: a lab."""

from __future__ import annotations

from pathlib import Path

import click

from harness.contract import describe_references
from scheduler.actions.candidate import pending_runs
from scheduler.actions.init import InitRequest, check_request, create_lab
from scheduler.actions.submit import describe_outcome
from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_text
from scheduler.cli.prepare import ensure_prepared
from scheduler.cli.submit import author, run_and_watch
from scheduler.domain.decision import PRESETS
from scheduler.domain.lab import SANDBOX_LEVELS
from scheduler.lab import choose_contract, open_workspace
from scheduler.shipped import SHIPPED, begin_repository, may_begin


@click.command()
@click.option("--tag", metavar="T", help="Name of the lab, the date when not given; its branch is autoresearch/T.")
@click.option("--contract", default="cpu", show_default=True, metavar="C", help=f"{describe_references()}.")
@click.option("--train", type=click.Path(path_type=Path), metavar="FILE", help="Start from this train.py, as it is.")
@click.option("--preset", type=click.Choice(list(PRESETS)), default="default", show_default=True,
              help="How sure a promotion must be.")  # fmt: skip
@click.option("--sandbox", type=click.Choice(SANDBOX_LEVELS), default="full", show_default=True,
              help="What candidates run in. Below full their scores are worth less; every screen says so.")  # fmt: skip
@click.option("--run/--no-wait", "wait", default=True, help="Run the baseline now (default), or only queue it.")
@options.pool
@options.dry_run
@options.as_json
def command(
    tag: str | None, contract: str, train: Path | None, preset: str, sandbox: str, wait: bool,
    address: str | None, slots: int | None, dry_run: bool, as_json: bool,
) -> int:  # fmt: skip
    """Start a lab from HEAD: its train.py with the contract's constants becomes the first baseline.

    Your checkout is not switched. The contract's cache must be prepared. In an empty folder a repository with train.py
    and its manual is made first, and the cache, where that needs no download.
    """
    tag = tag or options.dated_tag()
    request = InitRequest(tag, contract, train, preset, author(), sandbox, dry_run)
    if not dry_run and may_begin(Path.cwd()):
        check_request(request)
        ensure_prepared(choose_contract(contract))
        begin_repository(Path.cwd())
        log(f"a git repository in {Path.cwd()}: {', '.join(SHIPPED)}")
    created = create_lab(request)
    for note in created.notes:
        log(f"note: {note}")
    lab = created.lab
    value: dict[str, object] = {
        "tag": tag, "branch": lab.branch, "contract": lab.contract_name, "contract_digest": lab.contract_digest,
        "cache_digest": lab.cache_digest, "preset": preset, "sandbox": lab.sandbox, "dry_run": dry_run,
    }  # fmt: skip
    if created.baseline is None:
        print_json(value) if as_json else print_text(f"would create lab {tag} on branch {lab.branch}")
        return 0
    baseline = created.baseline
    log(f"lab {tag}: branch {lab.branch}, contract {lab.contract_words}, {lab.gates.first_baseline_runs} baseline runs")
    with open_workspace(tag) as space:
        code = run_and_watch(space, [baseline], address, slots) if wait else 0
        outcome = describe_outcome(space, baseline)
        value |= {"baseline": baseline.id, "commit": baseline.commit, "outcome": outcome, "waited": wait,
                 "runs": [run.id for run in space.ledger.runs.of_candidate(baseline.id)],
                 "pending": len(pending_runs(space, baseline.id))}  # fmt: skip
    print_json(value) if as_json else print_text(f"{baseline.id}  baseline  {outcome}")
    log("next:\n  arsched new NAME    # then edit candidates/NAME/train.py\n  arsched submit candidates/*" if wait
        else "next: arsched submit runs it; arsched new NAME makes a candidate")  # fmt: skip
    return code
