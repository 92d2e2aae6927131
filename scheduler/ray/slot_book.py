"""What the driver remembers of attempts between two answers of a slot. Pure bookkeeping; no Ray, no clock.

Holds no truth: it only makes sure that every attempt begun here gets a report in the end, also when its node is gone
or its supervisor came back without it.
"""

from __future__ import annotations

from scheduler.domain.slot import Busy, Lost, Progress, Report

Key = tuple[str, int]  # run id, attempt


class SlotBook:
    """The last word on every attempt that was begun or heard of and not acknowledged, by slot."""

    def __init__(self) -> None:
        self._last: dict[str, dict[Key, Report]] = {}

    def begun(self, slot_id: str, run_id: str, attempt: int) -> None:
        """An attempt was ordered there; until the slot speaks of it, it counts as busy."""
        self._last.setdefault(slot_id, {}).setdefault(
            (run_id, attempt), Busy(slot_id, run_id, attempt, Progress())
        )  # fmt: skip

    def heard(self, slot_id: str, reports: tuple[Report, ...]) -> None:
        """A whole answer of one slot. What it does not mention any more is lost."""
        known = self._last.get(slot_id, {})
        spoken = {(report.run_id, report.attempt): report for report in reports}
        missing = {
            key: Lost(slot_id, *key, "the slot knows nothing of this attempt any more")
            for key, report in known.items()
            if key not in spoken and isinstance(report, Busy)
        }
        kept = {key: report for key, report in known.items() if key not in spoken and key not in missing}
        self._last[slot_id] = {**kept, **missing, **spoken}

    def gone(self, slot_id: str, reason: str) -> None:
        """The slot will not answer again: what it was busy with is lost."""
        known = self._last.get(slot_id, {})
        for key, report in known.items():
            if isinstance(report, Busy):
                known[key] = Lost(slot_id, *key, reason)

    def forget(self, slot_id: str, run_id: str, attempt: int) -> None:
        self._last.get(slot_id, {}).pop((run_id, attempt), None)

    def reports(self) -> tuple[Report, ...]:
        return tuple(report for reports in self._last.values() for report in reports.values())
