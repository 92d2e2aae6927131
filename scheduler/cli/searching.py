"""What `arsched search` does between reading its options and printing its end."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from scheduler.actions.init import Wish, create_lab
from scheduler.cli.output import say
from scheduler.cli.running import INTERRUPTED, author
from scheduler.domain.decision import PRESETS
from scheduler.domain.errors import LabProblem, UsageProblem
from scheduler.domain.search import Budget, ProposerChoice, SearchSettings
from scheduler.domain.text import clean
from scheduler.queue.ending import Ending
from scheduler.search.choices import choices_from
from scheduler.search.run import SearchEnding, run_search
from scheduler.search.settings import UNION, describe_budget, describe_proposers, fresh
from scheduler.views.facts import read_facts
from scheduler.views.search import SearchView, read_search
from scheduler.views.slot_time import slot_time
from scheduler.views.stays import read_stays
from scheduler.workspace import Workspace, open_workspace

STOP_LOOPING = 4


@dataclass(frozen=True, slots=True)
class AgentWords:
    command: str | None
    preset: str | None
    workers: int | None
    limit_s: float | None

    def options(self) -> tuple[tuple[str, str], ...]:
        said = {"command": self.command, "preset": self.preset, "workers": self.workers, "limit_s": self.limit_s}
        return tuple((name, f"{value:g}" if isinstance(value, float) else str(value))
                     for name, value in said.items() if value is not None)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Words:
    """The options as typed; `budget` is hours, runs, rounds, ideas, target."""

    budget: tuple[float | None, int | None, int | None, int | None, float | None]
    proposers: tuple[str, ...]
    agent: AgentWords
    plugin_options: tuple[str, ...]
    backlog: int | None
    seed: int
    no_union: bool
    claim_runs: int
    preset: str | None
    contract: str | None
    tag: str | None


@dataclass(frozen=True, slots=True)
class Ended:
    """What to print and to return."""

    code: int
    value: dict[str, object]
    lines: tuple[str, ...]
    hint: str = ""


def search(words: Words, address: str | None, slots: int | None, *, dry_run: bool) -> Ended:
    """Raises what a search raises, and UsageProblem for words that do not fit together."""
    settings = read_settings(words)
    tag = _lab(words, settings, dry_run=dry_run)
    if tag is None:
        return _would_begin(settings, words.tag or dated_tag(), PRESETS[words.preset or "default"].name)
    with open_workspace(tag) as space:
        if dry_run:
            return _would_run(space, settings)
        _change_preset(space, words.preset)
        with open_workspace(space.tag) as fresh_space:
            return _run(fresh_space, settings, address, slots)


def read_settings(words: Words) -> SearchSettings | None:
    """None when nothing about the search itself was said. Raises UsageProblem."""
    choices = read_choices(words)
    budget = Budget(*words.budget)
    if budget.ideas is not None and budget.rounds is None:
        raise UsageProblem("--ideas is per round and ends nothing by itself", "say how many rounds: --rounds 10")
    settings = SearchSettings(budget, choices, words.backlog, words.claim_runs, words.seed)
    return None if settings == SearchSettings(Budget(), ()) else settings


def read_choices(words: Words) -> tuple[ProposerChoice, ...]:
    """() when no proposer was named. Raises UsageProblem."""
    options, names = words.agent.options(), list(words.proposers)
    if words.agent.command and words.agent.preset:
        raise UsageProblem("--command and --agent both say what the agent is", "give one of them")
    if options and not any(name.partition(":")[0] == "agent" for name in names):
        names.append("agent")
    if words.plugin_options and not names:
        names.append("tpe")
    if words.no_union and not names:
        names.append("tpe")
    chosen = choices_from(tuple(names), words.plugin_options)
    chosen = tuple(replace(one, options=(*options, *one.options)) if one.name == "agent" else one for one in chosen)
    named_union = any(one.name == UNION for one in chosen)
    if words.no_union and named_union:
        raise UsageProblem("--no-union and --proposer union contradict each other", "leave one of them out")
    return chosen if not chosen or named_union or words.no_union else (*chosen, ProposerChoice(UNION))


def dated_tag() -> str:
    """Like "nov23": what a lab is called when nobody named it."""
    return time.strftime("%b%d").lower()


def _lab(words: Words, settings: SearchSettings | None, *, dry_run: bool) -> str | None:
    """The tag to open, a lab being created for it where there is none; None: a dry run would create it.

    Raises UsageProblem when the lab there is of another contract.
    """
    try:
        with open_workspace(words.tag) as space:
            if words.contract not in (None, space.lab.contract_name) and not _is_file_of(words.contract, space):
                message = f"lab {space.tag!r} is on contract {space.lab.contract_name!r}, not {words.contract!r}"
                raise UsageProblem(message, f"a lab for it: arsched search --contract {words.contract} --tag NAME …")
            return space.tag
    except LabProblem:
        if words.contract is None:
            raise
    fresh(settings or SearchSettings(Budget(), ()), PRESETS[words.preset or "default"])  # before anything is made
    wish = Wish(words.tag or dated_tag(), words.contract, None, words.preset or "default", author(), dry_run)
    created = create_lab(wish)
    for note in created.notes:
        say(f"note: {note}")
    if dry_run:
        return None
    say(f"lab {created.lab.tag}: branch {created.lab.branch}, contract {created.lab.contract_name}")
    return created.lab.tag


def _is_file_of(contract: str | None, space: Workspace) -> bool:
    """Whether a contract given as a file is the lab's own."""
    from scheduler.contracts import choose_contract

    return choose_contract(contract or "").contract.digest == space.lab.contract_digest


def _change_preset(space: Workspace, preset: str | None) -> None:
    if preset is not None and space.lab.gates != PRESETS[preset]:
        space.ledger.labs.set_gates(space.tag, PRESETS[preset])
        say(f"note: promotions go by the preset {preset} from here on (it was {space.lab.gates.name})")


def _run(space: Workspace, settings: SearchSettings | None, address: str | None, slots: int | None) -> Ended:
    from scheduler.queue.means import Means
    from scheduler.queue.pools import PoolOptions
    from scheduler.queue.progress import open_screen

    with open_screen() as screen:
        ending = run_search(space, screen, Means(PoolOptions(address, slots)), settings)
    facts = read_facts(space.ledger, space.ledger.labs.get(space.tag))
    view = read_search(space.ledger, facts)
    use = slot_time(read_stays(space.ledger, facts))
    value: dict[str, object] = {
        "tag": space.tag,
        "ending": ending.ending.value,
        "utilisation": round(use.utilisation, 4),
        "search": view.to_json() if view else None,
    }
    code, hint = _code(ending)
    idle = ending.ending is Ending.PAUSED and ending.number is None  # what the last search did is not asked for
    return Ended(code, value, tuple(_lines(view, use.utilisation)) if view and not idle else (), hint)


def _code(ending: SearchEnding) -> tuple[int, str]:
    if ending.ending is Ending.INTERRUPTED:
        return INTERRUPTED, "stopped; nothing is lost. The same search goes on with: arsched search"
    if ending.ending is Ending.PAUSED:
        return STOP_LOOPING, "paused; go on with: arsched resume, then: arsched search"
    if ending.nothing_to_do:
        return STOP_LOOPING, f"budget spent: {ending.reason}. Another search: arsched search --hours H (or --runs N …)"
    return 0, ""


def _lines(view: SearchView, utilisation: float) -> list[str]:
    spent = view.spent
    lines = [
        f"search {view.number} {view.state}: {clean(view.reason)}"
        if view.reason
        else f"search {view.number} {view.state}",
        f"spent        {spent.hours:.2f} hours, {spent.runs} runs, {spent.ideas} ideas, {view.unions} unions and ports",
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
        lines.append(f"claim        {view.claim.sentence}")
    return lines


def _would_begin(settings: SearchSettings | None, tag: str, preset: str) -> Ended:
    chosen = fresh(settings or SearchSettings(Budget(), ()), PRESETS[preset])
    return _would(f"would create lab {tag} and search it", chosen)


def _would_run(space: Workspace, settings: SearchSettings | None) -> Ended:
    unfinished = space.ledger.searches.current(space.tag)
    if unfinished is not None:
        return _would(f"would go on with search {unfinished.number}, {unfinished.state}", unfinished.settings)
    if settings is None and space.ledger.searches.list(space.tag):
        return Ended(STOP_LOOPING, {"tag": space.tag, "dry_run": True, "would": "nothing"}, ("budget spent",))
    return _would("would begin a search", fresh(settings or SearchSettings(Budget(), ()), space.lab.gates))


def _would(what: str, settings: SearchSettings) -> Ended:
    budget, proposers = describe_budget(settings.budget), describe_proposers(settings.proposers)
    value: dict[str, object] = {"dry_run": True, "would": what, "budget": budget, "proposers": proposers}
    return Ended(0, value, (f"{what}: {budget}; ideas from {proposers}",))
