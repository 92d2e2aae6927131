"""What the shipped rule promises on machines that drift, held against the figures of a comparison. Prints nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.simulation.comparison import BEFORE, SHIPPED, Cell, Promise, Row, Table, promises_of
from benchmarks.simulation.drift import STEADY

SIZE = 3.0  # σ: the drift that promises are about
LEAST_COVERED = 0.93
MOST_LOST = 0.01  # of the true gain, where nothing drifts

Finding = tuple[bool, str]


def check_drift_promises(table: Table) -> list[Promise]:
    """Promises without a cell to look at are left out."""
    found = {
        "nothing drifts: true gain within 1 % of the rule that knows no drift": _gain(table),
        "a drift of 3 σ: at least 93 % of first effects ± 2 errors hold the truth": _effects(table),
        "a drift of 3 σ: at least 93 % of claims hold the truth": _claims(table),
        "a drift of 3 σ: at most as many false promotions as without drift": _false(table),
    }
    return promises_of(found)


def _gain(table: Table) -> Iterator[Finding]:
    for cell, rows in table.items():
        if not cell.drift.size and {SHIPPED, BEFORE} <= rows.keys() and rows[BEFORE]["gain"] > 0:
            ours, before = rows[SHIPPED]["gain"], rows[BEFORE]["gain"]
            error = rows[SHIPPED].error["against"] / before
            yield ours >= (1 - MOST_LOST) * before, f"{cell}: {ours / before - 1:+.1%} ± {error:.1%}"


def _effects(table: Table) -> Iterator[Finding]:
    for cell, row in _drifting(table):
        share = row.share("judged_covered", "judged")
        yield share >= LEAST_COVERED, f"{cell}: {share:.1%} of {row['judged']:.0f} a search"


def _claims(table: Table) -> Iterator[Finding]:
    for cell, row in _drifting(table):
        yield row["covered"] >= LEAST_COVERED, f"{cell}: {row['covered']:.1%} ± {row.error['covered']:.1%}"


def _false(table: Table) -> Iterator[Finding]:
    for cell, row in _drifting(table):
        steady = table.get(replace(cell, drift=replace(STEADY, shown=cell.drift.shown)))
        if steady is not None and SHIPPED in steady:
            without = steady[SHIPPED]
            more, error = row["false"] - without["false"], math.hypot(row.error["false"], without.error["false"])
            finding = f"{cell}: {row['false']:.2f} against {without['false']:.2f} a search, {more:+.2f} ± {error:.2f}"
            yield more <= 0, finding


def _drifting(table: Table) -> Iterator[tuple[Cell, Row]]:
    for cell, rows in table.items():
        if cell.drift.size == SIZE and SHIPPED in rows:
            yield cell, rows[SHIPPED]
