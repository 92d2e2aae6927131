"""The status of a lab on one screen."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from scheduler.screens import numbers
from scheduler.screens.search import search_rows, used
from scheduler.screens.terminal import Columns, Renderable, indented, pairs
from scheduler.views.status import SlotRow, Status

SHOWN_QUEUE = 10  # runs
SHOWN_NAME = 28  # characters


def status_screen(status: Status) -> Iterator[Renderable]:
    yield pairs(
        (
            ("lab", f"{status.tag}   contract {status.contract}   branch {status.branch}"),
            ("baseline", _baseline(status)),
            ("noise", _noise(status)),
            ("queue", _queue(status)),
            ("running it", _runner(status)),
            *search_rows(status.search, status.claim),
            *_ideas(status),
            ("used", used(status.efficiency)),
        )
    )
    if status.slots:
        yield ""
        yield _slots(status)
        yield from (indented(f"{row.slot}: {row.problem}") for row in status.slots if row.problem)
    if status.queued:
        yield ""
        yield from _waiting(status)
    if status.recent_decisions:
        yield ""
        yield Text("last decisions", style="bold")
        yield from (indented(sentence) for sentence in status.recent_decisions)


def _baseline(status: Status) -> str:
    row = status.baseline
    if row is None:
        return f"none yet: arsched init --tag {status.tag}"
    places = numbers.decimals(status.noise_sd_bpb)
    runs = f"({numbers.count(row.runs, 'run')})" if row.runs else "not measured yet"
    score = f"{numbers.bpb(row.val_bpb, row.val_bpb_se, places)} " if row.runs else ""
    return f"{row.candidate} {row.name}   {score}{runs}"


def _noise(status: Status) -> str:
    if status.noise_sd_bpb is None:
        return numbers.UNKNOWN
    repeats = numbers.count(status.noise_repeats, "repeat")
    return f"sd {status.noise_sd_bpb:.5f} bpb ({repeats} and the contract's prior)"


def _queue(status: Status) -> str:
    counts = [f"{status.queued_runs} queued", f"{status.running_runs} running", f"{status.finished_runs} finished"]
    if status.cancelled_runs:
        counts.append(f"{status.cancelled_runs} cancelled")
    return f"{', '.join(counts)}; {numbers.count(status.undecided_candidates, 'candidate')} undecided"


def _runner(status: Status) -> str:
    paused = "; paused: nothing new begins before `arsched resume`" if status.paused else ""
    return _who(status) + paused


def _ideas(status: Status) -> Iterator[tuple[str, str]]:
    if status.ideas:
        shown = ", ".join(f"{one.proposer} {one.id} ({numbers.seconds(one.age_s)})" for one in status.ideas)
        yield "ideas", f"{len(status.ideas)} being written: {shown}"


def _who(status: Status) -> str:
    if status.runner is not None:
        stopping = ", stopping: it places nothing new" if status.runner.stopping else ""
        return f"yes, process {status.runner.pid} on {numbers.count(len(status.slots), 'slot')}{stopping}"
    if status.queued_runs or status.running_runs or status.undecided_candidates:
        return "no: nobody runs the queue; start it with `arsched submit`"
    return "no, and nothing waits"


def _slots(status: Status) -> Renderable:
    table = Columns("slot", "run", "candidate", "phase", "progress", "step", "loss", right=("step", "loss"),
                    flexible="candidate")  # fmt: skip
    for row in status.slots:
        table.add(*_slot_cells(row))
    return table


def _slot_cells(row: SlotRow) -> tuple[str | Text, ...]:
    if not row.run:
        return (row.slot, "", Text("broken", "red") if row.problem else Text("free", "dim"), "", "", "", "")
    return (
        row.slot,
        row.run,
        f"{row.candidate} {row.name}",
        row.phase,
        _progress(row),
        "" if row.step is None else str(row.step),
        "" if row.loss is None else f"{row.loss:.3f}",
    )


def _progress(row: SlotRow) -> str:
    if row.elapsed_s is None:
        return ""
    if not row.budget_s:
        return f"{row.elapsed_s:.0f} s"
    filled = min(10, int(10 * row.elapsed_s / row.budget_s))
    return f"{'█' * filled}{'·' * (10 - filled)} {row.elapsed_s:.0f}/{row.budget_s:.0f} s"


def _waiting(status: Status) -> Iterator[Renderable]:
    table = Columns("waits", "kind", "candidate", "why", flexible="why")
    for row in status.queued[:SHOWN_QUEUE]:
        table.add(row.run, row.kind, numbers.cut(f"{row.candidate} {row.name}", SHOWN_NAME), row.why)
    yield table
    if len(status.queued) > SHOWN_QUEUE:
        yield f"and {len(status.queued) - SHOWN_QUEUE} more"
