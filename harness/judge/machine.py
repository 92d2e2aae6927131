"""What the machine was like while a run trained: stolen time, load, and a GPU's clocks, power, temperature, energy.

A GPU that was slowed down for a good part of it makes the score suspect; all else is shown and compared with other
runs'. The core's speed: harness.judge.clock.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.judge.clock import SpeedRange
from harness.judge.cpu_time import CoreTimes, read_core_times

_PROC = Path("/proc")
_GPU_INTERVAL_S = 1.0
_OWN_PROCESSES = 2  # the judge, which runs when it looks, and the candidate, which waits for it or computes
SLOWED_SHARE = 0.10  # of a training: so much at a lower clock costs more than runs differ by
_LEAST_LOOKS = 10  # a share of fewer says nothing
_SM, _MEMORY, _ON_DIE = 1, 2, 0  # NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU
# NVML's reasons for a clock below the highest. Left out: idle, and clocks that were set by hand.
_THROTTLING = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
    0x100: "display clock",
}
_SLOWING = 0x08 | 0x20 | 0x40 | 0x80  # forced by heat or the power supply; every GPU under load meets its power cap


class GpuWatch:
    """A GPU's state once a second, by NVML; where that answers nothing, nothing is shown."""

    def __init__(self, visible: str, nvml: Any = None) -> None:
        """`visible`: its UUID or its index in PCI order. `nvml`: the module pynvml, imported when it is None."""
        self.seen: dict[str, list[float]] = {}
        self.throttled: set[str] = set()
        self._looks = self._slowed = 0
        self._look_at = 0.0
        self._nvml: Any = None
        self._handle: Any = None
        with contextlib.suppress(Exception):  # no library, no driver, another GPU: a run does without
            self._nvml = nvml = nvml or importlib.import_module("pynvml")
            nvml.nvmlInit()
            by_uuid = visible.startswith("GPU-")
            find = nvml.nvmlDeviceGetHandleByUUID if by_uuid else nvml.nvmlDeviceGetHandleByIndex
            self._handle = find(visible if by_uuid else int(visible))
        self._events_before, self._energy_before = self._reasons(), self._energy_j()

    def look(self, now: float) -> None:
        if self._handle is None or now < self._look_at:
            return
        self._look_at = now + _GPU_INTERVAL_S
        nvml, handle = self._nvml, self._handle
        self._note("sm_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle, _SM))
        self._note("memory_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle, _MEMORY))
        self._note("power_w", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000)
        self._note("temperature_c", lambda: nvml.nvmlDeviceGetTemperature(handle, _ON_DIE))
        if (reasons := self._reasons()) is not None:
            self._looks += 1
            self._slowed += bool(reasons & _SLOWING)
            self.throttled |= set(_names(reasons))

    @property
    def slowed_share(self) -> float | None:
        """Share of the looks at which heat or power supply forced a lower clock; None where no driver said."""
        return self._slowed / self._looks if self._looks else None

    def slowdown(self) -> str:
        """A sentence where the GPU was slowed down for more than SLOWED_SHARE of the training, else ""."""
        share = self.slowed_share
        if share is None or self._looks < _LEAST_LOOKS or share <= SLOWED_SHARE:
            return ""
        reasons = ", ".join(sorted(self.throttled - {_THROTTLING[0x04], _THROTTLING[0x10], _THROTTLING[0x100]}))
        return f"the GPU was slowed down for {share:.0%} of the training: {reasons}"

    def shown(self) -> dict[str, Any]:
        """`energy_j`: joules since this watch began, judge and candidate; `clock_events`: NVML's reasons for lower
        clocks then and now. None for what the driver does not report."""
        before, now = self._energy_before, self._reasons()
        after = None if before is None else self._energy_j()
        spent = None if before is None or after is None or after < before else round(after - before, 1)
        events = {"before": self._events_before, "after": now}
        return {
            "throttled_share": None if self.slowed_share is None else round(self.slowed_share, 4),
            "energy_j": spent,
            "clock_events": {when: None if mask is None else _names(mask) for when, mask in events.items()},
        }

    def _reasons(self) -> int | None:
        """NVML's bit mask; older drivers have Throttle where newer ones have Event in the name."""
        with contextlib.suppress(Exception):
            newer = getattr(self._nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
            return int((newer or self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(self._handle))
        return None

    def _energy_j(self) -> float | None:
        """Since the driver was loaded; since Volta."""
        with contextlib.suppress(Exception):
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
        return None

    def _note(self, name: str, ask: Callable[[], float]) -> None:
        with contextlib.suppress(Exception):  # a driver that does not report one of them reports the others
            self.seen.setdefault(name, []).append(float(ask()))


class MachineWatch:
    """Looks at the machine a few times a second while a run trains. `cpus`: the run's cores; all when it is empty."""

    def __init__(self, cpus: Sequence[int], gpu: GpuWatch | None, proc: Path = _PROC) -> None:
        self._cpus, self._gpu, self._proc = cpus, gpu, proc
        self._first: CoreTimes | None = None
        self._last: CoreTimes | None = None
        self._loads: list[int] = []

    def look(self) -> None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            self._last = read_core_times(self._cpus, self._proc)
            self._first = self._first or self._last
        with contextlib.suppress(OSError, ValueError, IndexError):
            running = int((self._proc / "loadavg").read_text(encoding="ascii").split()[3].partition("/")[0])
            self._loads.append(max(0, running - _OWN_PROCESSES))
        if self._gpu is not None:
            self._gpu.look(time.monotonic())

    def look_if_never(self) -> None:
        """For a training that was over before the first look."""
        if not self._loads:
            self.look()

    def slowdown(self) -> str:
        """Why a score of this training is suspect; "" where nothing slowed the GPU down."""
        return "" if self._gpu is None else self._gpu.slowdown()

    def _steal(self) -> float | None:
        """None where the kernel does not say, or began to count anew because a core was switched off."""
        if self._first is None or self._last is None:
            return None
        stolen_s, total_s = self._last.stolen_s - self._first.stolen_s, self._last.total_s - self._first.total_s
        return round(stolen_s / total_s, 4) if total_s > 0 and 0 <= stolen_s <= total_s else None

    def shown(self, speed: SpeedRange | None, calibration: str | None) -> dict[str, Any]:
        """The result's "machine".

        `speed`: mean by CPU time, and 5th and 95th percentile of the readings' running means; None but for work clocks.
        `steal`: share of the wall time of the run's cores that the host gave to others. `load`: mean number of running
        and waiting threads of the machine, the run's own not counted. Of a GPU: [mean, lowest, highest].
        """
        gpu = None if self._gpu is None or not self._gpu.seen else self._gpu.seen
        return {
            "speed": speed and round(speed.mean, 4),
            "speed_low": speed and round(speed.low, 4),
            "speed_high": speed and round(speed.high, 4),
            "calibration": calibration,
            "steal": self._steal(),
            "load": round(sum(self._loads) / len(self._loads), 2) if self._loads else None,
            "gpu": gpu and {name: [round(sum(x) / len(x), 1), min(x), max(x)] for name, x in gpu.items() if x},
            "throttled": [] if self._gpu is None else sorted(self._gpu.throttled),
            **({} if self._gpu is None else self._gpu.shown()),
        }


def _names(reasons: int) -> list[str]:
    return [name for bit, name in _THROTTLING.items() if reasons & bit]
