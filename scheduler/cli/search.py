"""`arsched search`: ideas, runs and promotions under one budget, and the claim at its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from scheduler.actions.init import InitRequest, create_lab
from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_text
from scheduler.cli.submit import EXIT_CODES, author
from scheduler.domain.decision import PRESETS
from scheduler.domain.errors import ExitCode, LabProblem, UsageProblem
from scheduler.domain.search import SearchSettings
from scheduler.domain.text import clean, count
from scheduler.git import Repo
from scheduler.lab import Workspace, choose_contract, open_workspace, read_live
from scheduler.proposers.agent import MOST_IDEAS
from scheduler.proposers.presets import PRESETS as AGENTS
from scheduler.queue.progress import open_screen
from scheduler.queue.rejoin import run_rejoining
from scheduler.queue.runtime import PoolOptions, Runtime, StopReason
from scheduler.search.options import (
    NO_SETTINGS,
    SearchOptions,
    SearchPlan,
    complete,
    describe_budget,
    describe_proposers,
    plan_search,
    try_proposers,
)
from scheduler.search.session import SearchEnding, continue_search, count_ended, left_early, run_search
from scheduler.views.facts import LabFacts
from scheduler.views.search import SearchView, claim_sentence, read_search

BEGINS_WITHIN_S = 90.0  # a detached search: the slots are started meanwhile


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """What to print and to return."""

    code: int
    value: dict[str, object]
    lines: tuple[str, ...]
    hint: str = ""


@click.command()
@click.option("--hours", type=options.Finite(0, min_open=True), metavar="H", help="Time, the claim's included.")
@click.option(
    "--runs",
    type=click.IntRange(1),
    metavar="N",
    help="Finished runs of new ideas; the first baseline's and the claim's come on top.",
)
@click.option("--rounds", type=click.IntRange(1), metavar="N", help="Rounds of --ideas new ideas each.")
@click.option("--ideas", type=click.IntRange(1), metavar="K", help="Ideas in a round. Default: one for every slot.")
@click.option("--target-bpb", type=options.Finite(0, min_open=True), metavar="BPB",
              help="Stop when the baseline is this good over two runs.")  # fmt: skip
@click.option("--proposer", "proposers", multiple=True, metavar="NAME[:WEIGHT]",
              help="Where ideas come from: agent, tpe, lines, union, a plug-in; repeatable.")  # fmt: skip
@click.option("--command", "agent_command", metavar="CMD", help="The agent's command, run in a fresh worktree.")
@click.option("--agent", type=click.Choice(list(AGENTS)), help="An agent whose command line is known.")
@click.option("--model", metavar="M", help="The model of --agent, by the name it has there.")
@click.option("--agent-args", metavar="ARGS", help="More arguments for --agent, in one word: '--max-turns 40'.")
@click.option("--ideas-per-ask", type=click.IntRange(1, MOST_IDEAS), metavar="N",
              help="Ideas that one session of the agent leaves. Default: 1.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Agents at work at a time.")
@click.option("--limit", "limit_s", type=options.Finite(0, min_open=True), metavar="SECONDS",
              help="Time an agent has for one idea.")  # fmt: skip
@click.option("--option", "plugin_options", multiple=True, metavar="NAME.KEY=VALUE", help="An option of a proposer.")
@click.option("--backlog", type=click.IntRange(1), metavar="N", help="Queued ideas kept ready. Default: one a slot.")
@click.option("--seed", type=click.IntRange(0), default=0, metavar="S", help="Seed of the proposers.")
@click.option("--no-union", is_flag=True, help="Do not merge near-misses into new candidates.")
@click.option("--claim-runs", type=click.IntRange(0), default=4, show_default=True, metavar="N",
              help="Fresh runs of first and final baseline each, at the end.")  # fmt: skip
@click.option("--preset", type=click.Choice(list(PRESETS)), help="How sure a promotion must be, from here on.")
@click.option("--contract", metavar="C", help="Create the lab on this contract when there is none.")
@click.option("--detach", is_flag=True, help="Run on without this terminal; look in with `arsched watch`.")
@options.address
@options.slots
@options.tag
@options.dry_run
@options.as_json
def command(
    preset: str | None, contract: str | None, detach: bool, address: str | None, slots: int | None, tag: str | None,
    dry_run: bool, as_json: bool, **given: Any,
) -> int:  # fmt: skip
    """Search until a budget is over, then measure the claim. An unfinished search goes on where it was.

    Ctrl-C once (or `arsched stop`, touch .arsched/stop, `arsched pause`): finish what runs and leave; the same command
    goes on. It ends with its terminal; with --detach it does not.
    Exit code 4: it was stopped by that file or a pause, or there was nothing to do because the budget is spent.
    """
    settings = SearchOptions(**given).settings()
    lab_tag = _find_or_create_lab(tag, contract, preset, settings, dry_run=dry_run)
    if lab_tag is None:
        what = f"would create lab {tag or options.dated_tag()} and search it"
        outcome = _would(what, complete(settings or NO_SETTINGS, PRESETS[preset or "default"]))
    else:
        with open_workspace(lab_tag) as space:
            if dry_run:
                outcome = _dry_run(space, settings)
            elif detach:
                _try(space, settings)
                outcome = _detach(space)
            else:
                outcome = _run(_with_preset(space, preset), settings, Runtime(PoolOptions(address, slots)))
    print_json(outcome.value) if as_json else print_text("\n".join(outcome.lines))
    if outcome.hint:
        log(outcome.hint)
    return outcome.code


def _find_or_create_lab(
    tag: str | None, contract: str | None, preset: str | None, settings: SearchSettings | None, *, dry_run: bool
) -> str | None:
    """The tag to open, a lab being created for it where there is none; None: a dry run would create it.

    Raises UsageProblem when the lab there is of another contract.
    """
    try:
        with open_workspace(tag) as space:
            same = contract is None or contract == space.lab.contract_name
            if not same and choose_contract(contract or "").contract.digest != space.lab.contract_digest:
                message = f"lab {space.tag!r} is on contract {space.lab.contract_name!r}, not {contract!r}"
                raise UsageProblem(message, f"a lab for it: arsched search --contract {contract} --tag NAME …")
            return space.tag
    except LabProblem:
        if contract is None:
            raise
    wanted = complete(settings or NO_SETTINGS, PRESETS[preset or "default"])  # refused before anything is made
    try_proposers(wanted, Repo.open(Path.cwd()).root)
    created = create_lab(
        InitRequest(tag or options.dated_tag(), contract, None, preset or "default", author(), dry_run=dry_run)
    )
    for note in created.notes:
        log(f"note: {note}")
    if dry_run:
        return None
    log(f"lab {created.lab.tag}: branch {created.lab.branch}, contract {created.lab.contract_words}")
    return created.lab.tag


def _with_preset(space: Workspace, preset: str | None) -> Workspace:
    gates = PRESETS[preset] if preset else space.lab.gates
    gates = replace(gates, prior_df=space.lab.gates.prior_df)  # the contract's, whatever the preset
    if space.lab.gates == gates:
        return space
    space.ledger.labs.set_gates(space.tag, gates)
    log(f"note: promotions go by the preset {preset} from here on (it was {space.lab.gates.name})")
    return replace(space, lab=space.ledger.labs.get(space.tag))


def _detach(space: Workspace) -> SearchOutcome:
    """Start this very command again in a session of its own, and see it begin.

    Returns its exit code with the last of what it said where it ends before.
    """
    path = space.paths.stop.with_name("search.log")
    words = [word for word in sys.orig_argv[1:] if word != "--detach"]
    with path.open("ab") as output:
        start = output.tell()
        process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + BEGINS_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:
        live = read_live(space.paths.live)
        if live is not None and live.pid == process.pid:
            break
        time.sleep(0.1)
    value: dict[str, object] = {"tag": space.tag, "detached": True, "pid": process.pid, "log": str(path)}
    if process.poll() is not None:
        said = path.read_bytes()[start:].decode("utf-8", "replace").strip()
        return SearchOutcome(process.returncode, value | {"detached": False}, (clean(said),))
    line = f"the search runs on as process {process.pid}; it writes to {path}"
    return SearchOutcome(0, value, (line,), "look in with: arsched watch; end it with: arsched stop")


def _say_what_ends_it() -> None:
    """Whoever types a search may expect it to outlive the terminal."""
    multiplexed = os.environ.get("TMUX") or os.environ.get("STY")
    if sys.stdin.isatty() and not multiplexed and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        log("note: this search ends with this terminal; one that does not: arsched search --detach …")


def _run(space: Workspace, settings: SearchSettings | None, means: Runtime) -> SearchOutcome:
    _say_what_ends_it()
    ended_before = count_ended(space)

    def work(mine: Workspace, means: Runtime, is_again: bool) -> SearchEnding:
        with open_screen(mine.paths.ray_log) as screen:
            if is_again:
                return continue_search(mine, screen, means, settings, ended_before)
            return run_search(mine, screen, means, settings)

    ending = run_rejoining(space, means, work, lambda reason: left_early(space, reason), log)
    code, hint = EXIT_CODES[ending.ending], ""
    if ending.ending in (StopReason.INTERRUPTED, StopReason.STOPPED):
        hint = "stopped; nothing is lost. The same search goes on with: arsched search"
    elif ending.ending is StopReason.PAUSED:
        hint = "paused; go on with: arsched resume, then: arsched search"
    elif ending.nothing_to_do:
        code = ExitCode.STOP_LOOPING
        hint = f"budget spent: {ending.reason}. Another search: arsched search --hours H (or --runs N …)"
    facts = LabFacts(space.ledger, space.ledger.labs.get(space.tag))
    view, utilisation = read_search(facts), facts.slot_time.utilisation
    value: dict[str, object] = {
        "tag": space.tag,
        "ending": ending.ending.value,
        "utilisation": round(utilisation, 4),
        "search": view.to_json() if view else None,
    }
    idle = ending.ending is StopReason.PAUSED and ending.number is None  # what the last search did is not asked for
    return SearchOutcome(
        code, value, tuple(_lines(view, utilisation, ending.ending)) if view and not idle else (), hint
    )


def _lines(view: SearchView, utilisation: float, ending: StopReason) -> list[str]:
    spent = view.spent
    state = view.state if ending is StopReason.DONE else f"{ending.value}, not over"
    lines = [
        f"search {view.number} {state}{f': {clean(view.reason)}' if view.reason else ''}",
        f"spent        {spent.hours:.2f} hours, {count(spent.runs, 'run')}, {count(spent.ideas, 'idea')}, "
        f"{count(view.unions, 'union or port', 'unions and ports')}",
        f"slots        {utilisation:.1%} busy",
        f"promotions   {view.promotions}",
    ]
    for tally in view.proposers:
        troubles = f" ({tally.troubles})" if tally.troubles else ""
        lines.append(
            f"{tally.name:<12} {tally.asked} asked: {tally.queued} new, {tally.known} known, {tally.failed} failed"
            f"{troubles}, {tally.promoted} promoted"
        )
    if view.claim is not None:
        lines.append(f"claim        {claim_sentence(view.claim)}")
    return lines


def _dry_run(space: Workspace, settings: SearchSettings | None) -> SearchOutcome:
    plan = _try(space, settings)
    if plan is None:
        return SearchOutcome(
            ExitCode.STOP_LOOPING, {"tag": space.tag, "dry_run": True, "would": "nothing"}, ("budget spent",)
        )
    unfinished = plan.unfinished
    if unfinished is not None:
        return _would(f"would go on with search {unfinished.number}", plan.settings)
    return _would("would begin a search", plan.settings)


def _try(space: Workspace, settings: SearchSettings | None) -> SearchPlan | None:
    """The search that would be run, its proposers seen to be there. Raises UsageProblem, ProposerProblem."""
    plan = plan_search(space, settings)
    if plan is not None and not plan.is_closing:
        try_proposers(plan.settings, space.repo.root)
    return plan


def _would(what: str, settings: SearchSettings) -> SearchOutcome:
    budget, proposers = describe_budget(settings.budget), describe_proposers(settings.proposers)
    value: dict[str, object] = {"dry_run": True, "would": what, "budget": budget, "proposers": proposers}
    return SearchOutcome(0, value, (f"{what}: {budget}; ideas from {proposers}",))
