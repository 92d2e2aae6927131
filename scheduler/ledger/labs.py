"""Labs in the ledger: one row per tag, one of them current."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from scheduler.domain.decision import GateSettings
from scheduler.domain.errors import LabProblem
from scheduler.domain.lab import Lab
from scheduler.ledger.db import Database
from scheduler.ledger.events import Events
from scheduler.ledger.rows import known_fields

SUBJECT = "lab"


class Labs:
    def __init__(self, database: Database, events: Events, clock: Callable[[], float]) -> None:
        self._database, self._events, self._clock = database, events, clock

    def create(self, lab: Lab) -> None:
        """Add a lab and make it the current one. Raises LabProblem when the tag is taken."""
        with self._database.transaction():
            if self._row(lab.tag):
                raise LabProblem(f"lab {lab.tag!r} exists", f"go on with it (--tag {lab.tag}), or choose another tag")
            columns = asdict(lab) | {"gates": gates_text(lab.gates)}
            self._database.insert("lab", **columns)
            self._events.write(lab.tag, SUBJECT, "", "created", f"contract {lab.contract_name}")
            self.set_current(lab.tag)

    def current(self) -> Lab | None:
        row = self._database.one("SELECT * FROM lab WHERE is_current")
        return _lab(row) if row else None

    def get(self, tag: str) -> Lab:
        """Raises LabProblem for an unknown tag."""
        row = self._row(tag)
        if row is None:
            known = ", ".join(lab.tag for lab in self.all()) or "none"
            raise LabProblem(f"no lab {tag!r} (labs here: {known})", f"create it: arsched init --tag {tag}")
        return _lab(row)

    def all(self) -> tuple[Lab, ...]:
        return tuple(_lab(row) for row in self._database.all("SELECT * FROM lab ORDER BY created_at, tag"))

    def set_current(self, tag: str) -> None:
        """Make this the lab that commands mean without --tag. Raises LabProblem for an unknown tag."""
        with self._database.transaction():
            self.get(tag)
            self._database.execute("UPDATE lab SET is_current = 0 WHERE is_current AND tag != ?", tag)
            changed = self._database.execute("UPDATE lab SET is_current = 1 WHERE tag = ? AND NOT is_current", tag)
            if changed.rowcount:
                self._events.write(tag, SUBJECT, "", "current", "")

    def set_gates(self, tag: str, gates: GateSettings) -> None:
        """Change the promotion rule from here on; decisions taken keep the settings they were taken with."""
        with self._database.transaction():
            before = self.get(tag).gates
            self._database.execute("UPDATE lab SET gates = ? WHERE tag = ?", gates_text(gates), tag)
            self._events.write(tag, SUBJECT, before.name, gates.name, f"gates {gates_text(gates)}")

    def pause(self, tag: str, reason: str) -> bool:
        """From here on nothing new is placed and no idea asked for. False when it is paused already."""
        return self._set_paused(tag, self._clock(), "paused", reason)

    def resume(self, tag: str) -> bool:
        """False when it is not paused."""
        return self._set_paused(tag, None, "resumed", "")

    def _set_paused(self, tag: str, paused_at: float | None, to: str, reason: str) -> bool:
        with self._database.transaction():
            if (self.get(tag).paused_at is None) == (paused_at is None):
                return False
            self._database.execute("UPDATE lab SET paused_at = ? WHERE tag = ?", paused_at, tag)
            self._events.write(tag, SUBJECT, "", to, reason)
            return True

    def _row(self, tag: str) -> Any:
        return self._database.one("SELECT * FROM lab WHERE tag = ?", tag)


def gates_text(gates: GateSettings) -> str:
    return json.dumps(asdict(gates))


def parse_gates(text: str) -> GateSettings:
    """Settings an older program did not know take their default, ones this program does not know are left out."""
    return GateSettings(**known_fields(GateSettings, json.loads(text)))


def _lab(row: Any) -> Lab:
    values = {field.name: row[field.name] for field in fields(Lab)}
    return Lab(**(values | {"gates": parse_gates(row["gates"])}))
