"""The shipped promotion rule against greedy best-of-N, in simulation: false promotions, over-claim, true gain.

    python benchmarks/sim_promotion.py                the whole comparison, 200 nights a cell (about half an hour)
    python benchmarks/sim_promotion.py --quick        20 nights of a few cells (a minute)

Every decision is taken by scheduler.policy itself; effects, noise and durations are made up (benchmarks/simulation).
Nights 0 to 299 were used while the settings were chosen; reports begin at night 10000. Exits 1 when a promise is
broken by 200 nights or more.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.simulation.cells import GREEDY, ROUNDS, RULES, Cell, Row, compare
from benchmarks.simulation.promises import SHIPPED, Verdict, judge
from benchmarks.simulation.worlds import WORLDS

FIRST_REPORTED = 10_000
ENOUGH = 200
_HEAD = (
    "| rule | true gain | against greedy | false / promoted | over-claim | claim error | covered | repeats | unions "
    "(won) | runs |\n|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> int:
    asked = _parse()
    seeds = range(asked.first, asked.first + asked.nights)
    cells = [Cell(world, sigma, slots) for world in asked.worlds for slots in asked.slots for sigma in asked.sigma]
    table: dict[Cell, dict[str, Row]] = {}
    began = time.monotonic()
    with ProcessPoolExecutor(asked.jobs) as pool:
        for number, cell in enumerate(cells, 1):
            rules = [RULES[name] for name in asked.rules if cell.world != "null" or name != ROUNDS]
            table[cell] = {row.rule: row for row in compare(cell, rules, seeds, pool)}
            _print_cell(cell, list(table[cell].values()))
            print(f"{number} of {len(cells)} cells, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    verdicts = judge(table)
    _print_verdicts(verdicts, asked.nights)
    if asked.json:
        asked.json.write_text(_as_json(table, verdicts, asked.nights), encoding="utf-8")
    return int(asked.nights >= ENOUGH and not all(verdict.kept for verdict in verdicts))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=ENOUGH, help="nights in every cell (default %(default)s)")
    parser.add_argument("--first", type=int, default=FIRST_REPORTED, help="seed of the first night")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 8, 16])
    parser.add_argument("--sigma", nargs="+", type=float, default=[0.0005, 0.001, 0.002], help="noise of a run, bpb")
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=[SHIPPED, GREEDY, ROUNDS])
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--quick", action="store_true", help="20 nights, 8 slots, one noise")
    parser.add_argument("--json", type=Path, help="write every figure to this file as well")
    asked = parser.parse_args()
    if asked.quick:
        asked.nights, asked.slots, asked.sigma = 20, [8], [0.001]
    if not {SHIPPED, GREEDY} <= set(asked.rules):
        parser.error(f"--rules needs {SHIPPED} and {GREEDY}: everything is held against them")
    return asked


def _print_cell(cell: Cell, rows: Sequence[Row]) -> None:
    print(f"\n**{cell.world}, {cell.slots} slots, noise {cell.sigma:g}** (gains in mbpb, mean ± se)\n\n{_HEAD}")
    for row in rows:
        print(_line(row), flush=True)


def _line(row: Row) -> str:
    verified = row.covered if not row.rule.startswith("greedy") else None
    fields = (
        row.rule,
        f"{1e3 * row.gain:.2f} ± {1e3 * row.gain_se:.2f}",
        f"{1e3 * row.against_greedy:+.2f} ± {1e3 * row.against_greedy_se:.2f}",
        f"{row.false:.2f} / {row.promotions:.1f} ({row.false_share:.0%})",
        f"{1e3 * row.over_claim:.2f} ± {1e3 * row.over_claim_se:.2f}",
        "" if verified is None else f"{1e3 * row.claim_error:+.2f}",
        "" if verified is None else f"{verified:.1%}",
        f"{row.repeats / row.runs:.1%}",
        f"{row.unions:.1f} ({row.unions_promoted:.2f})",
        f"{row.runs:.0f}",
    )
    return f"| {' | '.join(fields)} |"


def _print_verdicts(verdicts: Sequence[Verdict], nights: int) -> None:
    print(f"\n{nights} nights in every cell\n")
    for verdict in verdicts:
        print(f"{'PASS' if verdict.kept else 'FAIL'}  {verdict.promise}")
        for line in verdict.said:
            print(f"      {line}")


def _as_json(table: dict[Cell, dict[str, Row]], verdicts: Sequence[Verdict], nights: int) -> str:
    cells = [
        {
            "world": cell.world,
            "slots": cell.slots,
            "sigma": cell.sigma,
            "rows": [row.to_json() for row in rows.values()],
        }
        for cell, rows in table.items()
    ]
    promises = [{"promise": verdict.promise, "kept": verdict.kept, "cells": verdict.said} for verdict in verdicts]
    return json.dumps({"nights": nights, "cells": cells, "promises": promises}, indent=1)


if __name__ == "__main__":
    sys.exit(main())
