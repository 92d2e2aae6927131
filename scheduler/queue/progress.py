"""What a person sees while the queue runs: lines that stay, and below them the slots as they are now.

On a terminal a table that is redrawn in place; elsewhere a line now and then, so that a log is never silent for ten
seconds. Everything goes to stderr. Names and reasons come from candidates: they are cleaned here, once.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live as Redrawn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scheduler.domain.text import clean
from scheduler.live import Live, LiveSlot

QUIET_S = 8.0
SHOWN_SLOTS = 4  # on one line
LONGEST_LINE = 400


class Screen(Protocol):
    def say(self, text: str) -> None:
        """A line that stays."""

    def show(self, live: Live) -> None:
        """The slots as they are now."""


class PlainScreen:
    """For pipes and logs: the slots as one line whenever nothing was said for a while."""

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
def open_screen() -> Iterator[Screen]:
    """The screen that fits stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainScreen(lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201
        return
    with Redrawn(console=console, auto_refresh=False, transient=True) as redrawn:
        yield TerminalScreen(console, redrawn)


@contextmanager
def heartbeat(screen: Screen, what: str) -> Iterator[None]:
    """Say that something slow is still going on, every few seconds while it is."""
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
    """One line that cannot move the cursor, of bearable length. Blanks stay: they align."""
    line = clean(text).replace("\n", " ").replace("\t", " ").rstrip()
    return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…"


def slots_line(live: Live) -> str:
    """All slots on one line, the busy ones first."""
    busy = [slot for slot in live.slots if slot.run]
    shown = [*busy, *(slot for slot in live.slots if not slot.run)][:SHOWN_SLOTS]
    parts = [f"{_short(slot)} {_doing(slot)}" for slot in shown]
    if len(live.slots) > SHOWN_SLOTS:
        parts.append(f"{len(busy)} of {len(live.slots)} slots busy")
    return " · ".join([*parts, f"{live.queued} queued", *([live.note] if live.note else [])])


def slots_table(live: Live) -> Group:
    """One row for every slot, and what waits below them."""
    table = Table.grid(padding=(0, 2))
    for slot in live.slots:
        table.add_row(Text(_short(slot)), *_cells(slot))
    ending = ", finishing what runs; Ctrl-C again stops it now" if live.stopping else ""
    note = f", {tidy(live.note)}" if live.note else ""
    return Group(table, Text(f"{live.queued} queued{note}{ending}"))


def _cells(slot: LiveSlot) -> tuple[Text | ProgressBar, ...]:
    """Text, not strings: a name in brackets is no markup."""
    if not slot.run:
        return (Text(tidy(slot.problem)[:60] or "free"),)
    bar = ProgressBar(total=slot.budget_s or 1.0, completed=min(slot.elapsed_s, slot.budget_s), width=16)
    words = (f"{slot.run} {slot.candidate}", tidy(slot.name)[:24], _phase(slot), _learning(slot))
    who, name, phase, learning = map(Text, words)
    return (who, name, bar, phase, learning)


def _doing(slot: LiveSlot) -> str:
    if not slot.run:
        return slot.problem[:60] or "free"
    return " ".join(word for word in (slot.run, slot.candidate, slot.name, _phase(slot), _learning(slot)) if word)


def _phase(slot: LiveSlot) -> str:
    return f"{slot.phase} {slot.elapsed_s:.0f}/{slot.budget_s:.0f} s" if slot.phase == "train" else slot.phase


def _learning(slot: LiveSlot) -> str:
    step = "" if slot.step is None else f"step {slot.step}"
    loss = "" if slot.loss is None else f"loss {slot.loss:.3f}"
    return " ".join(word for word in (step, loss) if word)


def _short(slot: LiveSlot) -> str:
    return slot.slot.rpartition("/")[2] if slot.slot.count("/") == 1 else slot.slot
