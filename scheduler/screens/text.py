"""Values as people read them: numbers with their errors, seconds in words, and sentences that several screens share.

Unknown is "–", never NaN. A real minus sign, so that no shell or sheet reads an effect as an option. Needs no terminal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scheduler.domain import text
from scheduler.domain.run import MachineReadings
from scheduler.domain.text import count, one_line
from scheduler.lab import LiveSlot
from scheduler.queue.wait import Wait
from scheduler.views.candidates import Row
from scheduler.views.facts import NoiseParts, describe_noise
from scheduler.views.search import ProposerTally, SearchView
from scheduler.views.slots import Efficiency

UNKNOWN = "–"
NOT_RUN = "not over, go on with `arsched search`"  # a search that no process runs
QUIET_SD_BPB = 0.002  # below this noise a fourth decimal is not enough
BAR = 10  # cells
SHOWN_WAITS = 3
GPU_READINGS = {
    "sm_mhz": ("sm", "MHz"),
    "memory_mhz": ("memory", "MHz"),
    "power_w": ("", "W"),
    "temperature_c": ("", "°C"),
}  # name in a result -> words before the number, unit


def decimals(noise_sd_bpb: float | None) -> int:
    """Decimals that a bpb is worth under this noise."""
    return 5 if noise_sd_bpb is not None and noise_sd_bpb < QUIET_SD_BPB else 4


def bpb(value: float | None, se: float | None = None, places: int = 4) -> str:
    """`1.8440 ± 0.0034`; without error the value alone."""
    if value is None:
        return UNKNOWN
    return f"{value:.{places}f}" if se is None else f"{value:.{places}f} ± {se:.{places}f}"


def effect(diff: float | None, se: float | None, places: int = 4) -> str:
    """`−0.0630 ± 0.0072`, with its sign."""
    if diff is None or se is None:
        return UNKNOWN
    return f"{text.signed(diff, places)} ± {se:.{places}f}"


def probability(p: float | None) -> str:
    """Cut, never rounded up."""
    return UNKNOWN if p is None else text.probability(p)


def whole(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"


def seconds(value: float | None) -> str:
    """`3.2 s`, `4 min 10 s`, `2 h 5 min`."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value < 100:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def hours(value: float) -> str:
    """`0.25`, `6.4`, `120`: of an hour what is worth saying."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def share(value: float) -> str:
    return f"{100 * value:.1f} %"


def bar(part: float, width: int = BAR) -> str:
    """`██████····`; more than whole is whole."""
    filled = int(width * min(1.0, max(0.0, part)))
    return "█" * filled + "·" * (width - filled)


@dataclass(frozen=True, slots=True)
class SlotText:
    """One slot in words, "" for what is not known. `where` is the slot's name, without its node where it has one."""

    where: str
    run: str
    candidate: str
    phase: str
    bar: str
    time: str
    step: str
    loss: str
    problem: str

    def line(self) -> str:
        """`cpu0 r0011 c0009 wider train 8/20 s step 82 loss 3.123`"""
        if not self.run:
            return f"{self.where} {text.shorten(self.problem, 60) or 'free'}"
        learning = (f"step {self.step}" if self.step else "", f"loss {self.loss}" if self.loss else "")
        return " ".join(filter(None, (self.where, self.run, self.candidate, self.phase, self.time, *learning)))


def on_several_nodes(slots: Iterable[LiveSlot]) -> bool:
    """Whether the name of a slot needs its node's: there may be a gpu0 on each."""
    return len({slot.slot.rpartition("/")[0] for slot in slots}) > 1


def slot_text(slot: LiveSlot, *, with_node: bool = False) -> SlotText:
    """Names come from candidates: they are cleaned here."""
    elapsed_s, budget_s = slot.elapsed_s, slot.budget_s
    time = "" if elapsed_s is None else f"{elapsed_s:.0f}/{budget_s:.0f} s" if budget_s else f"{elapsed_s:.0f} s"
    return SlotText(
        where=slot.slot.rpartition("/")[2] if slot.slot.count("/") == 1 and not with_node else slot.slot,
        run=slot.run,
        candidate=f"{slot.candidate} {one_line(slot.name)}" if slot.run else "",
        phase=one_line(slot.phase),
        bar=bar((elapsed_s or 0.0) / budget_s) if budget_s else "",
        time=time,
        step="" if slot.step is None else str(slot.step),
        loss="" if slot.loss is None or not math.isfinite(slot.loss) else f"{slot.loss:.3f}",
        problem=one_line(slot.problem),
    )


def baseline_text(row: Row | None, noise_sd_bpb: float | None) -> str:
    """`c0003 depth-1   1.8440 ± 0.0034 (2 runs)`"""
    if row is None:
        return "none yet"
    score = f"{bpb(row.val_bpb, row.val_bpb_se, decimals(noise_sd_bpb))} ({count(row.runs, 'run')})"
    return f"{row.candidate} {row.name}   {score if row.runs else 'not measured yet'}"


def noise_text(sd_bpb: float | None, parts: NoiseParts | None, repeats: int) -> str:
    """`sd 0.00486 bpb (2 repeats and the contract's prior)`"""
    if sd_bpb is None:
        return UNKNOWN
    return f"{describe_noise(sd_bpb, parts)} ({count(repeats, 'repeat')} and the contract's prior)"


def machine_text(machine: MachineReadings) -> str:
    """`speed 0.97 (0.80 to 1.02), steal 0 %, load 2.3, sm 1755 MHz (1410 to 1980), 640 W`; "" where none was measured.

    The range only of what sets the pace: speed and SM clock.
    """
    speed = ""
    if machine.speed is not None:
        speed = f"speed {machine.speed:.2f}"
        if machine.speed_low is not None and machine.speed_high is not None:
            speed += f" ({machine.speed_low:.2f} to {machine.speed_high:.2f})"
    share = f" {100 * machine.throttled_share:.0f} % of the training" if machine.throttled_share else ""
    parts = (
        speed,
        "" if machine.steal is None else f"steal {100 * machine.steal:.0f} %",
        "" if machine.load is None else f"load {machine.load:.1f}",
        *(_gpu_reading(*reading) for reading in machine.gpu if math.isfinite(sum(reading[1:]))),
        "" if machine.energy_j is None else f"{machine.energy_j:,.0f} J",
        f"throttled{share}: {', '.join(map(one_line, machine.throttled))}" if machine.throttled else "",
    )
    return ", ".join(filter(None, parts))


def _gpu_reading(name: str, mean: float, low: float, high: float) -> str:
    """`sm 1755 MHz (1410 to 1980)`, `memory 2619 MHz`, `640 W`, `62 °C`; a name not known here as it is."""
    words, unit = GPU_READINGS.get(name, (one_line(name).replace("_", " "), ""))
    span = f" ({low:.0f} to {high:.0f})" if name == "sm_mhz" and low != high else ""
    return f"{words} {mean:.0f} {unit}".strip() + span


def totals(search: SearchView) -> Iterator[tuple[str, str, float, float | None]]:
    """What a search has spent: noun, amount in words, amount, limit (None: there is none)."""
    budget, spent = search.budget, search.spent
    ideas = budget.rounds * budget.ideas if budget.rounds is not None and budget.ideas is not None else None
    yield "hour", hours(spent.hours), spent.hours, budget.hours
    yield "run", str(spent.runs), spent.runs, budget.runs
    yield "idea", str(spent.ideas), spent.ideas, ideas


def spent_text(search: SearchView) -> str:
    """`3.20 of 8 hours, 61 of 80 runs, 40 ideas in round 5`"""
    parts = [_of(amount, noun, limit) for noun, amount, _, limit in totals(search)]
    parts[-1] += f" in round {search.round}" if search.round else ""
    if search.budget.target_bpb is not None and search.spent.val_bpb is not None:
        parts.append(f"baseline at {search.spent.val_bpb:.4f}, target {search.budget.target_bpb:g} bpb")
    return ", ".join(parts)


def _of(amount: str, noun: str, limit: float | None) -> str:
    """`3 runs`, `0.25 of 1 hour`: the last number says which form the noun has."""
    last = amount if limit is None else f"{limit:g}"
    return f"{amount}{'' if limit is None else f' of {last}'} {noun}{'' if last == '1' else 's'}"


def proposer_text(tally: ProposerTally) -> str:
    """`agent: 12 asked, 9 new, 1 known, 2 failed (2 × crashed), 3 promoted`"""
    opened = f", {tally.open} open" if tally.open else ""
    troubles = f" ({tally.troubles})" if tally.troubles else ""
    counts = f"{tally.asked} asked{opened}, {tally.queued} new, {tally.known} known, {tally.failed} failed{troubles}"
    return f"{tally.name}: {counts}, {tally.promoted} promoted"


def efficiency_text(figures: Efficiency) -> str:
    """`6.4 GPU-hours, 98.1 % busy; 9.8 runs per GPU-hour (at best 10.0), 2.1 GPU-hours per promotion`"""
    unit = f"{figures.unit}-hour"
    if figures.runs_per_hour is None or figures.best_runs_per_hour is None:
        return "nothing yet"
    per_gain = figures.hours_per_promotion
    gain = f"{hours(per_gain)} {unit}s per promotion" if per_gain is not None else "no promotion"
    busy = f"{hours(figures.offered_hours)} {unit}s, {share(figures.utilisation)} busy"
    best = f"(at best {figures.best_runs_per_hour:.1f})"
    return f"{busy}; {figures.runs_per_hour:.1f} runs per {unit} {best}, {gain}"


def waiting_line(now: Wait) -> str:
    """What is still missing, on one line."""
    missing = [one for one in now.awaited if not one.over]
    named = ", ".join(f"{one.subject} {text.shorten(one.name, 24)}" for one in missing[:SHOWN_WAITS])
    more = f" and {len(missing) - SHOWN_WAITS} more" if len(missing) > SHOWN_WAITS else ""
    return f"waiting for {named}{more}"


def wait_lines(ended: Wait) -> Iterator[str]:
    """One line each for what was waited for."""
    for one in ended.awaited:
        score = "" if one.val_bpb is None else f"  val_bpb {one.val_bpb:.4f}"
        pending = "" if one.over else "  (not over)"
        yield f"{one.subject}  {one.name}  {one.status}{score}{pending}"
