"""The promotion rule on machines that drift, against the rule that knows no drift and greedy, in simulation.

    python benchmarks/sim_drift.py                    every kind of drift at 1, 3 and 10 σ, 60 searches a cell
    python benchmarks/sim_drift.py --quick            12 searches of three cells (a minute)
    python benchmarks/sim_drift.py --siblings         no drift: how long a promotion waits for those that ran with it

Kinds and sizes are benchmarks/simulation/drift.py's. Exits 1 when a promise is broken by 60 searches or more.
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

from benchmarks.simulation.comparison import BEFORE, GREEDY, SHIPPED, VARIANTS, Cell, Row, compare
from benchmarks.simulation.drift import KINDS, DriftSetting
from benchmarks.simulation.drift_promises import check_drift_promises
from benchmarks.simulation.worlds import WORLDS

FIRST_REPORTED = 10_000
ENOUGH = 60
WAITS = [name for name in VARIANTS if name.startswith("waits ")]
_HEAD = (
    "| rule | true gain | against | false / promoted | over-claim | effects covered | of promotions | claim covered | "
    "baseline runs | displaced | ports | idle |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> int:
    asked = _parse()
    seeds = range(asked.first, asked.first + asked.searches)
    cells = list(_cells(asked))
    table: dict[Cell, Mapping[str, Row]] = {}
    began = time.monotonic()
    with ProcessPoolExecutor(asked.jobs) as pool:
        for number, cell in enumerate(cells, 1):
            table[cell] = compare(cell, asked.rules, seeds, pool, against=asked.against)
            print(f"\n**{cell}** (gains in mbpb, mean ± se; against {asked.against!r})\n\n{_HEAD}")
            for name, row in table[cell].items():
                print(_line(name, row), flush=True)
            print(f"{number} of {len(cells)} cells, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    promises = check_drift_promises(table)
    print(f"\n{asked.searches} searches in every cell\n")
    for promise in promises:
        print(promise)
    if asked.json:
        figures = [{**asdict(cell), "rules": {name: row.mean for name, row in table[cell].items()}} for cell in table]
        asked.json.write_text(json.dumps({"searches": asked.searches, "cells": figures}, indent=1), encoding="utf-8")
    return int(asked.searches >= ENOUGH and not all(promise.kept for promise in promises))


def _cells(asked: argparse.Namespace) -> list[Cell]:
    drifts = [
        DriftSetting(kind, size, asked.shown)
        for kind in asked.kinds
        for size in (asked.sizes if kind != "none" else [0.0])
    ]
    return [
        Cell(world, sigma, slots, drift, asked.seed_sd, asked.jitter, asked.prior * sigma)
        for world in asked.worlds
        for slots in asked.slots
        for sigma in asked.sigma
        for drift in drifts
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=ENOUGH, help="searches in every cell (default %(default)s)")
    parser.add_argument("--first", type=int, default=FIRST_REPORTED, help="seed of the first search")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--sizes", nargs="+", type=float, default=[1.0, 3.0, 10.0], help="of the drift, in σ")
    parser.add_argument("--shown", type=float, default=0.0, help="share of the drift that speed readings show")
    parser.add_argument("--seed-sd", type=float, default=0.0, help="what a seed adds to all scores alike, in σ")
    parser.add_argument("--jitter", type=float, default=0.0, help="sd of a plain run's length, as a share of it")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=["pr44"])
    parser.add_argument("--slots", nargs="+", type=int, default=[8])
    parser.add_argument("--sigma", nargs="+", type=float, default=[0.001], help="noise of a run, bpb")
    parser.add_argument("--prior", type=float, default=1.0, help="the noise that the contract states, as a share of it")
    parser.add_argument("--rules", nargs="+", choices=list(VARIANTS), default=[SHIPPED, BEFORE, GREEDY])
    parser.add_argument("--against", choices=list(VARIANTS), default=BEFORE)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--quick", action="store_true", help="12 searches of three cells")
    parser.add_argument("--siblings", action="store_true", help="waiting of 0 to 0.5 run lengths, with no drift")
    parser.add_argument("--json", type=Path, help="write every figure to this file as well")
    asked = parser.parse_args()
    if asked.quick:
        asked.searches, asked.kinds, asked.sizes = 12, ["none", "walk", "slot"], [3.0]
    if asked.siblings:
        asked.kinds, asked.rules, asked.against, asked.jitter = ["none"], WAITS, WAITS[0], asked.jitter or 0.02
    if asked.against not in asked.rules:
        parser.error(f"--rules needs {asked.against!r}: everything is held against it")
    return asked


def _line(name: str, row: Row) -> str:
    fields = (
        name,
        f"{1e3 * row['gain']:.2f} ± {1e3 * row.error['gain']:.2f}",
        f"{1e3 * row['against']:+.2f} ± {1e3 * row.error['against']:.2f}",
        f"{row['false']:.2f} / {row['promotions']:.1f} ({row.false_share:.0%})",
        f"{1e3 * row['over_claim']:+.2f} ± {1e3 * row.error['over_claim']:.2f}",
        f"{row.share('judged_covered', 'judged'):.1%}",
        f"{row.share('won_covered', 'promotions'):.0%}",
        f"{row['covered']:.1%}" if not name.startswith("greedy") else "",
        f"{row.share('baselines', 'runs'):.1%}",
        f"{row['displaced']:.2f}",
        f"{row['ports']:.2f}",
        f"{row['idle']:.2%}",
    )
    return f"| {' | '.join(fields)} |"


if __name__ == "__main__":
    sys.exit(main())
