"""The loop that runs a lab's queue, until nothing is queued, running or undecided: collect, decide, hook, place, show.

This file is the order of the steps and their pace; it keeps nothing that a crash would lose. Not covered: which
process may run the queue, and where the pool comes from (runner.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from scheduler.domain.errors import PoolProblem
from scheduler.domain.run import Run
from scheduler.domain.slot import Slot, is_in_use
from scheduler.domain.text import count
from scheduler.lab import Live, Workspace, back_up, contract_ref, is_paused, process_space, show_runs, write_live
from scheduler.policy.explain import describe_undecided
from scheduler.policy.stats import lab_noise, undecided_below
from scheduler.queue.collect import Collector
from scheduler.queue.decide import decide_all, is_decision_due
from scheduler.queue.place import Placer, nothing_usable
from scheduler.queue.progress import Screen, describe_slots
from scheduler.queue.runtime import Interrupt, PoolHandle, Runtime, SchedulerLock


class LoopHook(Protocol):
    """Brings candidates while the queue is run. Asked once a round; no call may block for the length of a run."""

    @property
    def search(self) -> int:
        """Its number, for the live file; 0 = none."""

    def step(self, slots: int, *, resting: bool) -> None:
        """After the decisions, before placing. `slots` are usable now; `resting`: nothing new is to begin."""

    def placeable(self, queued: Sequence[Run]) -> Sequence[Run]:
        """The queued runs that may start now."""

    def wants_more(self) -> bool:
        """Whether something is still to come although nothing is queued, running or undecided."""

    def is_busy(self) -> bool:
        """Whether something works for it now outside the slots."""

    def note(self) -> str:
        """What it does, in a few words for the screen; "" when there is nothing to show."""


class Loop:
    """Runs one lab on one pool. `run` once."""

    def __init__(
        self, space: Workspace, handle: PoolHandle, screen: Screen, interrupt: Interrupt, runtime: Runtime,
        lock: SchedulerLock, hook: LoopHook | None = None,
    ) -> None:  # fmt: skip
        self._space, self._pool, self._screen, self._interrupt = space, handle.pool, screen, interrupt
        self._runtime, self._lock, self._hook, self._clock = runtime, lock, hook, runtime.clock
        self._collector = Collector(space, handle, runtime, screen.say)
        self.stop_all = self._collector.stop_all
        self._placer = Placer(space, handle.pool, runtime.clock, screen.say, runtime.timeouts.lease_s)
        self._decide_due = self._show_due = float("-inf")
        self._back_up_due = runtime.clock() + runtime.intervals.back_up_s
        self._lost_slots_at: float | None = None
        self._shown_level = 0
        self._is_unsteady = self._lacks_backup = False
        self.paused = False

    def run(self) -> None:
        """Returns when nothing is left to do or the lab is paused, or after Ctrl-C when what was asked for is done.

        Raises PoolProblem when no slot can run the lab, LabProblem when its baseline gets no score, the disk refuses or
        the lock was lost, LedgerProblem when the ledger was.
        """
        held = tuple(self._collector.held.values())
        if not self._placer.usable(held) and not held and not self._is_shared():
            raise self._nothing_usable()
        while not self._interrupt.stopping:
            running, queued = self._round()
            if self._is_finished(running, queued):
                return
            self._runtime.sleep(self._runtime.intervals.round_s)
        self._show_interrupt(len(self._collector.held))
        self._ensure_ours()
        self.stop_all()

    def _ensure_ours(self) -> None:
        """Before anything is collected or written: ledger and lock are still those that this process opened."""
        self._space.ledger.ensure_present()
        self._lock.ensure_held()

    def _round(self) -> tuple[int, int]:
        """How many runs hold a slot and how many are queued when it ends. The ledger is asked for each once."""
        self._ensure_ours()
        changed = self._collector.collect()
        if changed or self._clock() >= self._decide_due:
            decide_all(self._space, self._screen.say, self._clock())
            self._decide_due = self._clock() + self._runtime.intervals.decide_s
        if self._space.paths.stop.exists():  # it stays until the end: a process that follows this one has to see it
            self._interrupt.finish()
        self._follow_pause()
        resting = self._interrupt.finishing or self.paused
        held = tuple(self._collector.held.values())
        usable = self._placer.usable(held)
        self._placer.name_unusable()
        if self._hook is not None:
            self._hook.step(len(usable), resting=resting)
        queued, started = self._space.ledger.runs.queued(self._space.tag), 0
        if not resting:
            placeable = self._hook.placeable(queued) if self._hook is not None else queued
            started = self._placer.place(placeable, held, usable)
            self._watch_lost_slots(usable, lost=bool(queued) and not held and not started)
        running, waiting = len(held) + started, len(queued) - started
        self._show_interrupt(running)
        if self._clock() >= self._show_due:
            self._show(waiting)
        return running, waiting

    def _follow_pause(self) -> None:
        before, self.paused = self.paused, is_paused(self._space)
        if self.paused != before:
            text = "paused: what runs is finished, nothing new begins; go on with: arsched resume"
            self._screen.say(text if self.paused else "resumed")

    def _is_finished(self, running: int, queued: int) -> bool:
        if running:
            return False
        if self._interrupt.finishing:
            return True
        if self.paused:
            return self._hook is None or not self._hook.is_busy()
        if self._hook is not None and self._hook.wants_more():
            return False
        self._decide_due = float("-inf")
        return not queued and not is_decision_due(self._space)

    def _watch_lost_slots(self, usable: Sequence[Slot], *, lost: bool) -> None:
        """Runs are queued and no slot can take one: wait for nodes to come back, but not without end.

        What another lab on the machine uses is waited for as long as it takes.
        """
        if usable or not lost:
            self._lost_slots_at = None
            return
        now, shared = self._clock(), self._is_shared()
        if self._lost_slots_at is None:
            self._lost_slots_at = now
            what = "until a slot is free" if shared else "for one to come back"
            self._screen.say(f"note: {self._nothing_usable().message}; waiting {what}")
        if shared:
            self._lost_slots_at = now
        elif now - self._lost_slots_at > self._runtime.timeouts.no_slot_s:
            raise self._nothing_usable()

    def _is_shared(self) -> bool:
        return any(map(is_in_use, self._pool.slots()))

    def _nothing_usable(self) -> PoolProblem:
        contract = contract_ref(self._space.lab, self._space.paths.contract)
        return nothing_usable(self._pool.slots(), self._space.lab, contract)

    def _show(self, queued: int) -> None:
        now = self._clock()
        self._show_due = now + self._runtime.intervals.show_s
        pool_name = self._placer.pool_name
        slots = describe_slots(self._space, self._pool.slots(), pool_name, self._collector.progress)
        note, search = (self._hook.note(), self._hook.search) if self._hook is not None else ("", 0)
        stopping = self._interrupt.finishing
        who, where = (self._runtime.pid, self._space.tag), process_space()
        live = Live(self._runtime.wall(), *who, pool_name, queued, stopping, slots, note, search, where)
        write_live(self._space.paths.live, live)
        show_runs(self._space.paths)  # a cleaned folder could take no stop file
        self._screen.show(live)
        self._show_unsteady()
        if now >= self._back_up_due:
            self._back_up_due = now + self._runtime.intervals.back_up_s
            self.back_up()

    def back_up(self) -> None:
        """Keep a copy of the ledger; say once that it fails, and again only after it succeeded in between."""
        problem = back_up(self._space)
        if problem and not self._lacks_backup:
            self._screen.say(f"note: {problem}")
        self._lacks_backup = bool(problem)

    def _show_unsteady(self) -> None:
        """Say once that the machine decides little, and again only after it was steady in between."""
        lab, board = self._space.lab, self._space.ledger.board(self._space.tag)
        below_bpb = undecided_below(lab_noise(board), lab.noise_prior_bpb)
        if below_bpb is not None and not self._is_unsteady:
            self._screen.say(f"note: {describe_undecided(below_bpb)}")
        self._is_unsteady = below_bpb is not None

    def _show_interrupt(self, running: int) -> None:
        if self._interrupt.level == self._shown_level:
            return
        self._shown_level = self._interrupt.level
        if self._interrupt.stopping:
            self._screen.say("stopping what runs; it goes back to the queue")
        else:
            what = count(running, "run")
            self._screen.say(f"finishing {what}, placing no more; Ctrl-C now stops them and queues them again")
