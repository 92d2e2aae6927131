"""Sections on the lab itself: contract, noise, baseline, lineage. A section's docstring begins with its title."""

from __future__ import annotations

import textwrap
from statistics import NormalDist

from scheduler.brief.facts import BriefFacts
from scheduler.brief.quoting import listed, quote
from scheduler.domain.decision import Effect
from scheduler.policy.explain import signed
from scheduler.views.medians import describe_medians

MOST_STEPS, MOST_CONSTANT_LINES, WIDTH = 14, 8, 118


def about_contract(facts: BriefFacts) -> list[str]:
    """The contract. Fixed for every candidate of the lab."""
    contract = facts.contract
    if contract is None:
        return [f"- {facts.lab.lab.contract_name}"]
    clock = "CPU time of the process tree" if contract.budget.clock == "cpu" else "wall clock"
    return [
        f"- {contract.name}: {contract.budget.seconds:g} s of training ({clock}), imports and compiling not counted",
        f"- sequences of {contract.sequence_length} tokens, vocabulary {contract.vocab_size}, device {contract.device}",
    ]


def about_noise(facts: BriefFacts) -> list[str]:
    """What counts as real. From the repeats of this lab."""
    noise, board = facts.lab.noise, facts.lab.board
    if noise is None or board is None:
        return []
    gates, n = board.gates, max(1, board.baseline.n)
    se = noise.sigma * (1 + 1 / n) ** 0.5
    sure, fair = (-NormalDist().inv_cdf(p) * se for p in (gates.promote_now, gates.repeat_from))
    return [
        f"- two runs of one program differ: sd {noise.sigma:.5f} bpb ({noise.df} repeats and the contract's prior)",
        f"- one run against {n} of the baseline is promoted at {signed(sure)} and repeated at {signed(fair)}; "
        "less is noise",
    ]


def about_baseline(facts: BriefFacts) -> list[str]:
    """The baseline. What you start from."""
    board, noise = facts.lab.board, facts.lab.noise
    if board is None or noise is None:
        return []
    base = board.baseline
    candidate = facts.lab.by_id[base.candidate_id]
    score = "not measured yet"
    if base.n:
        score = f"val_bpb {base.mean:.4f} ± {noise.sigma / base.n**0.5:.4f} ({base.n} run{'s' if base.n > 1 else ''})"
    constants = ", ".join(f"{name}={value}" for name, value in facts.constants)
    wrapped = [f"  {line}" for line in textwrap.wrap(constants, WIDTH)][:MOST_CONSTANT_LINES]
    return [
        f"- {candidate.id} {quote(candidate.title or candidate.name)}: {score}",
        *([f"- {describe_medians(facts.baseline)}"] if facts.baseline else []),
        *(["- its constants:", *wrapped] if wrapped else []),
    ]


def about_lineage(facts: BriefFacts) -> list[str]:
    """What has moved the score. Effect ± error when it was promoted, and what to expect of it on fresh runs."""
    lines = [
        f"- {made.candidate_id} {quote(_title(facts, made.candidate_id))}: {describe_gain(made.effect)}"
        for made in reversed(facts.lab.promotions)
    ]
    return listed(lines, MOST_STEPS, "promotions") or ["- nothing yet: the first baseline is the baseline"]


def describe_gain(effect: Effect) -> str:
    runs = f"{effect.n_candidate} run{'s' if effect.n_candidate > 1 else ''} vs {effect.n_base}"
    return f"{signed(effect.diff)} ± {effect.se:.4f} ({runs}), expect about {signed(effect.shrunken)}"


def _title(facts: BriefFacts, ref: str) -> str:
    candidate = facts.lab.by_id[ref]
    return candidate.title or candidate.name
