"""Which search is to be run: the options of the command line as settings, the lab's unfinished search, defaults.

Planned first and written down afterwards, so that options that cannot be carried out leave nothing behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from scheduler.domain.decision import GateSettings
from scheduler.domain.errors import UsageProblem
from scheduler.domain.search import Proposer, ProposerChoice, Search, SearchBudget, SearchSettings, SearchState
from scheduler.domain.text import count
from scheduler.lab import Workspace
from scheduler.policy.budget import HOUR_S
from scheduler.proposers.registry import UNION, ProposerSetup, check_name, make
from scheduler.queue.runtime import Runtime

DEFAULT_PROPOSERS = (ProposerChoice("tpe"), ProposerChoice(UNION))
UNKNOWN_SLOTS = 8  # what a proposer is given before the pool is joined, when --slots is not
LARGEST_WEIGHT = 1e6
Report = Callable[[str], None]
NO_SETTINGS = SearchSettings(SearchBudget(), ())


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """The options of `arsched search` that make its settings, by the names that click gives them; None: not given."""

    hours: float | None = None
    runs: int | None = None
    rounds: int | None = None
    ideas: int | None = None
    target_bpb: float | None = None
    proposers: tuple[str, ...] = ()  # like "agent:3"
    agent_command: str | None = None
    agent: str | None = None
    model: str | None = None
    agent_args: str | None = None
    ideas_per_ask: int | None = None
    workers: int | None = None
    limit_s: float | None = None
    plugin_options: tuple[str, ...] = ()  # like "agent.workers=4"
    backlog: int | None = None
    seed: int = 0
    no_union: bool = False
    claim_runs: int = 4

    def settings(self) -> SearchSettings | None:
        """None when no option was given. Raises UsageProblem for options that do not fit together."""
        if self.agent_command and self.agent:
            raise UsageProblem("--command and --agent both say what the agent is", "give one of them")
        choices = self._choices()
        if self.ideas is not None and self.rounds is None:
            raise UsageProblem("--ideas is per round and ends nothing by itself", "say how many rounds: --rounds 10")
        budget = SearchBudget(self.hours, self.runs, self.rounds, self.ideas, self.target_bpb)
        settings = SearchSettings(budget, choices, self.backlog, self.claim_runs, self.seed)
        return None if settings == NO_SETTINGS else settings

    def _choices(self) -> tuple[ProposerChoice, ...]:
        """() when no proposer was named."""
        given = {
            "command": self.agent_command, "preset": self.agent, "model": self.model, "arguments": self.agent_args,
            "ideas": self.ideas_per_ask, "workers": self.workers, "limit_s": self.limit_s,
        }  # fmt: skip
        agent_options = tuple(
            (name, f"{value:g}" if isinstance(value, float) else str(value))
            for name, value in given.items()
            if value is not None
        )
        names = list(self.proposers)
        if agent_options and not any(name.partition(":")[0] == "agent" for name in names):
            names.append("agent")
        if not names and (self.plugin_options or self.no_union):
            names.append("tpe")
        chosen = {choice.name: choice for choice in map(_read_choice, names)}
        for text in self.plugin_options:
            name, option, value = _read_plugin_option(text)
            if name not in chosen:
                raise UsageProblem(f"{text!r}: no proposer {name!r} in this search", f"add it: --proposer {name}")
            chosen[name] = replace(chosen[name], options=(*chosen[name].options, (option, value)))
        if agent_options:
            chosen["agent"] = replace(chosen["agent"], options=(*agent_options, *chosen["agent"].options))
        if self.no_union and UNION in chosen:
            raise UsageProblem("--no-union and --proposer union contradict each other", "leave one of them out")
        if chosen and not self.no_union:
            chosen.setdefault(UNION, ProposerChoice(UNION))
        return tuple(chosen.values())


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """`unfinished` None: a new search. `changes` are what new options change in one that goes on, a line each."""

    unfinished: Search | None
    settings: SearchSettings
    changes: tuple[str, ...] = ()
    too_late: bool = False  # new options came when no more ideas are asked for

    @property
    def is_closing(self) -> bool:
        return self.unfinished is not None and self.unfinished.state is SearchState.CLAIMING

    def begin(self, space: Workspace, report: Callable[[str], None]) -> Search:
        """Write it down and report it. Raises LedgerProblem."""
        search = self.unfinished
        if search is None:
            search = space.ledger.searches.start(space.tag, self.settings)
            budget, ideas = describe_budget(self.settings.budget), describe_proposers(self.settings.proposers)
            report(f"search    {search.number} begins: {budget}; ideas from {ideas}")
            return search
        if self.changes:
            space.ledger.searches.change(search.number, self.settings, "; ".join(self.changes))
        if self.is_closing:
            report(f"search    {search.number} goes on with its end: {search.reason}")
        else:
            report(f"search    {search.number} goes on, {search.active_s / HOUR_S:.2f} hours in")
        for change in self.changes:
            report(f"note: {change}")
        if self.too_late:
            report("note: its budget is over, so new settings are for the next search: give them again afterwards")
        return replace(search, settings=self.settings)


def plan_search(space: Workspace, settings: SearchSettings | None) -> SearchPlan | None:
    """None when the last search is over and no other was asked for. Raises UsageProblem without a budget."""
    gates, searches = space.ledger.labs.get(space.tag).gates, space.ledger.searches
    unfinished = searches.current(space.tag)
    if unfinished is None:
        if settings is None and searches.list(space.tag):
            return None
        return SearchPlan(None, complete(settings or NO_SETTINGS, gates))
    if settings is None or unfinished.state is SearchState.CLAIMING:
        return SearchPlan(unfinished, unfinished.settings, too_late=settings is not None)
    return SearchPlan(unfinished, *extended(unfinished.settings, settings, gates))


def complete(settings: SearchSettings, gates: GateSettings) -> SearchSettings:
    """Settings of a new search, with default proposers where none were named.

    Raises UsageProblem without any budget, and for proposers that make no sense.
    """
    if not _has_limit(settings.budget):
        hint = "how long shall it go on? --hours 8, --runs 100, --rounds 10 --ideas 8 or --target-bpb 1.7"
        raise UsageProblem("a search needs a budget", hint)
    chosen = settings.proposers or DEFAULT_PROPOSERS
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
    """Settings of a search that goes on under new options, and what they changed, a line each.

    A budget takes the place of the whole old one, proposers of all the old ones; options not given change nothing.
    """
    changed = complete(
        replace(
            old,
            budget=new.budget if _has_limit(new.budget) else old.budget,
            proposers=new.proposers or old.proposers,
            backlog=new.backlog if new.backlog is not None else old.backlog,
            claim_runs=new.claim_runs if new.claim_runs != NO_SETTINGS.claim_runs else old.claim_runs,
            seed=new.seed if new.seed != NO_SETTINGS.seed else old.seed,
        ),
        gates,
    )
    names = [field.name for field in fields(SearchSettings) if getattr(old, field.name) != getattr(changed, field.name)]
    return changed, tuple(
        f"{name.replace('_', ' ')}: {_describe(changed, name)} (was {_describe(old, name)})" for name in names
    )


def describe_budget(budget: SearchBudget) -> str:
    """Like "8 hours or 300 runs"."""
    rounds = "" if budget.rounds is None else count(budget.rounds, "round")
    if rounds and budget.ideas is not None:
        rounds += f" of {count(budget.ideas, 'idea')}"
    parts = (
        "" if budget.hours is None else f"{budget.hours:g} hour{'' if budget.hours == 1 else 's'}",
        "" if budget.runs is None else count(budget.runs, "run"),
        rounds,
        "" if budget.target_bpb is None else f"{budget.target_bpb:g} bpb",
    )
    return " or ".join(part for part in parts if part) or "no budget"


def describe_proposers(proposers: tuple[ProposerChoice, ...]) -> str:
    """Like "agent (3 of 4), tpe (1 of 4) and union"."""
    weighed = [choice for choice in proposers if choice.name != UNION]
    total = sum(one.weight for one in weighed)
    names = [f"{one.name} ({one.weight:g} of {total:g})" if len(weighed) > 1 else one.name for one in weighed]
    return " and ".join(filter(None, (", ".join(names), UNION if len(weighed) < len(proposers) else "")))


def make_proposers(space: Workspace, settings: SearchSettings, means: Runtime, report: Report) -> dict[str, Proposer]:
    """One for every choice but `union`, which is the scheduler's own. Raises UsageProblem, ProposerProblem."""
    setup = ProposerSetup(
        "", {}, space.repo.root, space.paths.proposals, means.options.slots or UNKNOWN_SLOTS, settings.seed,
        clock=means.clock, report=report, sandbox=space.lab.sandbox,
    )  # fmt: skip
    return _make_all(settings, setup)


def try_proposers(settings: SearchSettings, root: Path) -> None:
    """See that they could be made, before a lab of the repository at `root` is, and in a dry run: nothing is written.

    Raises UsageProblem, ProposerProblem.
    """
    clock, report = time.monotonic, print
    setup = ProposerSetup("", {}, root, root, UNKNOWN_SLOTS, settings.seed, clock, report)
    for proposer in _make_all(settings, setup).values():
        proposer.close()


def _make_all(settings: SearchSettings, setup: ProposerSetup) -> dict[str, Proposer]:
    made: dict[str, Proposer] = {}
    try:
        for choice in settings.proposers:
            if choice.name != UNION:
                mine = replace(setup, name=choice.name, options=dict(choice.options))
                made[choice.name] = make(choice, mine)
    except BaseException:
        for proposer in made.values():
            proposer.close()
        raise
    return made


def _read_choice(text: str) -> ProposerChoice:
    """A proposer like "agent:3". Raises UsageProblem."""
    name, colon, weight = text.partition(":")
    check_name(name)
    try:
        value = float(weight) if colon else 1.0
    except ValueError:
        value = 0.0
    if not 0 < value <= LARGEST_WEIGHT:
        raise UsageProblem(f"{text!r}: a weight is a number above 0", "like this: --proposer agent:3 --proposer tpe:1")
    return ProposerChoice(name, value)


def _read_plugin_option(text: str) -> tuple[str, str, str]:
    """An option like "agent.workers=4". Raises UsageProblem."""
    key, equals, value = text.partition("=")
    name, dot, option = key.partition(".")
    if not (equals and dot and name and option):
        raise UsageProblem(f"{text!r} is no option of a proposer", "like this: --option agent.workers=4")
    return name, option, value


def _has_limit(budget: SearchBudget) -> bool:
    """Ideas per round alone end nothing."""
    return any(limit is not None for limit in (budget.hours, budget.runs, budget.rounds, budget.target_bpb))


def _describe(settings: SearchSettings, name: str) -> str:
    match name:
        case "budget":
            return describe_budget(settings.budget)
        case "proposers":
            return describe_proposers(settings.proposers)
    return str(getattr(settings, name))
