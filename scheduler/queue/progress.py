"""What a person sees while the queue runs: lasting lines, and below them the slots as they are now.

On a terminal a table that is redrawn in place; elsewhere a line now and then, so that a log is never silent for ten
seconds. Everything goes to stderr. Names and reasons come from candidates: they are cleaned here, once.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live as Redrawn
from rich.text import Text

from scheduler.domain.run import Run, Running
from scheduler.domain.slot import Progress, Slot
from scheduler.domain.text import clean, shorten
from scheduler.lab import Live, LiveSlot, Workspace
from scheduler.queue.diversion import diverted, say
from scheduler.queue.place import problem_of
from scheduler.screens.tables import slots_screen
from scheduler.screens.text import on_several_nodes, slot_text

QUIET_S = 8.0
SHOWN_SLOTS = 4  # on one line
LONGEST_LINE = 400


class Screen(Protocol):
    def say(self, text: str) -> None:
        """A lasting line."""

    def show(self, live: Live) -> None:
        """The slots as they are now."""


class PlainScreen:
    """For pipes and logs: the slots as one line whenever nothing was printed for a while."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._spoke_at = self._began_at = clock()

    def say(self, text: str) -> None:
        self._spoke_at = self._clock()
        self._write(tidy(text))

    def show(self, live: Live) -> None:
        if self._clock() - self._spoke_at >= QUIET_S:
            self.say(f"{self._clock() - self._began_at:6.0f} s  {slots_line(live)}")


class TerminalScreen:
    """For people: lines scroll above a table of slots."""

    def __init__(self, console: Console, redrawn: Redrawn) -> None:
        self._console, self._redrawn = console, redrawn

    def say(self, text: str) -> None:
        self._console.print(tidy(text), markup=False, highlight=False, soft_wrap=True)

    def show(self, live: Live) -> None:
        self._redrawn.update(slots_table(live), refresh=True)


@contextmanager
def open_screen(elsewhere: Path | None = None) -> Iterator[Screen]:
    """The screen that fits stderr. With `elsewhere` all others who write there or on stdout write to that file: Ray."""
    with ExitStack() as ends:
        stream = sys.stderr if elsewhere is None else ends.enter_context(diverted(elsewhere))
        console = Console(file=stream)
        if not console.is_terminal:
            yield PlainScreen(partial(say, stream))
            return
        redrawn = ends.enter_context(Redrawn(console=console, auto_refresh=False, transient=True))
        yield TerminalScreen(console, redrawn)


def is_slots_line(line: str) -> bool:
    """Whether a `PlainScreen` said it because nothing else was said for a while."""
    return re.match(r" *\d+ s  .*\d+ queued", line) is not None


@contextmanager
def heartbeat(screen: Screen, what: str) -> Iterator[None]:
    """Print that something slow is still going on, every few seconds while it is."""
    over, began_at = threading.Event(), time.monotonic()

    def beat() -> None:
        while not over.wait(QUIET_S):
            screen.say(f"still {what} ({time.monotonic() - began_at:.0f} s)")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def tidy(text: str) -> str:
    """One line that cannot move the cursor, of bearable length. Blanks are kept: they align."""
    return shorten(clean(text).replace("\n", " ").replace("\t", " ").rstrip(), LONGEST_LINE)


def describe_slots(
    space: Workspace, slots: Sequence[Slot], pool_name: str, progress: Mapping[tuple[str, int], Progress]
) -> tuple[LiveSlot, ...]:
    """One entry for every slot with its run, the unusable included. `progress` by run and attempt."""
    on = {run.state.slot_id: run for run in space.ledger.runs.running(space.tag) if isinstance(run.state, Running)}
    described = []
    for slot in slots:
        if slot.id in on:
            described.append(_busy_slot(space, slot, on[slot.id], progress))
        else:
            other = "" if slot.pool == pool_name else f"of another pool: {slot.pool}"
            described.append(LiveSlot(slot.id, problem_of(slot, space.lab) or other))
    return tuple(described)


def slots_line(live: Live) -> str:
    """All slots on one line, the busy ones first."""
    busy = [slot for slot in live.slots if slot.run]
    shown = [*busy, *(slot for slot in live.slots if not slot.run)][:SHOWN_SLOTS]
    with_node = on_several_nodes(live.slots)
    parts = [slot_text(slot, with_node=with_node).line() for slot in shown]
    if len(live.slots) > SHOWN_SLOTS:
        parts.append(f"{len(busy)} of {len(live.slots)} slots busy")
    return " · ".join([*parts, f"{live.queued} queued", *([live.note] if live.note else [])])


def slots_table(live: Live) -> Group:
    """One row for every slot, and what waits below them."""
    ending = ", finishing what runs; Ctrl-C stops it now" if live.stopping else ""
    note = f", {tidy(live.note)}" if live.note else ""
    return Group(*slots_screen(live.slots), Text(f"{live.queued} queued{note}{ending}"))


def _busy_slot(space: Workspace, slot: Slot, run: Run, progress: Mapping[tuple[str, int], Progress]) -> LiveSlot:
    candidate = space.ledger.candidates.get(run.candidate_id, space.tag)
    now = progress.get((run.id, run.state.attempt), Progress()) if isinstance(run.state, Running) else Progress()
    return LiveSlot(
        slot.id, slot.problem, run.id, candidate.id, candidate.name, run.kind.value,
        phase=now.phase, elapsed_s=now.elapsed_s, budget_s=now.budget_s, step=now.step, loss=now.loss,
    )  # fmt: skip
