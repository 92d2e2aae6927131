"""What is said of slots: each that takes no run, once and with its reason, and once when it takes runs again.

Not covered: what makes a slot unusable (place.py), and what the slots do (progress.py).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scheduler.domain.slot import DIRTY, IN_USE, Slot
from scheduler.domain.text import count

SETTLED_S = 5.0  # what is over sooner is not worth a line
STARTING_S = 60.0  # Ray may need so long for the supervisors of a node that joins
LONGEST_S = 600.0
STARTING = "its supervisor is starting"
UNKNOWN_GPU = "gpu?"  # in the id of a slot before its supervisor has said which GPU Ray gave it
JOINED = "joined"  # said of a slot that is new, and of which nothing was said

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


@dataclass(slots=True)
class _Known:
    """One slot. `problem` is of this kind since `since`, `said` what stands on the screen ("": that it takes runs).

    `times`: how often its end or another reason was said; a slot that comes and goes is waited for longer and longer.
    """

    node: str
    problem: str
    since: float
    said: str = ""
    times: int = 0

    def is_due(self, now: float) -> bool:
        """Whether what it is now differs from what was said, and has lasted."""
        if kind(self.problem) == kind(self.said):
            return False
        base_s = STARTING_S if self.problem == STARTING else SETTLED_S
        return now - self.since >= min(LONGEST_S, base_s * 2.0 ** min(self.times, 10))


class SlotNews:
    """Compares the slots of each round with what it has said; `problems` gives the reason of every unusable one."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._known: dict[str, _Known] = {}
        self._has_looked = False

    def follow(self, slots: Sequence[Slot], problems: Mapping[str, str], now: float) -> None:
        """`problems` by slot id, without an entry for the usable; `now` in seconds of any origin."""
        for slot in slots:
            self._see(slot.id, slot.node, problems.get(slot.id, ""), now)
        self._miss(self._known.keys() - {slot.id for slot in slots}, now)
        self._has_looked = True
        due = {slot_id: one for slot_id, one in sorted(self._known.items()) if one.is_due(now)}
        self._say_broken({slot_id: one for slot_id, one in due.items() if one.problem})
        nodes = {one.node for one in due.values() if not one.problem}
        self._say_well(
            {i: one for i, one in sorted(self._known.items()) if one.node in nodes and one.said and not one.problem}
        )

    def _see(self, slot_id: str, node: str, problem: str, now: float) -> None:
        known = self._known.get(slot_id)
        if known is None:  # a broken one of the first is named at once, one that joins as soon as that is clear
            since, said = (now, JOINED) if self._has_looked else (float("-inf"), "")
            self._known[slot_id] = _Known(node, problem, since, said)
            return
        if kind(known.problem) != kind(problem):
            known.since = now
        known.problem = problem

    def _miss(self, gone: Iterable[str], now: float) -> None:
        for slot_id in gone:
            known = self._known[slot_id]
            if known.said == JOINED or UNKNOWN_GPU in slot_id:
                del self._known[slot_id]
            else:
                self._see(slot_id, known.node, "the node has left the cluster", now)

    def _say_broken(self, broken: Mapping[str, _Known]) -> None:
        for (node, _), ids in grouped(broken, lambda one: (one.node, kind(one.problem))).items():
            problem = broken[ids[0]].problem
            self._say(f"note: {self._describe(node, ids)} no run: {problem}")
            for slot_id in ids:
                broken[slot_id].times += broken[slot_id].said not in ("", JOINED)  # one reason after another
                broken[slot_id].said = problem

    def _say_well(self, well: Mapping[str, _Known]) -> None:
        for (node, is_new), ids in grouped(well, lambda one: (one.node, one.said == JOINED)).items():
            self._say(f"note: {self._describe(node, ids)} runs{'' if is_new else ' again'}")
            for slot_id in ids:
                well[slot_id].said = ""
                well[slot_id].times += not is_new

    def _describe(self, node: str, ids: Sequence[str]) -> str:
        """`h3/cpu1 takes`, `2 slots of h3 take`, where the node has more of them `2 slots of h3 (gpu1, gpu3) take`."""
        if len(ids) == 1:
            return f"{ids[0]} takes"
        of_node = [slot_id for slot_id, one in self._known.items() if one.node == node]
        named = ", ".join(slot_id.rpartition("/")[2] for slot_id in ids)
        return f"{count(len(ids), 'slot')} of {node}" + (f" ({named}) take" if len(ids) < len(of_node) else " take")


def kind(problem: str) -> str:
    """What two problems share that differ in a process number or a path's digits alone, or in who uses the slot."""
    if problem.startswith(DIRTY):
        problem = problem.partition(" process")[0]
    return IN_USE if problem.startswith(IN_USE) else re.sub(r"[0-9]+", "#", problem)


def grouped(items: Mapping[str, Item], key: Callable[[Item], Key]) -> dict[Key, list[str]]:
    """The names of the items by their key, both in the order of the items."""
    found: dict[Key, list[str]] = defaultdict(list)
    for name, item in items.items():
        found[key(item)].append(name)
    return found
