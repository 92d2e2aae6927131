"""What does the loop cost with hundreds of slots? Driver time per run on logical slots in memory, ledger and git real.

    python benchmarks/bench_scale.py [--slots 256] [--runs 1024] [--run-s 326]

Runs take `--run-s` seconds of a virtual clock and no time of this machine, so all that is measured is the driver's own
CPU time: rounds of the loop, decisions, the ledger's commits (which do not wait for the disk). The share of a core is
that time over what the runs would take on so many slots. Not measured: Ray, actors, judges (bench_overhead.py).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout, nothing installed

from scheduler.queue.runner import run_queue
from tests.scheduler.lab_kit import PlayedLab, as_the_source_says
from tests.scheduler.memory_pool import Finishes, Outcome


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of the driver per run, on slots in memory.")
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--runs", type=int, default=1024, help="candidates, each with one run at least")
    parser.add_argument("--run-s", type=float, default=326.0, help="virtual seconds that a run takes")
    parser.add_argument("--round-s", type=float, default=0.1, help="virtual seconds between two rounds of the loop")
    asked = parser.parse_args()

    def outcome(order: object) -> Outcome:
        found = as_the_source_says(order)  # type: ignore[arg-type]
        return replace(found, after_s=asked.run_s) if isinstance(found, Finishes) else found

    with tempfile.TemporaryDirectory(prefix="arsched-bench-") as folder:
        played = PlayedLab(Path(folder), asked.slots, outcome)
        played.run()  # the first baseline
        before = len(played.finished())
        for number in range(asked.runs):
            played.submit(f"idea-{number}", f"SCORE = {2.0 + number / 1e4}\n")
        means = played.means
        means = replace(means, intervals=replace(means.intervals, round_s=asked.round_s, show_s=1.0))
        began, cpu, rounds = played.clock(), time.process_time(), 0

        def count_round() -> None:
            nonlocal rounds
            rounds += 1

        played.each_round = count_round
        run_queue(played.space, played.screen, means, lambda: False)
        spent, runs = time.process_time() - cpu, len(played.finished()) - before
        lasted = played.clock() - began
    print(f"{asked.slots} slots in memory, {runs} runs of {asked.run_s:g} s, {rounds} rounds of the loop")
    print(f"driver        {1000 * spent / runs:.1f} ms of CPU time per run, {1000 * spent / rounds:.2f} ms per round")
    print(f"share         {spent / lasted:.1%} of a core")


if __name__ == "__main__":
    main()
