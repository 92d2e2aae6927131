"""Screens made of tables and rows of a name and a sentence: leaderboard, status, totals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from scheduler.domain.decision import Claim
from scheduler.domain.slot import DIRTY
from scheduler.domain.text import count, shorten
from scheduler.lab import LiveSlot
from scheduler.policy.explain import describe_undecided
from scheduler.screens import text
from scheduler.screens.terminal import Columns, Renderable, indented, pairs, state
from scheduler.views.candidates import Leaderboard, Row
from scheduler.views.facts import describe_noise
from scheduler.views.report import Summary
from scheduler.views.search import SearchView, claim_sentence
from scheduler.views.slots import SlotTime
from scheduler.views.status import Status

SHOWN_QUEUE = 10  # runs
SHOWN_NAME = 28  # characters
LEGEND = (
    "effect ± error on the baseline it was made from (negative is better), P that it is truly better. "
    "Decided against the baseline of its time: arsched explain ID"
)
WEIGHED = (
    "An effect weighs runs near in time, on one slot or with one seed more: it is not the plain difference "
    "of the means."
)


def leaderboard_screen(board: Leaderboard, hidden: int = 0) -> Iterator[Renderable]:
    """`hidden`: how many candidates more there are."""
    sd_bpb = board.noise_sd_bpb
    noise = f"noise {describe_noise(sd_bpb, board.noise_parts)}" if sd_bpb is not None else "noise unknown"
    yield f"lab {board.tag}   contract {board.contract}   {noise} ({count(board.noise_repeats, 'repeat')})"
    yield from _pools(board)
    yield ""
    if not board.candidates:
        yield "no candidate yet"
        return
    places = text.decimals(board.noise_sd_bpb)
    table = Columns(
        "#", "id", "name", "val_bpb", "n", "effect on its base", "P", "status",
        right=("#", "val_bpb", "n", "effect on its base", "P"), flexible="name",
        drop=("n", "P", "#", "status", "name", "val_bpb"),
    )  # fmt: skip
    for row in board.candidates:
        table.add(*_candidate_cells(row, places))
    yield table
    if hidden:
        yield f"and {hidden} more: --limit 0 shows all"
    yield ""
    yield LEGEND
    if board.noise_parts is not None:
        yield WEIGHED


def _pools(board: Leaderboard) -> Iterator[Renderable]:
    if len(board.pools) < 2:
        return
    yield Text(f"scores of {len(board.pools)} pools of slots, which do not compare with each other:", "yellow")
    for one in board.pools:
        what = f"{count(one.runs, 'run')} of {count(one.candidates, 'candidate')}"
        yield indented(f"{'shown' if one.compared else 'left out'}: {what} on {one.pool}")


def _candidate_cells(row: Row, places: int) -> tuple[str | Text, ...]:
    return (
        "" if row.rank is None else str(row.rank),
        row.candidate,
        row.name,
        text.bpb(row.val_bpb, row.val_bpb_se, places),
        str(row.runs or text.UNKNOWN),
        text.effect(row.effect_bpb, row.effect_se_bpb, places) if row.base else "",
        text.probability(row.p_better) if row.base else "",
        state(f"{'▶' if row.is_baseline else ''}{row.detail}{'?' if row.suspect_runs else ''}", row.status),
    )


def status_screen(status: Status) -> Iterator[Renderable]:
    missing = "" if status.baseline else f": arsched init --tag {status.tag}"
    yield pairs(
        (
            ("lab", f"{status.tag}   contract {status.contract}   branch {status.branch}"),
            ("baseline", text.baseline_text(status.baseline, status.noise_sd_bpb) + missing),
            ("noise", text.noise_text(status.noise_sd_bpb, status.noise_parts, status.noise_repeats)),
            *_undecided(status.undecided_below_bpb),
            ("queue", _queue(status)),
            ("running it", _runner(status)),
            *search_rows(status.search, status.claim, run=status.runner is not None),
            *_ideas(status),
            ("used", text.efficiency_text(status.efficiency)),
        )
    )
    if status.slots:
        yield ""
        yield from slots_screen(status.slots)
    if status.queued:
        yield ""
        table = Columns("waits", "kind", "candidate", "why", flexible=("why", "candidate"), drop=("kind",))
        for row in status.queued[:SHOWN_QUEUE]:
            table.add(row.run, row.kind, shorten(f"{row.candidate} {row.name}", SHOWN_NAME), row.why)
        yield table
        if len(status.queued) > SHOWN_QUEUE:
            yield f"and {len(status.queued) - SHOWN_QUEUE} more"
    if status.recent_decisions:
        yield ""
        yield Text("last decisions", style="bold")
        yield from (indented(sentence) for sentence in status.recent_decisions)


def slots_screen(slots: Sequence[LiveSlot]) -> Iterator[Renderable]:
    """One row for every slot, and below them what is wrong with which."""
    table = Columns("slot", "run", "candidate", "phase", "progress", "step", "loss", right=("step", "loss"),
                    flexible="candidate", drop=("step", "loss", "phase", "progress"))  # fmt: skip
    for slot in slots:
        said = text.slot_text(slot)
        word = "dirty" if said.problem.startswith(DIRTY) else "broken"
        free = Text(word, "red") if said.problem else Text("free", "dim")
        progress = f"{said.bar} {said.time}".strip()
        table.add(slot.slot, said.run, said.candidate or free, said.phase, progress, said.step, said.loss)
    yield table
    yield from (indented(f"{slot.slot}: {text.slot_text(slot).problem}") for slot in slots if slot.problem)


def search_rows(search: SearchView | None, claim: Claim | None, *, run: bool) -> Iterator[tuple[str, str]]:
    """Nothing for a lab that was never searched. `run`: a process runs the queue."""
    if search is not None:
        not_run = "not over" if search.paused else text.NOT_RUN
        state = search.state if run or search.state == "ended" else not_run
        reason = f": {search.reason}" if search.reason else ""
        paused = ", paused" if search.paused and search.state != "ended" else ""
        yield "search", f"{search.number}, {state}{paused}{reason}"
        yield "spent", text.spent_text(search)
        for tally in search.proposers:
            yield "proposer", text.proposer_text(tally)
    if claim is not None:
        yield "claim", claim_sentence(claim)


def _queue(status: Status) -> str:
    running = "running" if status.runner or not status.running_runs else "unwatched"
    counts = [f"{status.queued_runs} queued", f"{status.running_runs} {running}", f"{status.finished_runs} finished"]
    if status.cancelled_runs:
        counts.append(f"{status.cancelled_runs} cancelled")
    return f"{', '.join(counts)}; {count(status.undecided_candidates, 'candidate')} undecided"


def _runner(status: Status) -> str:
    if status.runner is not None:
        stopping = ", stopping: it places nothing new" if status.runner.stopping else ""
        doing = status.note if status.note and not status.slots else f"on {count(len(status.slots), 'slot')}"
        said = f"yes, process {status.runner.pid} {doing}{stopping}"
    elif status.queued_runs or status.running_runs or status.undecided_candidates:
        unfinished = status.search is not None and status.search.state != "ended"
        verb = "search" if unfinished else "submit"
        said = f"no: no process runs the queue; start it with `arsched {verb}`"
    else:
        said = "no, and nothing waits"
    return said + ("; paused: nothing new begins before `arsched resume`" if status.paused else "")


def _undecided(below_bpb: float | None) -> list[tuple[str, str]]:
    return [] if below_bpb is None else [("", describe_undecided(below_bpb))]


def _ideas(status: Status) -> Iterator[tuple[str, str]]:
    if status.ideas:
        shown = ", ".join(f"{one.proposer} {one.id} ({text.seconds(one.age_s)})" for one in status.ideas)
        yield "ideas", f"{len(status.ideas)} being written: {shown}"


def summary_screen(view: Summary) -> Iterator[Renderable]:
    yield pairs(
        [
            ("lab", f"{view.tag}   contract {view.contract}"),
            ("candidates", _candidates(view)),
            ("runs", _runs(view)),
            ("baseline", text.baseline_text(view.baseline, view.noise_sd_bpb)),
            _gain(view),
            ("noise", text.noise_text(view.noise_sd_bpb, view.noise_parts, view.noise_repeats)),
            *_undecided(view.undecided_below_bpb),
            *search_rows(view.search, None, run=True),
            ("used", text.efficiency_text(view.efficiency)),
        ]
    )
    if view.slot_time.runs:
        yield ""
        yield _slot_table(view.slot_time)
        yield ""
        yield pairs(_slot_rows(view.slot_time))


def _slot_table(time: SlotTime) -> Renderable:
    figures = ("runs", "busy", "in budgets", "utilisation", "gap median", "gap max")
    table = Columns("slot", *figures, right=figures, drop=("in budgets", "gap median", "gap max", "busy"))
    for use in time.slots:
        table.add(
            use.slot,
            str(use.runs),
            text.seconds(use.busy_s),
            text.share(use.budget_share),
            text.share(use.utilisation),
            text.seconds(use.gap_median_s),
            text.seconds(use.gap_max_s),
        )
    return table


def _slot_rows(time: SlotTime) -> Iterator[tuple[str, str]]:
    """Wall time against what the slots could have done at best."""
    over = time.wall_s / time.ideal_s - 1 if time.ideal_s else 0.0
    yield "wall time", f"{text.seconds(time.wall_s)} while the queue was run, {100 * over:.1f} % more than the least"
    slots = count(len(time.slots), "slot")
    yield "least", f"{text.seconds(time.ideal_s)}: the sum of the runs, {text.seconds(time.busy_s)}, over {slots}"
    if time.gap_median_s is not None:
        gaps = f"median {text.seconds(time.gap_median_s)}, longest {text.seconds(time.gap_max_s)}"
        yield "gaps", f"{gaps} between two runs of one slot"


def _candidates(view: Summary) -> str:
    parts = {
        "promoted": view.promoted,
        "merged into the baseline": view.in_baseline,
        "near-miss" if view.shelved == 1 else "near-misses": view.shelved,
        "shelved with a lower P": view.shelved_lower,
        "discarded": view.discarded,
        "failed": view.failed,
        "cancelled": view.cancelled,
        "undecided": view.undecided,
    }
    said = ", ".join(f"{count} {word}" for word, count in parts.items() if count)
    merged = f"; {count(view.merged, 'union or port', 'unions or ports')} among them" if view.merged else ""
    return f"{view.candidates}" + (f": {said}" if said else "") + merged


def _runs(view: Summary) -> str:
    repeats = f", {count(view.repeat_runs, 'repeat')} among them" if view.repeat_runs else ""
    claim = f", {view.claim_runs} for a claim" if view.claim_runs else ""
    return f"{view.runs}: {view.scored_runs} scored, {view.failed_runs} without a score{repeats}{claim}"


def _gain(view: Summary) -> tuple[str, str]:
    """The claim when there is one: it is the only total to quote."""
    if view.claim is not None:
        moved = "" if view.claim_is_current else "; the baseline has moved since"
        return "claim", claim_sentence(view.claim) + moved
    gain = view.gain
    if gain is None:
        return "gain", "none: nothing was promoted"
    places = text.decimals(view.noise_sd_bpb)
    total = text.effect(gain.diff_bpb, gain.se_bpb, places)
    change = f"{gain.first_val_bpb:.{places}f} → {gain.now_val_bpb:.{places}f}"
    runs = f"{gain.now_runs} + {gain.first_runs} runs"
    return "gain", f"{change}, {total} ({runs}; the winner was picked by these very runs, which flatters it)"
