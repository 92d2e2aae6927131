"""What is merged, and when, written down a second time from the words of the rule: it shares no code with the policy.

The results of a simulation come in one by one and running sums are kept: a mean and a count per version, one sum of
squares for the lab. `due` says what has to be merged now; `carry_out` follows every decision. The gates are not here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from scipy.special import ndtr

from scheduler.domain.decision import GateSettings

SIGMA0 = 0.0005
Act = tuple[str, tuple[str, ...]]  # a word, and the ids it is about


@dataclass
class Version:
    name: str
    base: str
    kind: str = "idea"  # idea, union, port
    state: str = "open"  # open, contender, base, was base, dropped, shelved, failed
    n: int = 0
    mean: float = 0.0
    edits: frozenset[str] = frozenset()  # whose changes it makes to its base

    @property
    def alive(self) -> bool:
        return self.state in ("open", "contender")


@dataclass
class Merged:
    base: str
    parts: tuple[str, ...]
    result: str
    depth: int  # failed unions it is a half of
    halved: bool = False


@dataclass
class Rule:
    gates: GateSettings
    slots: int
    versions: dict[str, Version] = field(default_factory=dict)
    merges: list[Merged] = field(default_factory=list)
    base: str = "c0001"
    squares: float = 0.0
    df: int = 0

    def __post_init__(self) -> None:
        self.versions[self.base] = Version(self.base, self.base, state="base")

    def add(self, name: str) -> None:
        self.versions[name] = Version(name, self.base, edits=frozenset((name,)))

    def result(self, name: str, score: float | None) -> None:
        v = self.versions[name]
        if score is None:
            return
        if v.n:
            self.squares += (score - v.mean) ** 2 * v.n / (v.n + 1)
            self.df += 1
        v.n += 1
        v.mean += (score - v.mean) / v.n

    @property
    def sigma(self) -> float:
        return math.sqrt((self.gates.prior_df * SIGMA0**2 + self.squares) / (self.gates.prior_df + self.df))

    def p_own(self, v: Version) -> float:
        b = self.versions[v.base if self.versions[v.base].n else self.base]
        return float(ndtr((b.mean - v.mean) / (self.sigma * math.sqrt(1 / v.n + 1 / b.n))))

    def due(self) -> Act | None:
        """Once there is no promotion: a merge, or "settle" and the contender left behind that the gates look at."""
        return (self.left_behind() or self.displaced() or self.halve()) if self.gates.combine else None

    def left_behind(self) -> Act | None:
        """Contenders of an older baseline: the good ones together, the rest go, whatever still runs of them."""
        g = self.gates
        left = [v for v in self.alive() if v.state == "contender" and v.base != self.base]
        chances = {v.name: self.p_own(v) if v.n else g.combine_from for v in left}
        there = self.program(self.base)
        tired = {v.name for v in left if v.edits & there or any(self.carried()[e] >= g.max_ports for e in v.edits)}
        good = [v for v in left if v.name not in tired and chances[v.name] >= g.combine_from]
        if good:
            return "merge", tuple(v.name for v in sorted(good, key=lambda v: -chances[v.name]))
        return next((("settle", (v.name,)) for v in left if v.n), None)

    def displaced(self) -> Act | None:
        """Baselines that the current one was not made from, the older first; tried once on every baseline."""
        here = {e for m in self.merges if m.base == self.base for p in m.parts for e in self.versions[p].edits}
        lost = [v for v in self.versions.values() if v.state == "was base" and v.name not in self.ancestors(self.base)]
        good = [
            v
            for v in sorted(lost, key=lambda v: (len(self.ancestors(v.name)), v.name))
            if self.p_own(v) >= self.gates.combine_from
            and not v.edits & (here | self.unavailable())
            and all(self.carried()[edit] < self.gates.max_ports for edit in v.edits)
        ]
        return ("merge", tuple(v.name for v in good)) if good else None

    def halve(self) -> Act | None:
        return next((("half", half) for _, half in self.halves()), None)

    def halves(self) -> Iterator[tuple[Merged, tuple[str, ...]]]:
        for m in self.merges:
            lost = self.versions[m.result].state in ("dropped", "failed")
            if not lost or m.halved or len(m.parts) < 2 or m.depth >= self.gates.max_halvings:
                continue
            half = m.parts[: (len(m.parts) + 1) // 2]
            if len(half) == 1 and self.versions[half[0]].base == m.base:
                continue
            half = tuple(name for name in half if not self.versions[name].edits & self.unavailable())
            if half:
                yield m, half

    def near_misses(self) -> Act | None:
        """Two or more of the shelf, the likeliest first, never two with the same edit, never the same set twice."""
        g, taken = self.gates, self.unavailable()
        on_trial = sum(v.kind == "union" for v in self.alive())
        if not g.combine or not self.versions[self.base].n or on_trial >= max(1, int(self.slots * g.max_union_share)):
            return None
        chosen: list[Version] = []
        shelf = [v for v in self.versions.values() if v.state == "shelved" and v.n]
        for v in sorted(shelf, key=self.p_own, reverse=True):
            tired = any(self.carried()[edit] >= g.max_ports for edit in v.edits)
            if self.p_own(v) >= g.shelve_from and not tired and not v.edits & taken and len(chosen) < g.max_parts:
                chosen.append(v)
                taken |= v.edits
        names = tuple(v.name for v in chosen)
        known = any(m.base == self.base and set(m.parts) == set(names) for m in self.merges)
        return ("merge", names) if len(names) > 1 and not known else None

    def carried(self) -> Counter[str]:
        whole = [m for m in self.merges if not m.depth]
        return Counter(edit for m in whole for edit in {e for part in m.parts for e in self.versions[part].edits})

    def unavailable(self) -> frozenset[str]:
        """Edits in the baseline's own program, or in a merge that is not decided on."""
        return self.program(self.base).union(*(v.edits for v in self.alive() if v.kind != "idea"))

    def program(self, name: str) -> frozenset[str]:
        """All edits since the first program, known by what each baseline was made from."""
        return frozenset(edit for ancestor in self.ancestors(name) for edit in self.versions[ancestor].edits)

    def ancestors(self, name: str) -> list[str]:
        base = self.versions[name].base
        return [name] if base == name else [name, *self.ancestors(base)]

    def alive(self) -> list[Version]:
        return [v for v in self.versions.values() if v.alive]

    def carry_out(self, act: Act, result: str = "") -> None:
        """`result` is the id that a merge's program gets."""
        word, names = act
        if word in ("merge", "half"):
            return self.merge(names, result, halving=word == "half")
        if word == "promote":
            self.versions[self.base].state, self.base = "was base", names[0]
        settled = {"promote": "base", "shelve": "shelved", "drop": "dropped", "fail": "failed", "repeat": "contender"}
        v = self.versions[names[0]]
        v.state = settled.get(word, v.state)
        return None

    def merge(self, names: tuple[str, ...], result: str, halving: bool) -> None:
        depth = 0
        if halving:
            whole = next(self.halves())[0]
            whole.halved, depth = True, whole.depth + 1
        for name in names:
            part = self.versions[name]
            part.state = "shelved" if part.alive else part.state
        edits = frozenset(edit for name in names for edit in self.versions[name].edits)
        kind = "union" if len(names) > 1 else "port"
        self.versions[result] = Version(result, self.base, kind, "contender", edits=edits)
        self.merges.append(Merged(self.base, names, result, depth))
