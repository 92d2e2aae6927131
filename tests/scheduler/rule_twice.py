"""The promotion rule written down a second time, from the words of the rule: it shares no code with scheduler.policy.

A night's results come in one by one and running sums are kept: a mean and a count per version, one SS and DF for the
lab. `due` says what has to be decided now, as a word and the ids it is about; `carry_out` does it. Boards, effects and
sentences are not known here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from scipy.special import ndtr

from scheduler.domain.decision import GateSettings

SIGMA0 = 0.0005
Act = tuple[str, tuple[str, ...]]


@dataclass
class Version:
    name: str
    base: str
    lines: int = 0
    kind: str = "idea"  # idea, union, port
    state: str = "open"  # open, contender, base, was base, dropped, shelved, failed
    n: int = 0
    mean: float = 0.0
    pending: int = 0
    failed: int = 0
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
    first_lines: int = 0
    versions: dict[str, Version] = field(default_factory=dict)
    merges: list[Merged] = field(default_factory=list)
    base: str = "c0001"
    first: bool = True
    squares: float = 0.0
    df: int = 0

    def __post_init__(self) -> None:
        self.versions[self.base] = Version(self.base, self.base, self.first_lines, state="base")

    def add(self, name: str, lines: int) -> None:
        self.versions[name] = Version(name, self.base, lines, pending=1, edits=frozenset((name,)))

    def cancelled(self, name: str) -> None:
        self.versions[name].pending -= 1

    def result(self, name: str, score: float | None) -> None:
        v = self.versions[name]
        v.pending -= 1
        if score is None:
            v.failed += 1
            return
        if v.n:
            self.squares += (score - v.mean) ** 2 * v.n / (v.n + 1)
            self.df += 1
        v.n += 1
        v.mean += (score - v.mean) / v.n

    @property
    def sigma(self) -> float:
        return math.sqrt((self.gates.prior_df * SIGMA0**2 + self.squares) / (self.gates.prior_df + self.df))

    def p(self, v: Version, against: str, margin: float = 0.0) -> float:
        b = self.versions[against]
        return float(ndtr((b.mean - v.mean + margin) / (self.sigma * math.sqrt(1 / v.n + 1 / b.n))))

    def p_own(self, v: Version) -> float:
        return self.p(v, v.base if self.versions[v.base].n else self.base)

    def late(self, v: Version) -> bool:
        return v.base != self.base and self.versions[v.base].n > 0

    def due(self, ideas_wait: bool) -> Act | None:
        act = self.measure() or self.give_up() or (self.comparable() and self.judge()) or None
        return act or (None if ideas_wait else self.near_misses())

    def measure(self) -> Act | None:
        b = self.versions[self.base]
        wanted = self.gates.first_baseline_runs if self.first else self.gates.baseline_runs
        tries = max(wanted, self.gates.max_runs, 2)
        if self.gates.baseline_every:
            held = sum(v.base == self.base and v.n > 0 for v in self.versions.values())
            wanted = max(wanted, min(wanted + held // self.gates.baseline_every, self.gates.max_baseline_runs))
        if b.n + b.pending < wanted and b.failed < tries and (b.n or b.pending + b.failed < tries):
            return "measure", (b.name,)
        return None

    def give_up(self) -> Act | None:
        return next((("fail", (v.name,)) for v in self.alive() if not v.n and not v.pending), None)

    def comparable(self) -> bool:
        b = self.versions[self.base]
        if not self.first:
            return b.n > 0
        return b.n >= self.gates.first_baseline_runs or (b.n > 0 and not b.pending)

    def judge(self) -> Act | None:
        idle = [v for v in self.alive() if not v.pending]
        winners = [v for v in idle if self.verdict(v) == "promote"]
        if winners:
            return "promote", (self.simplest(winners).name,)
        if act := self.left_behind() or self.displaced() or self.halve():
            return act
        if not idle:
            return None
        word = self.verdict(idle[0])
        return "merge" if word == "port" else word, (idle[0].name,)

    def simplest(self, winners: list[Version]) -> Version:
        best = min(winners, key=lambda v: v.mean)
        if not best.lines:
            return best
        near = [v for v in winners if v.mean - best.mean <= self.sigma * math.sqrt(1 / v.n + 1 / best.n)]
        return min(near, key=lambda v: (v.lines, v.mean))

    def verdict(self, v: Version) -> str:
        g = self.gates
        if g.combine and self.late(v):
            if self.p(v, self.base) >= g.promote_now:
                return "promote"
            if self.p_own(v) >= (g.combine_from if v.state == "contender" else g.repeat_from):
                return "port"
            return self.kept(v, self.p_own(v))
        p, spent = self.p(v, self.base), v.n >= g.max_runs or v.failed >= 2
        if p >= (g.promote_now if v.n == 1 else min(g.promote, g.promote_now)):
            return "promote"
        if p >= (g.repeat_from if v.n == 1 and v.state == "open" else g.drop) and not spent:
            return "repeat"
        if 0 < v.lines < self.versions[self.base].lines and g.simpler_margin > 0:
            not_worse = self.p(v, self.base, g.simpler_margin * self.sigma)
            if v.n > 1 and not_worse >= g.promote:
                return "promote"
            if not spent and not_worse >= (g.repeat_from if v.n == 1 else 0.5):
                return "repeat"
        return self.kept(v, p) if g.combine else "drop"

    def kept(self, v: Version, p: float) -> str:
        return "shelve" if p >= self.gates.shelve_from and v.n >= self.gates.shelve_runs else "drop"

    def left_behind(self) -> Act | None:
        """Contenders of an older baseline: the good ones together, the rest go, whatever still runs of them."""
        g = self.gates
        left = [v for v in self.alive() if v.state == "contender" and v.base != self.base] if g.combine else []
        chances = {v.name: self.p_own(v) if v.n else g.combine_from for v in left}
        there = self.program(self.base)
        tired = {v.name for v in left if v.edits & there or any(self.carried()[e] >= g.max_ports for e in v.edits)}
        good = [v for v in left if v.name not in tired and chances[v.name] >= g.combine_from]
        if good:
            return "merge", tuple(v.name for v in sorted(good, key=lambda v: -chances[v.name]))
        for v in (v for v in left if v.n):
            if self.p(v, self.base) >= g.promote_now:
                return "promote", (v.name,)
            return self.kept(v, chances[v.name]), (v.name,)
        return None

    def displaced(self) -> Act | None:
        """Baselines that the current one was not made from, the older first; tried once on every baseline."""
        if not self.gates.combine:
            return None
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
        for m in self.merges if self.gates.combine else ():
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
        """All edits since the first program, told by what each baseline was made from."""
        return frozenset(edit for ancestor in self.ancestors(name) for edit in self.versions[ancestor].edits)

    def ancestors(self, name: str) -> list[str]:
        base = self.versions[name].base
        return [name] if base == name else [name, *self.ancestors(base)]

    def alive(self) -> list[Version]:
        return [v for v in self.versions.values() if v.alive]

    def carry_out(self, act: Act, result: str = "", lines: int = 0) -> None:
        """`result` is the id that a merge's program gets, `lines` its lines of code."""
        word, names = act
        v = self.versions[names[0]]
        if word in ("merge", "half"):
            return self.merge(names, result, lines, halving=word == "half")
        if word == "promote":
            self.versions[self.base].state, self.base, self.first = "was base", v.name, False
        v.pending += word in ("measure", "repeat")
        settled = {"promote": "base", "shelve": "shelved", "drop": "dropped", "fail": "failed", "repeat": "contender"}
        v.state = settled.get(word, v.state)
        return None

    def merge(self, names: tuple[str, ...], result: str, lines: int, halving: bool) -> None:
        depth = 0
        if halving:
            whole = next(self.halves())[0]
            whole.halved, depth = True, whole.depth + 1
        for name in names:
            part = self.versions[name]
            part.state = "shelved" if part.alive else part.state
        edits = frozenset(edit for name in names for edit in self.versions[name].edits)
        kind = "union" if len(names) > 1 else "port"
        self.versions[result] = Version(result, self.base, lines, kind, "contender", pending=1, edits=edits)
        self.merges.append(Merged(self.base, names, result, depth))
