"""The speed that a work clock counts in: what a reading of harness.core_probe takes on this machine when it is quiet.

Covers: measuring it, refusing a busy machine, the file of a contract's cache for this machine (nodes may share a cache
folder), its name. Not covered: when it is measured (harness.prepare). Standard library only.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from harness.contract import Contract, describe_references, load_contract
from harness.files import cache_root, write_atomic

if TYPE_CHECKING:
    from harness.core_probe import Reading

FOLDER = "calibrations"  # below the cache root
MOST_SPREAD = 0.25  # (90th - 10th percentile) / median of the readings of a round on a quiet machine
MOST_SHARED = 0.05  # of a round, when another process had the core
MOST_APART = 0.10  # (slowest - fastest) / median of the rounds of a calibration
ROUNDS, _PAUSE_S = 5, 0.4  # of a calibration, which takes about 7 s: a busy second moves one of them
_READINGS, _BETWEEN_S = 13, 0.08  # of a round, which takes about 1.1 s
_PATIENCE_S = 30.0


class Readable(Protocol):
    """harness.core_probe.CoreProbe, or what a test puts in its place."""

    def read(self) -> Reading: ...

    def use_caches(self, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Calibration:
    """`reference_s`: CPU seconds of a reading. `host`, `cpu`, `cores`: the machine. `quiet`: it was then.

    Every machine's seconds are those of its own quiet core, so scores of several compare. Those from before a machine
    was measured anew do not: `again` counts how often that was.
    """

    reference_s: float
    host: str
    cpu: str
    cores: int
    quiet: bool
    again: int = 0

    @property
    def name(self) -> str:
        """Eight hex digits that differ where anything of it does."""
        return hashlib.sha256(json.dumps(dataclasses.astuple(self)).encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Round:
    """Readings of some seconds (CPU seconds each), and the share of the time when another process had the core."""

    readings_s: tuple[float, ...]
    shared: float

    @property
    def fast_s(self) -> float:
        """The 10th percentile: what a reading takes while no neighbour is in the way."""
        return statistics.quantiles(self.readings_s, n=10)[0]

    @property
    def spread(self) -> float:
        tenths = statistics.quantiles(self.readings_s, n=10)
        return (tenths[-1] - tenths[0]) / statistics.median(self.readings_s)

    @property
    def quiet(self) -> bool:
        return self.spread <= MOST_SPREAD and self.shared <= MOST_SHARED

    def __str__(self) -> str:
        return (
            f"readings differ by {self.spread:.0%} (at most {MOST_SPREAD:.0%}), "
            f"other processes or a CPU quota took {self.shared:.0%} of the core (at most {MOST_SHARED:.0%})"
        )


class NotQuiet(Exception):
    """There were no ROUNDS that were quiet and agreed; `rounds` are what was seen."""

    def __init__(self, rounds: Sequence[Round]) -> None:
        self.rounds = tuple(rounds)
        quiet, busy = [seen for seen in rounds if seen.quiet], [seen for seen in rounds if not seen.quiet]
        if len(quiet) < ROUNDS and busy:
            why = str(min(busy, key=lambda seen: seen.spread + seen.shared))
        else:
            why = explain_apart(quiet[-ROUNDS:])
        super().__init__(f"this machine is busy: {why}")


def measure_round(probe: Readable, clock: Callable[[], float] = time.monotonic) -> Round:
    """Read the probe for about 1.1 s, using the caches between the readings as a candidate would."""
    began, began_cpu = clock(), time.thread_time()
    readings = []
    for _ in range(_READINGS):
        probe.use_caches(_BETWEEN_S)
        readings.append(probe.read().seconds)
    wall_s = max(clock() - began, 1e-9)
    return Round(tuple(readings), max(0.0, 1 - (time.thread_time() - began_cpu) / wall_s))


def quiet_reference_s(
    measure: Callable[[], Round],
    show: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> float:
    """The reference of ROUNDS that are quiet and agree, _PAUSE_S apart: CPU seconds of a reading.

    Busy ones do not count. Raises NotQuiet when there were no such in half a minute.
    """
    rounds: list[Round] = []
    until = clock() + _PATIENCE_S
    while len(rounds) < ROUNDS or clock() < until:
        if rounds:
            pause(_PAUSE_S)
        rounds.append(measure())
        quiet = [seen for seen in rounds if seen.quiet][-ROUNDS:]
        if not rounds[-1].quiet:
            show(str(rounds[-1]))
        elif len(quiet) == ROUNDS:
            if apart(quiet) <= MOST_APART:
                return reference_s(quiet)
            show(explain_apart(quiet))
    raise NotQuiet(rounds)


def reference_s(rounds: Sequence[Round]) -> float:
    """CPU seconds of a reading in the fastest of the rounds, quiet or not.

    Neighbours come and go within seconds and only slow readings down: their mean says how many there were, the fast
    ones what the core can do.
    """
    return min(seen.fast_s for seen in rounds)


def apart(rounds: Sequence[Round]) -> float:
    """How far the slowest round is from the fastest, as a share of their median."""
    fast_s = [seen.fast_s for seen in rounds]
    return (max(fast_s) - min(fast_s)) / statistics.median(fast_s)


def explain_apart(rounds: Sequence[Round]) -> str:
    """Like "5 rounds differ by 24% (at most 10%): 0.770 to 0.980 ms per reading"."""
    low, high = (1e3 * edge(seen.fast_s for seen in rounds) for edge in (min, max))
    how = f"{len(rounds)} rounds differ by {apart(rounds):.0%} (at most {MOST_APART:.0%})"
    return f"{how}: {low:.3f} to {high:.3f} ms per reading"


def calibration_here(reference_s: float, *, quiet: bool, again: int = 0) -> Calibration:
    """A reference reading of this machine."""
    return Calibration(float(f"{reference_s:.4g}"), platform.node(), _cpu_name(), os.cpu_count() or 1, quiet, again)


def calibration_path(contract: Contract) -> Path:
    """Where the calibration of the contract's cache for this machine lies."""
    here = calibration_here(0.0, quiet=True)
    return cache_root() / FOLDER / f"{contract.name}-{contract.digest[:12]}-{here.name}.json"


def read_calibration(contract: Contract) -> Calibration | None:
    """None where there is no whole one of this machine."""
    try:
        fields = json.loads(calibration_path(contract).read_text(encoding="utf-8"))
        found = Calibration(**{field.name: fields[field.name] for field in dataclasses.fields(Calibration)})
        machine = dataclasses.replace(found, reference_s=0.0, quiet=True, again=0)
        is_of_here = machine == calibration_here(0.0, quiet=True)
        return found if 0 < found.reference_s < math.inf and is_of_here else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_calibration(contract: Contract, calibration: Calibration) -> None:
    """Write it whole. Raises OSError."""
    write_atomic(calibration_path(contract), json.dumps(dataclasses.asdict(calibration), indent=1) + "\n")


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.machine()


def main(argv: list[str] | None = None) -> int:
    """One line of JSON about a work clock here: its calibration (None without one) and the core's speed now.

    "speed": as a share of the calibrated one; "shared": how much of the time another process had the core.
    """
    from harness.core_probe import CoreProbe, speed_of

    parser = argparse.ArgumentParser(prog="python -m harness.calibration", description=main.__doc__)
    parser.add_argument("--contract", required=True, help=describe_references())
    found = read_calibration(load_contract(parser.parse_args(argv).contract))
    answer: dict[str, object] = {"calibration": None}
    if found is not None:
        now = measure_round(CoreProbe())
        speed = speed_of(statistics.fmean(now.readings_s), found.reference_s, now.shared)
        answer = {
            "calibration": found.name,
            "quiet": found.quiet,
            "speed": round(speed, 4),
            "shared": round(now.shared, 4),
        }
    print(json.dumps(answer))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
