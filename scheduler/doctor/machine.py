"""How much of this machine a lab would have now: load, stolen time, and the speed of a core on a work clock.

What others take from it moves scores: a search is best begun when it is quiet. GPUs: doctor.gpu.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from scheduler.doctor.checks import CheckResult, from_error, note, ok
from scheduler.domain.errors import ArschedError
from scheduler.domain.text import count
from scheduler.lab import ContractChoice
from scheduler.node.harness_client import ask_work_clock
from scheduler.ray.cluster import short_temporary_folder
from scheduler.ray.head import refuse_without_loopback

BUSY_LOAD = 0.5  # runnable threads per core, one minute's mean
MUCH_STEAL = 0.02  # of the cores' time
SLOW, FAST = 0.9, 1.1  # of the calibrated speed; within them a quiet core scatters
QUIETEN = "end what else runs here before a search: what others take moves its scores"


class Ticks(NamedTuple):
    """Clock ticks of all cores since boot."""

    stolen: float
    total: float


def read_ticks(path: Path = Path("/proc/stat")) -> Ticks | None:
    """None where the kernel does not say."""
    try:
        fields = [float(word) for word in path.read_text(encoding="ascii").splitlines()[0].split()[1:9]]
        return Ticks(fields[7], sum(fields))
    except (OSError, ValueError, IndexError):
        return None


def check_load(before: Ticks | None, now: Ticks | None, load: float, cores: int) -> CheckResult:
    """`before` and `now`: the time between them is what steal is a share of."""
    busy = load > BUSY_LOAD * cores
    said = f"load {load:.1f} on {count(cores, 'core')}"
    if before and now and now.total > before.total:
        steal = (now.stolen - before.stolen) / (now.total - before.total)
        said, busy = f"{said}, steal {100 * steal:.0f} %", busy or steal > MUCH_STEAL
    return note("machine", f"{said}: others use it", QUIETEN) if busy else ok("machine", said)


def check_machine(before: Ticks | None) -> CheckResult:
    return check_load(before, read_ticks(), os.getloadavg()[0], os.cpu_count() or 1)


def check_work_clock(choice: ContractChoice) -> Iterator[CheckResult]:
    """The calibration of this node and how fast a core is now; nothing for contracts on another clock."""
    if choice.contract.budget.clock != "work":
        return
    prepare = f"arsched prepare --contract {choice.typed}"
    try:
        found = ask_work_clock(choice.contract.to_json())
    except ArschedError as error:
        yield from_error("work clock", error)
        return
    if not found["calibration"]:  # the cache's check says so
        return
    speed, name = float(found["speed"]), f"calibration {found['calibration']}"
    now = f"this machine runs at {speed:.2f} of its calibrated speed now"
    again = f"when this machine is quiet: {prepare} --calibrate"
    if not found["quiet"]:
        yield note("work clock", f"{name}, measured on a busy machine; {now}", again)
    elif speed > FAST:
        yield note("work clock", f"{name}: {now}, so it was slower then", again)
    elif speed < SLOW:
        yield note("work clock", f"{name}: {now}: others use it", QUIETEN)
    else:
        yield ok("work clock", f"{name}; {now}")


def check_ray(environ: Mapping[str, str] = os.environ) -> Iterator[CheckResult]:
    """What the surroundings ask of a Ray that is started here."""
    try:
        refuse_without_loopback()
        folder = short_temporary_folder()
        yield ok("ray", f"started here, its files go to {folder}")
    except ArschedError as error:
        yield from_error("ray", error)
    if address := environ.get("RAY_ADDRESS"):
        yield note("ray", f"RAY_ADDRESS={address} is set and not used", "to run there: --address auto")
