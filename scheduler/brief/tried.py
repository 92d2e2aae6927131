"""Sections on what was tried: near-misses, dead ends, what runs now, merges, refusals.

A section's docstring begins with its title.
"""

from __future__ import annotations

from scheduler.brief.facts import BriefFacts
from scheduler.brief.lab import describe_gain
from scheduler.brief.quoting import listed, quote
from scheduler.domain.candidate import Candidate
from scheduler.policy.explain import signed
from scheduler.policy.themes import THEMES
from scheduler.views.leaderboard import describe_state
from scheduler.views.medians import describe_medians, medians_of
from scheduler.views.merging import MergeRow
from scheduler.views.themes import DeadEnd

MOST_NEAR_MISSES, MOST_NOW, MOST_MERGES, MOST_REFUSED = 8, 12, 8, 8


def about_near_misses(facts: BriefFacts) -> list[str]:
    """Near-misses. Measured well, not well enough: build on them, or find what they lack."""
    shelf = [(c, facts.lab.effect(c)) for c in facts.lab.near_misses]
    scored = sorted(((c, e) for c, e in shelf if e is not None), key=lambda pair: -pair[1].p_better)
    lines = []
    for c, effect in scored[:MOST_NEAR_MISSES]:
        lines.append(f"- {c.id} {quote(_title(c), 60)}: {describe_gain(effect)}, P(better) {effect.p_better:.2f}")
        lines.append(f"  {describe_medians(medians_of(facts.lab, c))}")
    left = len(scored) - MOST_NEAR_MISSES
    return [*lines, *([f"- and {left} more near-misses: `arsched leaderboard`"] if left > 0 else [])]


def about_dead_ends(facts: BriefFacts, room: int) -> list[str]:
    """At most `room` lines: themes by how often they were tried, in each the latest first."""
    tried = {theme.theme for theme in facts.themes}
    untried = [theme for theme in THEMES if theme not in tried]
    lines = [f"- not tried yet: {', '.join(untried)}"] if untried else []
    each = _share(max(0, room - len(lines)), [len(theme.dead_ends) + 1 for theme in facts.themes])
    for theme in facts.themes:
        lines.append(f"- {quote(theme.theme, 24)}: {theme.tried} tried, {theme.promoted} promoted")
        dead = [f"  - {_dead_end(one)}" for one in theme.dead_ends]
        lines += listed(dead, each - 1, "dead ends of this theme")
    return listed(lines, room, "lines on dead ends") or ["- none yet"]


def about_now(facts: BriefFacts) -> list[str]:
    """Being tried right now. Do not repeat it."""
    waiting = [c for c in facts.lab.candidates if c.state.undecided]
    lines = [f"- {c.id} {quote(_title(c))}: {describe_state(c, facts.lab.runs_of[c.id])}" for c in reversed(waiting)]
    others = [f"- asks open: {facts.open_ideas}, yours perhaps among them"] if facts.open_ideas else []
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


def _dead_end(dead: DeadEnd) -> str:
    who = f"{dead.candidate} {quote(dead.title, 60)}"
    if dead.effect_bpb is None:
        return f"{who}: {quote(dead.why)}"
    loss = f"; {describe_medians(dead.medians)}" if dead.effect_bpb > 0 and dead.medians.loss_at else ""
    return f"{who}: {signed(dead.effect_bpb)} ± {dead.effect_se_bpb or 0.0:.4f}, {dead.why}{loss}"


def _share(room: int, wishes: list[int]) -> int:
    """How many lines each theme may have so that all of them together fit."""
    each = max(wishes, default=0)
    while each > 1 and sum(min(each, wish) for wish in wishes) > room:
        each -= 1
    return each


def _title(candidate: Candidate) -> str:
    return candidate.title or candidate.name
