"""`arsched search`: ideas, runs and promotions under one budget, and the claim at its end."""

from __future__ import annotations

import click

from scheduler.cli import options
from scheduler.cli.output import print_json, print_text, say
from scheduler.domain.decision import PRESETS

AGENTS = ("claude", "codex", "gemini", "opencode")


@click.command(short_help="Search all night: ideas, runs, promotions, and a claim at the end.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), metavar="H", help="Time, the claim's included.")
@click.option("--runs", type=click.IntRange(1), metavar="N", help="Finished runs; the claim's come on top.")
@click.option("--rounds", type=click.IntRange(1), metavar="N", help="Rounds of --ideas new ideas each.")
@click.option("--ideas", type=click.IntRange(1), metavar="K", help="Ideas in a round. Default: one for every slot.")
@click.option("--target-bpb", type=float, metavar="BPB", help="Stop when the baseline is this good over two runs.")
@click.option("--proposer", "proposers", multiple=True, metavar="NAME[:WEIGHT]",
              help="Where ideas come from: agent, tpe, lines, union, a plug-in; repeatable.")  # fmt: skip
@click.option("--command", "agent_command", metavar="CMD", help="The agent's command, run in a fresh worktree.")
@click.option("--agent", type=click.Choice(AGENTS), help="An agent whose command line is known.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Agents at work at a time.")
@click.option("--limit", "limit_s", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
              help="Time an agent has for one idea.")  # fmt: skip
@click.option("--option", "plugin_options", multiple=True, metavar="NAME.KEY=VALUE", help="An option of a proposer.")
@click.option("--backlog", type=click.IntRange(1), metavar="N", help="Queued ideas kept ready. Default: one a slot.")
@click.option("--seed", type=click.IntRange(0), default=0, metavar="S", help="Seed of the proposers.")
@click.option("--no-union", is_flag=True, help="Do not merge near-misses into new candidates.")
@click.option("--claim-runs", type=click.IntRange(0), default=4, show_default=True, metavar="N",
              help="Fresh runs of first and final baseline each, at the end.")  # fmt: skip
@click.option("--preset", type=click.Choice(list(PRESETS)), help="How sure a promotion must be, from here on.")
@click.option("--contract", metavar="C", help="Create the lab on this contract when there is none.")
@options.address
@options.slots
@options.tag
@options.dry_run
@options.as_json
def command(
    hours: float | None, runs: int | None, rounds: int | None, ideas: int | None, target_bpb: float | None,
    proposers: tuple[str, ...], agent_command: str | None, agent: str | None, workers: int | None,
    limit_s: float | None, plugin_options: tuple[str, ...], backlog: int | None, seed: int, no_union: bool,
    claim_runs: int, preset: str | None, contract: str | None, address: str | None, slots: int | None,
    tag: str | None, dry_run: bool, as_json: bool,
) -> int:  # fmt: skip
    """Search until a budget is over, then measure the claim. An unfinished search goes on where it was.

    Ctrl-C once (or touch .arsched/stop, or `arsched pause`): finish what runs and leave; the same command goes on.
    Exit code 4: there was nothing to do, because the budget is spent or the lab is paused.
    """
    from scheduler.cli.searching import AgentWords, Words, search

    agent_words = AgentWords(agent_command, agent, workers, limit_s)
    words = Words(
        budget=(hours, runs, rounds, ideas, target_bpb),
        proposers=proposers,
        agent=agent_words,
        plugin_options=plugin_options,
        backlog=backlog,
        seed=seed,
        no_union=no_union,
        claim_runs=claim_runs,
        preset=preset,
        contract=contract,
        tag=tag,
    )
    ended = search(words, address, slots, dry_run=dry_run)
    print_json(ended.value) if as_json else print_text("\n".join(ended.lines))
    if ended.hint:
        say(ended.hint)
    return ended.code
