"""What was tried, theme by theme, and why it came to nothing. The brief and the page say the same, from here."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from scheduler.contracts import contract_of
from scheduler.domain.candidate import Candidate, CandidateState
from scheduler.domain.errors import LabProblem
from scheduler.domain.lab import Lab
from scheduler.domain.result import Scored
from scheduler.domain.run import Finished
from scheduler.domain.text import one_line
from scheduler.policy.dead_ends import SAME_SPEED, why_dead, why_failed
from scheduler.policy.themes import theme_of
from scheduler.views.facts import LabFacts
from scheduler.views.medians import Medians, medians_of
from scheduler.views.plain import View

_DEAD = (CandidateState.DISCARDED, CandidateState.FAILED)
_WON = (CandidateState.BASELINE, CandidateState.PROMOTED)


@dataclass(frozen=True, slots=True)
class DeadEnd(View):
    """A candidate that was discarded or failed. The effect is None without a score."""

    candidate: str
    title: str
    effect_bpb: float | None
    effect_se_bpb: float | None
    why: str
    medians: Medians


@dataclass(frozen=True, slots=True)
class Theme(View):
    """What was tried under one word: how much came of it, and its dead ends, the latest first.

    `promoted` counts what a union or port carried into the baseline as well.
    """

    theme: str
    tried: int
    promoted: int
    shelved: int
    dead_ends: tuple[DeadEnd, ...]


def read_themes(facts: LabFacts) -> tuple[Theme, ...]:
    """Of everything but first baselines and merges, the theme most tried first."""
    found: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in facts.candidates:
        if candidate.base_id is not None and not candidate.origin.merged:
            found[one_line(theme_of(candidate.theme, candidate.title))].append(candidate)
    same_speed = SAME_SPEED[_clock(facts.lab)]
    themes = [_theme(facts, name, tried, same_speed) for name, tried in found.items()]
    return tuple(sorted(themes, key=lambda theme: (-theme.tried, theme.theme)))


def _theme(facts: LabFacts, name: str, tried: list[Candidate], same_speed: float) -> Theme:
    return Theme(
        theme=name,
        tried=len(tried),
        promoted=sum(candidate.state in _WON or candidate.id in facts.in_force for candidate in tried),
        shelved=sum(candidate in facts.near_misses for candidate in tried),
        dead_ends=tuple(_dead_end(facts, c, same_speed) for c in reversed(tried) if c.state in _DEAD),
    )


def _dead_end(facts: LabFacts, candidate: Candidate, same_speed: float) -> DeadEnd:
    effect, medians = facts.effect(candidate), medians_of(facts, candidate)
    why = _failure(facts, candidate)
    if effect is not None:
        base = medians_of(facts, facts.by_id[candidate.base_id or ""])
        why = why_dead(effect, medians.tokens_per_s, base.tokens_per_s, same_speed)
    return DeadEnd(
        candidate=candidate.id,
        title=one_line(candidate.title or candidate.name),
        effect_bpb=effect.diff if effect else None,
        effect_se_bpb=effect.se if effect else None,
        why=one_line(why),
        medians=medians,
    )


def _failure(facts: LabFacts, candidate: Candidate) -> str:
    verdicts = [run.state.result.verdict for run in facts.runs_of[candidate.id] if isinstance(run.state, Finished)]
    failed = [verdict for verdict in verdicts if not isinstance(verdict, Scored)]
    return why_failed(failed[-1].status, failed[-1].reason) if failed else "no score"


def _clock(lab: Lab) -> str:
    """The wall where this version cannot read the contract."""
    try:
        return contract_of(lab).budget.clock
    except LabProblem:
        return "wall"
