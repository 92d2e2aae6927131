"""Rows of the ledger to the domain's frozen types and back: ids, JSON columns, events, candidates, runs, labs.

Holds the queries that several tables' classes share. Changes nothing but the history.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

from scheduler.domain.candidate import Candidate, CandidateState, Origin
from scheduler.domain.decision import GateSettings
from scheduler.domain.errors import LabProblem, LedgerProblem, UsageProblem
from scheduler.domain.lab import Event, Lab
from scheduler.domain.run import (
    Cancelled,
    Failed,
    Finished,
    Infra,
    Measurements,
    Queued,
    Result,
    ResultError,
    Run,
    RunKind,
    Running,
    RunState,
    Scored,
    Verdict,
)
from scheduler.ledger.db import Database

REASON_CHARACTERS = 500  # a result keeps its whole text; the history only gives the reason
T = TypeVar("T")
_ID = re.compile(r"[crsp]0*([1-9][0-9]{0,17})")

CANDIDATES = """
SELECT number, tag, name, commit_id, base, train_sha256, fingerprint, title, author, submitted_at, state, origin,
       proposer, hypothesis, theme, round, code_lines
FROM candidate
"""

# A run with its last attempt and its result; every query for runs starts here.
RUNS = """
SELECT run.number, run.candidate, run.kind, run.seed, run.attempts, run.pool, run.tag,
       run.state, run.since, run.note, attempt.slot_id, attempt.boot_id, attempt.started_at,
       result.attempt, result.text, result.family, result.status, result.reason,
       result.val_bpb, result.val_bpb_upstream, result.suspect
FROM run
LEFT JOIN attempt ON attempt.run = run.number AND attempt.number = run.attempts
LEFT JOIN result ON result.run = run.number
"""

# Of the last scored runs, the latest first: what domain.run.held_s takes. CROSS JOIN: go through the results from the
# latest, and not through all runs.
LENGTHS = """
SELECT attempt.started_at, result.recorded_at, result.wall_s FROM result
CROSS JOIN run ON run.number = result.run
CROSS JOIN attempt ON attempt.run = result.run AND attempt.number = result.attempt
WHERE run.tag = ? AND result.family = 'scored' ORDER BY result.number DESC LIMIT ?
"""
LAST_LENGTHS = 25  # enough for their median

# Looked up, because to call an enumeration takes five times as long and a lab may have many rows.
STATES = {state.value: state for state in CandidateState}
ORIGINS = {origin.value: origin for origin in Origin}
MEASURED_APART = f"({', '.join(repr(kind.value) for kind in RunKind if not kind.decides)})"  # SQL: kinds of such runs
_RUN_KINDS = {kind.value: kind for kind in RunKind}

# Scores of each pool in a lab: that of the baseline's first score first, then that of the lab's first.
POOLS = f"""
SELECT run.pool, count(*), count(DISTINCT run.candidate) FROM run JOIN result ON result.run = run.number
JOIN candidate ON candidate.number = run.candidate
WHERE run.tag = ? AND result.family = 'scored' AND run.kind NOT IN {MEASURED_APART} GROUP BY run.pool
ORDER BY min(iif(candidate.state = 'baseline', result.number, NULL)) NULLS LAST, min(result.number)
"""


# Ids that people read ("c0007", "r0012", "s0001", "p0003") and the row numbers behind them.


candidate_id: Callable[[int], str] = "c{:04d}".format
run_id: Callable[[int], str] = "r{:04d}".format
search_id: Callable[[int], str] = "s{:04d}".format
proposal_id: Callable[[int], str] = "p{:04d}".format


def number_of(ref: str, letter: str) -> int | None:
    """Row number of an id with this letter ("c7" and "c0007" are the same), or None when it is not one."""
    found = _ID.fullmatch(ref)
    return int(found[1]) if found and ref.startswith(letter) else None


def is_reserved(name: str) -> bool:
    """A candidate of such a name would be taken for an id."""
    return name == "last" or number_of(name, "c") is not None or number_of(name, "r") is not None


def unknown(what: str, ref: str, tag: str, known: Iterable[str]) -> UsageProblem:
    """The error for a reference that leads nowhere, with the nearest one that does."""
    import difflib

    nearest = difflib.get_close_matches(ref, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "`arsched status` and `arsched leaderboard` list them"
    return UsageProblem(f"no {what} {ref!r} in lab {tag!r}", hint)


# JSON columns: any dataclass of the domain.


_DECODERS: dict[type, Any] = {}  # kept: making one costs as much as a hundred uses


def encode(value: object) -> str:
    import msgspec

    return json.dumps(msgspec.to_builtins(value))


def decode(text: str, kind: type[T], what: str) -> T:
    """Fields an older program did not know take their default, ones this program does not know are left out.

    Raises LedgerProblem, naming `what` could not be read.
    """
    import msgspec

    try:
        try:
            decoder = _DECODERS.get(kind) or _DECODERS.setdefault(kind, msgspec.json.Decoder(kind))
            return cast(T, decoder.decode(text))
        except msgspec.DecodeError:  # strict JSON has no Infinity, which the limit of a search may be
            return msgspec.convert(json.loads(text), kind)
    except (ValueError, msgspec.ValidationError) as problem:
        raise unreadable(what, problem) from None


def from_row(kind: type[T], row: Any, **changed: Any) -> T:
    """The columns that `kind` has a field for, with the `changed` ones in their place."""
    import msgspec

    return msgspec.convert({**row, **changed}, kind)


def unreadable(what: str, problem: Exception) -> LedgerProblem:
    return LedgerProblem(f"{what} in the ledger is unreadable: {problem}")


class Events:
    """The history: one line for every change of state, written in the transaction of that change and never altered."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock

    def write(self, tag: str, subject: str, from_state: str, to_state: str, reason: str) -> None:
        """Append one line. For the ledger's own classes: call it inside the transaction of the change."""
        reason = reason[:REASON_CHARACTERS]
        self._database.insert(
            "event", at=self._clock(), tag=tag, subject=subject, from_state=from_state, to_state=to_state, reason=reason
        )

    def list(self, tag: str, limit: int | None = None) -> tuple[Event, ...]:
        """The latest `limit` events of a lab (all without a limit), oldest first."""
        return self._latest("tag = ?", tag, -1 if limit is None else limit)

    def last(self, tag: str) -> Event | None:
        return next(iter(self.list(tag, limit=1)), None)

    def of_interest(self, tag: str, limit: int) -> tuple[Event, ...]:
        """The latest of the lab, its searches, refused attempts, new baselines and runs queued again, oldest first.

        Left out is the daily life of candidates, runs and proposals.
        """
        daily = "substr(subject, 1, 1) IN ('c', 'r', 'p') AND instr(subject, '.') = 0"
        lost = "from_state = 'running' AND to_state = 'queued'"
        return self._latest(f"tag = ? AND (NOT ({daily}) OR to_state = 'baseline' OR ({lost}))", tag, limit)

    def _latest(self, condition: str, *values: object) -> tuple[Event, ...]:
        rows = self._database.all(f"SELECT * FROM event WHERE {condition} ORDER BY number DESC LIMIT ?", *values)
        return tuple(Event(*row) for row in reversed(rows))


class Table:
    """What the ledger says of one subject. Every change of it leaves an event."""

    def __init__(self, database: Database, events: Events, clock: Callable[[], float]) -> None:
        self._database, self._events, self._clock = database, events, clock


def read_lab(database: Database, tag: str) -> Lab:
    """Raises LabProblem for an unknown tag."""
    row = database.one("SELECT * FROM lab WHERE tag = ?", tag)
    if row is None:
        known = ", ".join(row["tag"] for row in database.all("SELECT tag FROM lab ORDER BY created_at, tag")) or "none"
        raise LabProblem(f"no lab {tag!r} (labs here: {known})", f"create it: arsched init --tag {tag}")
    return parse_lab(row)


def parse_lab(row: Any) -> Lab:
    return from_row(Lab, row, gates=decode(row["gates"], GateSettings, f"the settings of lab {row['tag']!r}"))


def parse_candidate(row: Iterable[Any]) -> Candidate:
    """From a row of CANDIDATES."""
    number, tag, name, commit, base, sha256, fingerprint, title, author, submitted_at, state, origin, *rest = row
    return Candidate(
        *(candidate_id(number), tag, name, commit, None if base is None else candidate_id(base)),
        *(sha256, fingerprint, title, author, submitted_at, STATES[state], ORIGINS[origin], *rest),
    )


@dataclass(frozen=True, eq=False)
class RecordedResult(Result):
    """Read from a row: the verdict is what was recorded, figures come from the judge's text on first use."""

    run: str

    @cached_property
    def measured(self) -> Measurements:
        """Raises LedgerProblem when the text is no result."""
        try:
            return super().measured
        except ResultError as problem:
            raise unreadable(f"the result of {self.run}", problem) from None


def parse_run(row: Iterable[Any]) -> Run:
    """From a row of RUNS."""
    number, candidate, kind, seed, attempts, pool, _, *state = row
    return Run(
        *(run_id(number), candidate_id(candidate), _RUN_KINDS[kind], seed, attempts, pool),
        _parse_state(number, attempts, *state),
    )


def _parse_state(
    number: int, attempts: int, state: str, since: float, note: str, slot: Any, boot: Any, started_at: Any, *result: Any
) -> RunState:
    match state:
        case "queued":
            return Queued(since, note)
        case "running":
            return Running(attempts, slot, boot, started_at)
        case "cancelled":
            return Cancelled(since, note)
    attempt, text, family, status, reason, *scores = result
    verdict: Verdict
    if family == "scored":
        verdict = Scored(*scores)
    else:
        verdict = Infra(status, reason) if family == "infra" else Failed(status, reason)
    return Finished(attempt, slot, started_at, since, RecordedResult(verdict, text, run_id(number)))
