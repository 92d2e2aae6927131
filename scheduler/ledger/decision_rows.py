"""Decisions to rows and back: effects, standings, noise and settings are kept as JSON beside the columns."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from scheduler.domain.candidate import CandidateState, Origin, Standing
from scheduler.domain.decision import (
    KINDS,
    Combine,
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
    Shelve,
)
from scheduler.ledger.ids import candidate_id, number_of
from scheduler.ledger.labs import gates_text, parse_gates
from scheduler.ledger.parties import Parties, effect_in
from scheduler.ledger.rows import known_fields

# A decision with the parts of its merge; every query for decisions starts here.
DECISIONS = """
SELECT decision.*, merge.parts, merge.halving, merge.predicted
FROM decision LEFT JOIN merge ON merge.decision = decision.number
"""


def decision_columns(decision: Decision, parties: Parties, noise: Noise, gates: GateSettings) -> dict[str, object]:
    """All columns but where, when, after which result and in which words."""
    effect = effect_in(decision)
    return {
        "kind": KINDS[type(decision)],
        "candidate": number_of(parties.candidate.candidate_id, "c"),
        "base": number_of(parties.base_id, "c"),
        "reason": decision.reason,
        "effect": json.dumps(asdict(effect)) if effect else None,
        "p_better": effect.p_better if effect else None,
        "noise": json.dumps(asdict(noise)),
        "gates": gates_text(gates),
        "candidate_standing": json.dumps(asdict(parties.candidate)),
        "base_standing": json.dumps(asdict(parties.baseline)),
        "own_base_standing": json.dumps(asdict(parties.own_base)) if parties.own_base else None,
    }


def parse_decision(row: Any) -> DecisionRecord:
    """From a row of DECISIONS."""
    own_base = row["own_base_standing"]
    return DecisionRecord(
        decided_at=row["decided_at"],
        decision=_parse_kind(row),
        candidate=_parse_standing(row["candidate_standing"]),
        base=_parse_standing(row["base_standing"]),
        noise=Noise(**json.loads(row["noise"])),
        gates=parse_gates(row["gates"]),
        sentence=row["sentence"],
        own_base=_parse_standing(own_base) if own_base else None,
        result_mark=row["result_mark"],
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
        case "shelve":
            return Shelve(candidate, base, parse_effect(row["effect"]), reason)
        case "combine":
            return Combine(base, tuple(json.loads(row["parts"])), row["halving"], row["predicted"], reason)
    return Retry(candidate, reason)


def _parse_standing(text: str) -> Standing:
    raw = known_fields(Standing, json.loads(text))
    state, origin = CandidateState(raw["state"]), Origin(raw.get("origin", Origin.SUBMITTED))
    return Standing(**(raw | {"state": state, "origin": origin, "scores": tuple(raw["scores"])}))
