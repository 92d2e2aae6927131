"""Sections on what was tried: near-misses, dead ends, what runs now, merges, refusals.

A section's docstring begins with its title.
"""

from __future__ import annotations

from collections import defaultdict

from scheduler.app.brief.facts import BriefFacts
from scheduler.app.brief.lab import describe_figures, describe_gain
from scheduler.app.brief.quoting import listed, quote
from scheduler.app.views.leaderboard import describe_state
from scheduler.app.views.merging import MergeRow
from scheduler.domain.candidate import Candidate, CandidateState
from scheduler.domain.result import Scored
from scheduler.domain.run import Finished
from scheduler.policy.dead_ends import SAME_SPEED, why_dead, why_failed
from scheduler.policy.explain import signed
from scheduler.policy.themes import THEMES, theme_of

MOST_NEAR_MISSES, MOST_NOW, MOST_MERGES, MOST_REFUSED = 8, 12, 8, 8
_DEAD = (CandidateState.DISCARDED, CandidateState.FAILED)


def about_near_misses(facts: BriefFacts) -> list[str]:
    """Near-misses. Measured well, not well enough: build on them, or find what they lack."""
    shelf = [(c, facts.lab.effect(c)) for c in facts.lab.candidates if c.state is CandidateState.SHELVED]
    scored = sorted(((c, e) for c, e in shelf if e is not None), key=lambda pair: -pair[1].p_better)
    lines = [f"- {c.id} {quote(_title(c))}: {describe_gain(e)}, P(better) {e.p_better:.2f}" for c, e in scored]
    return listed(lines, MOST_NEAR_MISSES, "near-misses")


def about_dead_ends(facts: BriefFacts, room: int) -> list[str]:
    """At most `room` lines: themes by how often they were tried, in each the latest first."""
    themes: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in facts.lab.candidates:
        if candidate.base_id is not None and not candidate.origin.merged:
            themes[theme_of(candidate.theme, candidate.title)].append(candidate)
    untried = [theme for theme in THEMES if theme not in themes]
    first = [f"- not tried yet: {', '.join(untried)}"] if untried else []
    dead = {theme: [c for c in reversed(tried) if c.state in _DEAD] for theme, tried in themes.items()}
    each = _share(max(0, room - len(first)), [len(found) + 1 for found in dead.values()])
    lines = list(first)
    for theme in sorted(themes, key=lambda theme: -len(themes[theme])):
        won = sum(c.state in (CandidateState.BASELINE, CandidateState.PROMOTED) for c in themes[theme])
        lines.append(f"- {quote(theme, 24)}: {len(themes[theme])} tried, {won} promoted")
        lines += listed([f"  - {_dead_end(facts, c)}" for c in dead[theme]], each - 1, "dead ends of this theme")
    return listed(lines, room, "lines on dead ends") or ["- none yet"]


def about_now(facts: BriefFacts) -> list[str]:
    """Being tried right now. Do not repeat it."""
    waiting = [c for c in facts.lab.candidates if c.state.undecided]
    lines = [f"- {c.id} {quote(_title(c))}: {describe_state(c, facts.lab.runs_of[c.id])}" for c in reversed(waiting)]
    others = [f"- {facts.open_ideas} asks are open, yours perhaps among them"] if facts.open_ideas else []
    return [*others, *listed(lines, MOST_NOW, "candidates")]


def about_merges(facts: BriefFacts) -> list[str]:
    """Do gains add up? Unions and ports: what their parts promised together, and what came of it."""
    measured = [row for row in reversed(facts.merges) if row.measured_bpb is not None]
    return listed([_merge(row, row.measured_bpb or 0.0) for row in measured], MOST_MERGES, "merges")


def about_refused(facts: BriefFacts) -> list[str]:
    """Ideas that were refused or lost lately. So that you do not lose yours the same way."""
    lines = [f"- {idea.trouble}: {quote(idea.reason, 120)}" for idea in reversed(facts.failed_ideas) if idea.reason]
    return listed(list(dict.fromkeys(lines)), MOST_REFUSED, "refusals")


def _merge(row: MergeRow, measured_bpb: float) -> str:
    parts = ", ".join(part.candidate for part in row.parts if part.merged)
    found = f"measured {signed(measured_bpb)} ± {row.measured_se_bpb or 0.0:.4f}"
    return f"- {row.kind} of {parts}: predicted {signed(row.predicted_bpb)}, {found} ({row.status})"


def _dead_end(facts: BriefFacts, candidate: Candidate) -> str:
    effect = facts.lab.effect(candidate)
    who = f"{candidate.id} {quote(_title(candidate), 60)}"
    if effect is None:
        return f"{who}: {_failure(facts, candidate)}"
    mine, base = facts.figures[candidate.id], facts.figures.get(candidate.base_id or "")
    same_speed = SAME_SPEED[facts.contract.budget.clock if facts.contract else "wall"]
    why = why_dead(effect, mine.tokens_per_s, base.tokens_per_s if base else None, same_speed)
    loss = f"; {describe_figures(mine)}" if effect.diff > 0 and mine.loss_at else ""
    return f"{who}: {signed(effect.diff)} ± {effect.se:.4f}, {why}{loss}"


def _failure(facts: BriefFacts, candidate: Candidate) -> str:
    verdicts = [run.state.result.verdict for run in facts.lab.runs_of[candidate.id] if isinstance(run.state, Finished)]
    failed = [verdict for verdict in verdicts if not isinstance(verdict, Scored)]
    return quote(why_failed(failed[-1].status, failed[-1].reason)) if failed else "no score"


def _share(room: int, wishes: list[int]) -> int:
    """How many lines each theme may have so that all of them together fit."""
    each = max(wishes, default=0)
    while each > 1 and sum(min(each, wish) for wish in wishes) > room:
        each -= 1
    return each


def _title(candidate: Candidate) -> str:
    return candidate.title or candidate.name
