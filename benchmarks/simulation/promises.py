"""What the rule promises, held against the simulated cells: each promise with every cell that breaks it.

A promise about a mean is kept when the mean keeps it; the standard errors stand in the table for whoever doubts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.simulation.cells import GREEDY, ROUNDS, Cell, Row

SHIPPED = "default"
Table = Mapping[Cell, Mapping[str, Row]]


@dataclass(frozen=True)
class Verdict:
    """`said` is one line per cell looked at, those that break the promise first."""

    promise: str
    kept: bool
    said: tuple[str, ...]


def judge(table: Table) -> list[Verdict]:
    """Promises without a cell to look at are left out."""
    verdicts = [
        _verdict("false promotions are at most half of greedy's", _false(table)),
        _verdict("the running total over-claims at most two thirds of what greedy's does", _over_claim(table)),
        _verdict("published night, 8 and 16 slots: true gain within 3 % of asynchronous greedy", _gain(table)),
        _verdict("noise 0.001, 8 and 16 slots: at least 5 % more than greedy in rounds", _rounds(table)),
        _verdict("no idea is better: the claim's interval covers zero in at least 93 % of nights", _null(table)),
    ]
    return [verdict for verdict in verdicts if verdict.said]


Finding = tuple[bool, str]


def _verdict(promise: str, findings: Iterator[Finding]) -> Verdict:
    found: Sequence[Finding] = sorted(findings)
    return Verdict(promise, all(kept for kept, _ in found), tuple(said for _, said in found))


def _false(table: Table) -> Iterator[Finding]:
    for cell, rows in _gainful(table):
        ours, theirs = rows[SHIPPED], rows[GREEDY]
        said = f"{ours.false:.2f} against {theirs.false:.2f} a night ({ours.false_share:.0%}, {theirs.false_share:.0%})"
        yield ours.false <= theirs.false / 2, f"{_name(cell)}: {said}"


def _over_claim(table: Table) -> Iterator[Finding]:
    for cell, rows in _gainful(table):
        ours, theirs = rows[SHIPPED].over_claim, rows[GREEDY].over_claim
        yield ours <= theirs * 2 / 3, f"{_name(cell)}: {1e3 * ours:.2f} against {1e3 * theirs:.2f} mbpb"


def _gain(table: Table) -> Iterator[Finding]:
    for cell, rows in _gainful(table):
        if cell.world == "pr44" and cell.slots in (8, 16):
            ours, theirs = rows[SHIPPED], rows[GREEDY].gain
            more, error = ours.against_greedy / theirs, ours.against_greedy_se / theirs
            yield more >= -0.03, f"{_name(cell)}: {more:+.1%} ± {error:.1%}"


def _rounds(table: Table) -> Iterator[Finding]:
    for cell, rows in _gainful(table):
        if cell.sigma == 0.001 and cell.slots in (8, 16) and ROUNDS in rows:
            more = rows[SHIPPED].gain / rows[ROUNDS].gain - 1
            yield more >= 0.05, f"{_name(cell)}: {more:+.1%}"


def _null(table: Table) -> Iterator[Finding]:
    for cell, rows in table.items():
        if cell.world == "null":
            covers, some = rows[SHIPPED].covers_zero, rows[SHIPPED].nights_with_promotion
            yield covers >= 0.93, f"{_name(cell)}: {covers:.1%} of nights ({some:.0%} have a promotion)"


def _gainful(table: Table) -> Iterator[tuple[Cell, Mapping[str, Row]]]:
    return ((cell, rows) for cell, rows in table.items() if cell.world != "null")


def _name(cell: Cell) -> str:
    return f"{cell.world} N={cell.slots} σ={cell.sigma:g}"
