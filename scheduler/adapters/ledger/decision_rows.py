"""Decisions to rows and back: effects, standings, noise and settings are kept as JSON beside the columns."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from scheduler.adapters.ledger.ids import candidate_id, number_of
from scheduler.adapters.ledger.labs import gates_text, parse_gates
from scheduler.domain.candidate import CandidateState, Standing
from scheduler.domain.decision import (
    KINDS,
    Decision,
    DecisionRecord,
    Discard,
    Effect,
    GateSettings,
    MeasureBaseline,
    Noise,
    Promote,
    Replicate,
    Retry,
)


def decision_columns(
    decision: Decision, candidate: Standing, base: Standing, noise: Noise, gates: GateSettings
) -> dict[str, object]:
    """All columns but where, when and in which words."""
    effect = None if isinstance(decision, MeasureBaseline | Retry) else decision.effect
    return {
        "kind": KINDS[type(decision)],
        "candidate": number_of(candidate.candidate_id, "c"),
        "base": number_of(base.candidate_id, "c"),
        "reason": decision.reason,
        "effect": json.dumps(asdict(effect)) if effect else None,
        "p_better": effect.p_better if effect else None,
        "noise": json.dumps(asdict(noise)),
        "gates": gates_text(gates),
        "candidate_standing": json.dumps(asdict(candidate)),
        "base_standing": json.dumps(asdict(base)),
    }


def parse_decision(row: Any) -> DecisionRecord:
    return DecisionRecord(
        decided_at=row["decided_at"],
        decision=_parse_kind(row),
        candidate=_parse_standing(row["candidate_standing"]),
        base=_parse_standing(row["base_standing"]),
        noise=Noise(**json.loads(row["noise"])),
        gates=parse_gates(row["gates"]),
        sentence=row["sentence"],
    )


def parse_effect(text: str) -> Effect:
    return Effect(**json.loads(text))


def _parse_kind(row: Any) -> Decision:
    candidate, base, reason = candidate_id(row["candidate"]), candidate_id(row["base"]), row["reason"]
    match row["kind"]:
        case "promote":
            return Promote(candidate, base, parse_effect(row["effect"]), reason)
        case "replicate":
            return Replicate(candidate, base, parse_effect(row["effect"]), reason)
        case "discard":
            return Discard(candidate, base, parse_effect(row["effect"]) if row["effect"] else None, reason)
        case "measure-baseline":
            return MeasureBaseline(base, reason)
    return Retry(candidate, reason)


def _parse_standing(text: str) -> Standing:
    raw = json.loads(text)
    return Standing(**(raw | {"state": CandidateState(raw["state"]), "scores": tuple(raw["scores"])}))
