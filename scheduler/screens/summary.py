"""The totals of a lab and where the slots' time went."""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.screens import numbers
from scheduler.screens.search import search_rows, used
from scheduler.screens.terminal import Columns, Renderable, pairs
from scheduler.views.slot_time import SlotTime
from scheduler.views.summary import Summary


def summary_screen(view: Summary) -> Iterator[Renderable]:
    yield pairs(
        [
            ("lab", f"{view.tag}   contract {view.contract}"),
            ("candidates", _candidates(view)),
            ("runs", _runs(view)),
            ("baseline", _baseline(view)),
            _gain(view),
            ("noise", _noise(view)),
            *search_rows(view.search, None),
            ("used", used(view.efficiency)),
        ]
    )
    if view.slot_time.runs:
        yield ""
        yield slot_table(view.slot_time)
        yield ""
        yield slot_words(view.slot_time)


def slot_table(time: SlotTime) -> Renderable:
    figures = ("runs", "busy", "in budgets", "utilisation", "gap median", "gap max")
    table = Columns("slot", *figures, right=figures, flexible="slot")
    for use in time.slots:
        table.add(
            use.slot,
            str(use.runs),
            numbers.seconds(use.busy_s),
            numbers.share(use.budget_share),
            numbers.share(use.utilisation),
            numbers.seconds(use.gap_median_s),
            numbers.seconds(use.gap_max_s),
        )
    return table


def slot_words(time: SlotTime) -> Renderable:
    """Wall time against what the slots could have done at best, in words."""
    slots = numbers.count(len(time.slots), "slot")
    over = time.wall_s / time.ideal_s - 1 if time.ideal_s else 0.0
    best = f"{numbers.seconds(time.ideal_s)}: the sum of the runs, {numbers.seconds(time.busy_s)}, over {slots}"
    rows = [
        (
            "wall time",
            f"{numbers.seconds(time.wall_s)} while the queue was run, {100 * over:.1f} % more than the least",
        ),
        ("least", best),
    ]
    if time.gap_median_s is not None:
        gaps = f"median {numbers.seconds(time.gap_median_s)}, longest {numbers.seconds(time.gap_max_s)}"
        rows.append(("gaps", f"{gaps} between two runs of one slot"))
    return pairs(rows)


def _candidates(view: Summary) -> str:
    parts = {
        "promoted": view.promoted,
        "merged into the baseline": view.in_baseline,
        "near-miss" if view.shelved == 1 else "near-misses": view.shelved,
        "discarded": view.discarded,
        "failed": view.failed,
        "cancelled": view.cancelled,
        "undecided": view.undecided,
    }
    said = ", ".join(f"{count} {word}" for word, count in parts.items() if count)
    merged = f"; {numbers.count(view.merged, 'union or port', 'unions or ports')} among them" if view.merged else ""
    return f"{view.candidates}" + (f": {said}" if said else "") + merged


def _runs(view: Summary) -> str:
    repeats = f", {numbers.count(view.repeat_runs, 'repeat')} among them" if view.repeat_runs else ""
    claim = f", {view.claim_runs} for a claim" if view.claim_runs else ""
    return f"{view.runs}: {view.scored_runs} scored, {view.failed_runs} without a score{repeats}{claim}"


def _baseline(view: Summary) -> str:
    row = view.baseline
    if row is None or not row.runs:
        return "not measured yet"
    places = numbers.decimals(view.noise_sd_bpb)
    score = numbers.bpb(row.val_bpb, row.val_bpb_se, places)
    return f"{row.candidate} {row.name}   {score} ({numbers.count(row.runs, 'run')})"


def _gain(view: Summary) -> tuple[str, str]:
    """The claim when there is one: it is the only total to quote."""
    if view.claim is not None:
        return "claim", view.claim.sentence + ("" if view.claim_is_current else "; the baseline has moved since")
    gain = view.gain
    if gain is None:
        return "gain", "none: nothing was promoted"
    places = numbers.decimals(view.noise_sd_bpb)
    total = numbers.effect(gain.diff_bpb, gain.se_bpb, places)
    change = f"{gain.first_val_bpb:.{places}f} → {gain.now_val_bpb:.{places}f}"
    runs = f"{gain.now_runs} + {gain.first_runs} runs"
    return "gain", f"{change}, {total} ({runs}; the winner was picked by these very runs, which flatters it)"


def _noise(view: Summary) -> str:
    if view.noise_sd_bpb is None:
        return numbers.UNKNOWN
    return f"sd {view.noise_sd_bpb:.5f} bpb ({numbers.count(view.noise_repeats, 'repeat')} and the contract's prior)"
