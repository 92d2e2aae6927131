"""Proposers as they are chosen by name: read from the command line, and made by their entry points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from scheduler.domain.errors import UsageProblem
from scheduler.domain.proposal import Proposer
from scheduler.domain.search import ProposerChoice, SearchSettings
from scheduler.search.settings import UNION
from scheduler.workspace import Workspace

UNKNOWN_SLOTS = 8  # before the pool is joined: what a proposer is told when nobody said how many there are
LARGEST_WEIGHT = 1e6


def make_proposers(
    space: Workspace,
    settings: SearchSettings,
    slots: int | None,
    clock: Callable[[], float],
    say: Callable[[str], None],
) -> dict[str, Proposer]:
    """One for every choice but `union`, which is the scheduler's own. Raises UsageProblem, ProposerProblem."""
    from scheduler.proposers.registry import make
    from scheduler.proposers.setup import ProposerSetup

    made: dict[str, Proposer] = {}
    try:
        for choice in settings.proposers:
            if choice.name != UNION:
                setup = ProposerSetup(
                    name=choice.name,
                    options=dict(choice.options),
                    repo_root=space.repo.root,
                    folder=space.paths.proposals,
                    slots=slots or UNKNOWN_SLOTS,
                    seed=settings.seed,
                    clock=clock,
                    say=say,
                )
                made[choice.name] = make(choice, setup)
    except BaseException:
        for proposer in made.values():
            proposer.close()
        raise
    return made


def choices_from(names: tuple[str, ...], options: tuple[str, ...]) -> tuple[ProposerChoice, ...]:
    """`names` like "agent:3", `options` like "agent.workers=4". Raises UsageProblem for what is neither or unknown."""
    chosen: dict[str, ProposerChoice] = {}
    from scheduler.proposers.registry import check_name

    for text in names:
        name, colon, weight = text.partition(":")
        check_name(name)
        chosen[name] = ProposerChoice(name, _weight(text, weight) if colon else 1.0)
    for text in options:
        key, equals, value = text.partition("=")
        name, dot, option = key.partition(".")
        if not (equals and dot and name and option):
            raise UsageProblem(f"{text!r} is no option of a proposer", "like this: --option agent.workers=4")
        if name not in chosen:
            raise UsageProblem(f"{text!r}: no proposer {name!r} in this search", f"add it: --proposer {name}")
        chosen[name] = replace(chosen[name], options=(*chosen[name].options, (option, value)))
    return tuple(chosen.values())


def _weight(text: str, weight: str) -> float:
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not 0 < value <= LARGEST_WEIGHT:
        raise UsageProblem(f"{text!r}: a weight is a number above 0", "like this: --proposer agent:3 --proposer tpe:1")
    return value
