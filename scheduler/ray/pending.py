"""Which attempts a pool has started that were not acknowledged yet, and the last report on each. Asks no slot."""

from __future__ import annotations

from scheduler.domain.slot import Busy, Lost, Progress, Report


class PendingReports:
    """The last report on every attempt that was started or reported and not acknowledged, by slot. Pure bookkeeping.

    Holds no truth: it only makes sure that every attempt started here gets a report in the end, also when its node is
    gone or its supervisor came back without it.
    """

    def __init__(self) -> None:
        self._last: dict[str, dict[tuple[str, int], Report]] = {}  # slot id -> (run id, attempt) -> report

    def started(self, slot_id: str, run_id: str, attempt: int) -> None:
        """An attempt was ordered there; until the slot reports it, it counts as busy."""
        known = self._last.setdefault(slot_id, {})
        known.setdefault((run_id, attempt), Busy(slot_id, run_id, attempt, Progress()))

    def update(self, slot_id: str, reports: tuple[Report, ...]) -> None:
        """A whole answer of one slot. A busy attempt that it does not contain any more is lost."""
        self.lose(slot_id, "the slot knows nothing of this attempt any more")
        self._last.setdefault(slot_id, {}).update({(report.run_id, report.attempt): report for report in reports})

    def lose(self, slot_id: str, reason: str) -> None:
        """The slot will not answer again: what it was busy with is lost."""
        known = self._last.get(slot_id, {})
        for key, report in known.items():
            if isinstance(report, Busy):
                known[key] = Lost(slot_id, *key, reason, from_outside=True)

    def forget(self, slot_id: str, run_id: str, attempt: int) -> None:
        self._last.get(slot_id, {}).pop((run_id, attempt), None)

    def all(self) -> tuple[Report, ...]:
        return tuple(report for reports in self._last.values() for report in reports.values())
