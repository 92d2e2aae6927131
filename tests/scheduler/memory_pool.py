"""A pool in memory, for tests and rehearsals: scripted outcomes on a virtual clock, and every mishap on request.

Obeys the same contract as the pool on Ray. Starts no process, reads no file, knows no Ray. The script is a function
from an order to what will come of it; time passes only on request.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import Busy, Done, Lost, Progress, Report, RunOrder, Slot


class VirtualClock:
    """Seconds that pass only on request. Call it to read it."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass(frozen=True, slots=True)
class Finishes:
    """The judge writes this result after so many seconds."""

    result_text: str
    after_s: float = 1.0
    log: str = ""


@dataclass(frozen=True, slots=True)
class Vanishes:
    """The judge dies after so many seconds and leaves no result. `from_outside`: by a signal that was sent to it."""

    reason: str = "the judge ended without a result"
    after_s: float = 1.0
    from_outside: bool = False


@dataclass(frozen=True, slots=True)
class Hangs:
    """Runs until it is stopped."""


Outcome = Finishes | Vanishes | Hangs


def scored(val_bpb: float, after_s: float = 1.0, status: str = "ok", log: str = "") -> Finishes:
    """An outcome with a score, in the judge's own format."""
    text = json.dumps({"format": 1, "status": status, "reason": "", "val_bpb": val_bpb, "val_bpb_upstream": val_bpb})
    return Finishes(text, after_s, log)


def failed(status: str = "crash", reason: str = "", after_s: float = 1.0, log: str = "") -> Finishes:
    """An outcome without a score: `crash`, `timeout: train`, `infra: attention` …"""
    text = json.dumps({"format": 1, "status": status, "reason": reason, "val_bpb": None, "val_bpb_upstream": None})
    return Finishes(text, after_s, log)


def with_nonce(result_text: str, nonce: str) -> str:
    """The result as the attempt's own judge writes it; another nonce in it, or no JSON, stays as it is."""
    try:
        return json.dumps({"nonce": nonce} | json.loads(result_text))
    except (ValueError, TypeError):
        return result_text


def memory_slots(count: int, *, node: str = "memory", device: str = "cpu", pool: str = "memory") -> tuple[Slot, ...]:
    """Healthy slots of one node."""
    kind = "gpu" if device == "cuda" else "cpu"
    return tuple(
        Slot(f"{node}/{kind}{index}", node, "boot-1", device, "memory", pool, "cache-1") for index in range(count)
    )


@dataclass(frozen=True, slots=True)
class _Attempt:
    slot_id: str
    order: RunOrder
    outcome: Outcome
    started_at: float

    def report(self, now: float) -> Report:
        who = (self.slot_id, self.order.run_id, self.order.attempt)
        elapsed_s = now - self.started_at
        match self.outcome:
            case Finishes(result_text, after_s, log) if elapsed_s >= after_s:
                return Done(*who, with_nonce(result_text, self.order.nonce), log)
            case Vanishes(reason, after_s, from_outside) if elapsed_s >= after_s:
                return Lost(*who, reason, from_outside)
        return Busy(*who, Progress("train", elapsed_s, getattr(self.outcome, "after_s", 0.0)))


class MemoryPool:
    """Implements scheduler.domain.slot.Pool. `started` keeps every order that was really begun, in order."""

    def __init__(
        self,
        slots: int | Iterable[Slot] = 1,
        outcome: Callable[[RunOrder], Outcome] = lambda order: scored(2.0),
        clock: Callable[[], float] | None = None,
    ) -> None:
        offered = memory_slots(slots) if isinstance(slots, int) else tuple(slots)
        self.clock = clock or VirtualClock()
        self.started: list[RunOrder] = []
        self.stopped: list[str] = []
        self.closed = False
        self._outcome = outcome
        self._slots = {slot.id: slot for slot in offered}
        self._known: dict[tuple[str, str], _Attempt] = {}
        self._final: dict[tuple[str, str], Report] = {}
        self._seen: set[tuple[str, str]] = set()
        self._extra: list[Report] = []

    def bare_nodes(self) -> tuple[str, ...]:
        return ()

    def addresses(self) -> frozenset[str]:
        """Here a node's address is its name."""
        return frozenset(slot.node for slot in self._slots.values())

    def slots(self) -> tuple[Slot, ...]:
        return tuple(self._slots.values())

    def start(self, slot_id: str, order: RunOrder) -> None:
        if hashlib.sha256(order.train_py).hexdigest() != order.train_sha256:
            raise PoolProblem(f"train.py of {order.key} arrived damaged on {slot_id}", "submit it again")
        if (order.lab_id, order.key) in self._seen:
            return
        self._refuse_unless_free(slot_id)
        self._seen.add((order.lab_id, order.key))
        self.started.append(order)
        self._known[slot_id, order.key] = _Attempt(slot_id, order, self._outcome(order), self.clock())

    def poll(self) -> tuple[Report, ...]:
        extra, self._extra = self._extra, []
        return (*(self._report(place) for place in self._known), *extra)

    def acknowledge(self, slot_id: str, run_id: str, attempt: int) -> None:
        place = (slot_id, f"{run_id}.{attempt}")
        if place in self._known and not isinstance(self._report(place), Busy):
            del self._known[place]
            self._final.pop(place, None)

    def stop(self, slot_id: str, run_id: str, attempt: int) -> None:
        place = (slot_id, f"{run_id}.{attempt}")
        if place in self._known and isinstance(self._report(place), Busy):
            self.stopped.append(place[1])
            self._final[place] = Lost(slot_id, run_id, attempt, "stopped")

    def close(self, *, stop_runs: bool) -> None:
        if stop_runs:
            for slot_id, key in tuple(self._known):
                run_id, _, attempt = key.rpartition(".")
                self.stop(slot_id, run_id, int(attempt))
        self.closed = True

    def add_slot(self, slot: Slot) -> None:
        """A node joins, or comes back with another boot id."""
        self._slots[slot.id] = slot

    def lose_slot(self, slot_id: str, reason: str = "the node is gone") -> None:
        """The slot is gone for good; what ran there is reported Lost, finished results with it."""
        del self._slots[slot_id]
        for place in [place for place in self._known if place[0] == slot_id]:
            attempt = self._known[place].order
            self._final[place] = Lost(slot_id, attempt.run_id, attempt.attempt, reason, from_outside=True)

    def break_slot(self, slot_id: str, problem: str) -> None:
        """The slot takes no new run until it is healed with problem ""."""
        self._slots[slot_id] = replace(self._slots[slot_id], problem=problem)

    def say_again(self, report: Report) -> None:
        """The next poll holds this report too: a duplicate, or a late one of a slot thought lost."""
        self._extra.append(report)

    def _refuse_unless_free(self, slot_id: str) -> None:
        slot = self._slots.get(slot_id)
        if slot is None:
            raise PoolProblem(f"no slot {slot_id}", "see the slots with: arsched status")
        busy = any(place[0] == slot_id and isinstance(self._report(place), Busy) for place in self._known)
        problem = slot.problem or ("a run is already going on" if busy else "")
        if problem:
            raise PoolProblem(f"{slot_id} takes no run: {problem}")

    def _report(self, place: tuple[str, str]) -> Report:
        return self._final.get(place) or self._known[place].report(self.clock())
