"""Settings of a search: what is taken where nothing was said, and what a new word changes in one that goes on."""

from __future__ import annotations

from dataclasses import fields, replace

from scheduler.domain.decision import GateSettings
from scheduler.domain.errors import UsageProblem
from scheduler.domain.search import Budget, ProposerChoice, SearchSettings

UNION = "union"  # the scheduler's own proposer: no plug-in, no share of the ideas
WITHOUT_WORDS = (ProposerChoice("tpe"), ProposerChoice(UNION))


def fresh(settings: SearchSettings, gates: GateSettings) -> SearchSettings:
    """Settings of a new search. Raises UsageProblem without any budget, and for proposers that make no sense."""
    if not has_budget(settings.budget):
        hint = "how long shall it go on? --hours 8, --runs 100, --rounds 10 --ideas 8 or --target-bpb 1.7"
        raise UsageProblem("a search needs a budget", hint)
    chosen = settings.proposers or WITHOUT_WORDS
    if not gates.combine:
        chosen = tuple(choice for choice in chosen if choice.name != UNION)
    if not chosen:
        message = f"the preset {gates.name!r} merges nothing, so the proposer 'union' alone has no ideas"
        raise UsageProblem(message, "add another: --proposer tpe, or choose another --preset")
    names = [choice.name for choice in chosen]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageProblem(f"the proposer {twice!r} is named twice", "its share is its weight: --proposer NAME:2")
    return replace(settings, proposers=chosen)


def extended(old: SearchSettings, new: SearchSettings, gates: GateSettings) -> tuple[SearchSettings, tuple[str, ...]]:
    """Settings of a search that goes on under new words, and what they changed, a line each.

    A budget takes the place of the whole old one, proposers of all the old ones; what was not said stays.
    """
    default = SearchSettings(Budget(), ())
    changed = replace(
        old,
        budget=new.budget if has_budget(new.budget) else old.budget,
        proposers=new.proposers or old.proposers,
        backlog=new.backlog if new.backlog is not None else old.backlog,
        claim_runs=new.claim_runs if new.claim_runs != default.claim_runs else old.claim_runs,
        seed=new.seed if new.seed != default.seed else old.seed,
    )
    changed = fresh(changed, gates)
    names = [field.name for field in fields(SearchSettings) if getattr(old, field.name) != getattr(changed, field.name)]
    return changed, tuple(
        f"{name.replace('_', ' ')}: {_said(changed, name)} (was {_said(old, name)})" for name in names
    )


def has_budget(budget: Budget) -> bool:
    """Ideas per round alone end nothing."""
    return any(limit is not None for limit in (budget.hours, budget.runs, budget.rounds, budget.target_bpb))


def describe_budget(budget: Budget) -> str:
    """Like "8 hours or 300 runs"."""
    rounds = "" if budget.rounds is None else f"{budget.rounds} rounds"
    if rounds and budget.ideas is not None:
        rounds += f" of {budget.ideas} ideas"
    parts = (
        "" if budget.hours is None else f"{budget.hours:g} hours",
        "" if budget.runs is None else f"{budget.runs} runs",
        rounds,
        "" if budget.target_bpb is None else f"{budget.target_bpb:g} bpb",
    )
    return " or ".join(part for part in parts if part) or "no budget"


def describe_proposers(proposers: tuple[ProposerChoice, ...]) -> str:
    """Like "agent 3 : tpe 1, and union"."""
    weighed = [choice for choice in proposers if choice.name != UNION]
    shares = len(weighed) > 1
    said = " : ".join(f"{choice.name} {choice.weight:g}" if shares else choice.name for choice in weighed)
    return ", and ".join(part for part in (said, UNION if len(weighed) < len(proposers) else "") if part)


def _said(settings: SearchSettings, name: str) -> str:
    match name:
        case "budget":
            return describe_budget(settings.budget)
        case "proposers":
            return describe_proposers(settings.proposers)
    return str(getattr(settings, name))
