"""What does the driver cost on a real Ray with many slots, and how soon is a killed one back? Logical slots, one head.

    python benchmarks/bench_ray_scale.py [--slots 8] [--runs 64] [--run-s 8]

The head counts `--slots` cores, whatever this machine has; the judge trains nothing and sleeps. Printed are the CPU
time of the driver per run, its share of a core while runs of that length come and go and while nothing ends; then the
driver is killed with all slots busy: the seconds until the next one follows all runs, and how many were run again.
Includes the driver's child and its git commands, not its start. Not measured: judges, actors, Ray's own processes.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout, nothing installed

from scheduler.lab import LabPaths, read_live
from tests.ray.ray_head import RayHead, descendants, is_running, start_head
from tests.scheduler import test_app_processes
from tests.scheduler.test_app_processes import Lab, watched_lab
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
MORE_CORES = "import os\nos.sched_getaffinity = lambda pid: set(range({slots}))\n"  # what a node's actors count
IDLE_S = 30.0
LONG_S = 900.0
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, its living descendants, and all that they waited for."""
    spent = 0
    for one in (pid, *descendants(pid)):
        with suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            spent += sum(int(field) for field in fields[11:15])
    return spent / TICKS


class Bench:
    """A lab on a head with many slots. `results` is how many the ledger has."""

    def __init__(self, lab: Lab, head: RayHead, slots: int) -> None:
        self.lab, self.head, self.slots = lab, head, slots
        self.gate = lab.folder / "gate"
        self.number = 0

    def results(self) -> int:
        with closing(sqlite3.connect(self.lab.ledger_path, timeout=60)) as ledger:
            return int(ledger.execute("SELECT count(*) FROM result").fetchone()[0])

    def submit(self, count: int, source: str) -> subprocess.Popen[str]:
        """Of that many candidates, each worse than the baseline: one run is enough."""
        first, self.number = self.number, self.number + count
        numbers = range(first, first + count)
        paths = [self.lab.write(f"idea-{n}", f"SCORE = {3.0 + n / 1e4}\n{source}\n") for n in numbers]
        return self.lab.start("submit", *paths, "--address", self.head.address)

    def follows_all(self, driver: subprocess.Popen[str]) -> bool:
        """Whether that driver says of every slot which run it has."""
        live = read_live(LabPaths(self.lab.root).live)
        if live is None or live.pid not in (driver.pid, *descendants(driver.pid)):
            return False
        return sum(bool(slot.run and slot.phase) for slot in live.slots) == self.slots

    def measure_steady(self, runs: int, run_s: float) -> str:
        before = self.results()
        driver = self.submit(runs, f"TAKES_S = {run_s}")
        wait_until(lambda: self.results() >= before + self.slots, "the first results", LONG_S)
        first, began, spent = self.results(), time.monotonic(), cpu_s(driver.pid)
        wait_until(lambda: self.results() >= before + runs - self.slots, "most results", LONG_S)
        done, lasted, spent = self.results() - first, time.monotonic() - began, cpu_s(driver.pid) - spent
        driver.communicate(timeout=LONG_S)
        return (
            f"short runs    {1000 * spent / done:.0f} ms of CPU time per run of {run_s:g} s, {spent / lasted:.1%} of a "
            f"core ({done} runs in {lasted:.0f} s)"
        )

    def measure_idle(self) -> tuple[str, subprocess.Popen[str]]:
        driver = self.submit(self.slots, f"GATE = {str(self.gate)!r}")
        wait_until(lambda: self.follows_all(driver), "all slots busy", LONG_S)
        began, spent = time.monotonic(), cpu_s(driver.pid)
        time.sleep(IDLE_S)
        share = (cpu_s(driver.pid) - spent) / (time.monotonic() - began)
        return f"nothing ends  {share:.1%} of a core, all slots busy", driver

    def measure_kill(self, driver: subprocess.Popen[str]) -> str:
        family = [driver.pid, *descendants(driver.pid)]
        driver.kill()
        driver.communicate()
        wait_until(lambda: not any(map(is_running, family)), "the driver's family to be dead")
        began = time.monotonic()
        driver = self.lab.start("submit", "--address", self.head.address)
        wait_until(lambda: driver.poll() is not None or self.follows_all(driver), "all runs followed again", LONG_S)
        if driver.poll() is not None:
            raise SystemExit(driver.communicate()[1])
        back_s = time.monotonic() - began
        self.gate.touch()
        driver.communicate(timeout=LONG_S)
        with closing(sqlite3.connect(self.lab.ledger_path)) as ledger:
            (again,) = ledger.execute("SELECT coalesce(sum(attempts - 1), 0) FROM run WHERE attempts > 1").fetchone()
            (left,) = ledger.execute("SELECT count(*) FROM run WHERE state IN ('queued', 'running')").fetchone()
        return (
            f"kill -9       {back_s:.1f} s until all runs are followed again; run again {again}, without result {left}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of the driver per run, on many slots of a real Ray.")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--run-s", type=float, default=8.0, help="seconds that a judge sleeps")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended
    test_app_processes.PROGRAM = [sys.executable, str(ROOT / "tests" / "ray" / "arsched_on_ray.py")]
    with tempfile.TemporaryDirectory(prefix="arsched-bench-") as name:
        folder = Path(name)
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(MORE_CORES.format(slots=asked.slots))
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.environ["PYTHONPATH"] = f"{folder / 'site'}{os.pathsep}{ROOT}"
        head = start_head(asked.slots, folder / "cache")
        try:
            for lab in watched_lab(folder):
                bench = Bench(lab, head, asked.slots)
                bench.submit(1, "").communicate(timeout=LONG_S)  # the first baseline, and all actors
                print(
                    f"{asked.slots} slots on Ray, load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores", flush=True
                )
                print(bench.measure_steady(asked.runs, asked.run_s), flush=True)
                said, driver = bench.measure_idle()
                print(said, bench.measure_kill(driver), sep="\n", flush=True)
        finally:
            head.node.end()


if __name__ == "__main__":
    main()
