"""The shipped promotion rule against greedy best-of-N, in simulation: false promotions, over-claim, true gain.

    python benchmarks/sim_promotion.py                the whole comparison, 200 searches a cell (about half an hour)
    python benchmarks/sim_promotion.py --quick        20 searches of a few cells (a minute)

Every decision is taken by scheduler.policy itself; effects, noise and durations are made up (benchmarks/simulation).
Searches 0 to 299 were used while the settings were chosen; reports begin at search 10000. Exits 1 when a promise is
broken by 200 searches or more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices in several processes: threads only wait
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.simulation.comparison import GREEDY, ROUNDS, SHIPPED, VARIANTS, Cell, Row, check_promises, compare
from benchmarks.simulation.worlds import WORLDS

FIRST_REPORTED = 10_000
ENOUGH = 200
_HEAD = (
    "| rule | true gain | against greedy | false / promoted | over-claim | claim error | covered | repeats | unions "
    "(won) | runs |\n|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> int:
    asked = _parse()
    seeds = range(asked.first, asked.first + asked.searches)
    cells = [Cell(world, sigma, slots) for world in asked.worlds for slots in asked.slots for sigma in asked.sigma]
    table: dict[Cell, Mapping[str, Row]] = {}
    began = time.monotonic()
    with ProcessPoolExecutor(asked.jobs) as pool:
        for number, cell in enumerate(cells, 1):
            variants = [name for name in asked.rules if cell.world != "null" or name != ROUNDS]
            table[cell] = compare(cell, variants, seeds, pool)
            print(f"\n**{cell.world}, {cell.slots} slots, noise {cell.sigma:g}** (gains in mbpb, mean ± se)\n\n{_HEAD}")
            for name, row in table[cell].items():
                print(_line(name, row), flush=True)
            print(f"{number} of {len(cells)} cells, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    promises = check_promises(table)
    print(f"\n{asked.searches} searches in every cell\n")
    for promise in promises:
        print(promise)
    if asked.json:
        figures = {
            "searches": asked.searches,
            "cells": [{**asdict(cell), "rows": _as_json(rows)} for cell, rows in table.items()],
            "promises": [{"promise": one.text, "kept": one.kept, "cells": one.cells} for one in promises],
        }
        asked.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return int(asked.searches >= ENOUGH and not all(promise.kept for promise in promises))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=ENOUGH, help="searches in every cell (default %(default)s)")
    parser.add_argument("--first", type=int, default=FIRST_REPORTED, help="seed of the first search")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 8, 16])
    parser.add_argument("--sigma", nargs="+", type=float, default=[0.0005, 0.001, 0.002], help="noise of a run, bpb")
    parser.add_argument("--rules", nargs="+", choices=list(VARIANTS), default=[SHIPPED, GREEDY, ROUNDS])
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--quick", action="store_true", help="20 searches, 8 slots, one noise")
    parser.add_argument("--json", type=Path, help="write every figure to this file as well")
    asked = parser.parse_args()
    if asked.quick:
        asked.searches, asked.slots, asked.sigma = 20, [8], [0.001]
    if not {SHIPPED, GREEDY} <= set(asked.rules):
        parser.error(f"--rules needs {SHIPPED} and {GREEDY}: everything is held against them")
    return asked


def _line(name: str, row: Row) -> str:
    claims = not name.startswith("greedy")
    fields = (
        name,
        f"{1e3 * row['gain']:.2f} ± {1e3 * row.error['gain']:.2f}",
        f"{1e3 * row['against']:+.2f} ± {1e3 * row.error['against']:.2f}",
        f"{row['false']:.2f} / {row['promotions']:.1f} ({row.false_share:.0%})",
        f"{1e3 * row['over_claim']:.2f} ± {1e3 * row.error['over_claim']:.2f}",
        f"{1e3 * row['claim_error']:+.2f}" if claims else "",
        f"{row['covered']:.1%}" if claims else "",
        f"{row['repeats'] / row['runs']:.1%}",
        f"{row['unions']:.1f} ({row['unions_promoted']:.2f})",
        f"{row['runs']:.0f}",
    )
    return f"| {' | '.join(fields)} |"


def _as_json(rows: Mapping[str, Row]) -> list[dict[str, object]]:
    return [
        {"rule": name, **row.mean, "false_share": row.false_share, **{f"{k}_se": v for k, v in row.error.items()}}
        for name, row in rows.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
