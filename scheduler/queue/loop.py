"""The loop that runs a lab's queue: collect, decide, place, tell; until nothing is queued, running or undecided.

    collect   reports of the slots -> results in the ledger, or runs back in the queue
    decide    the board -> promotions, repeats, discards
    step      a search, where one is on -> new candidates in the queue
    place     queued runs -> free slots, unless the lab is paused
    tell      what the slots do -> the screen and the live file

Each step is a room of its own; this file is their order and their pace. Nothing is remembered here that a crash
would lose. Not covered: whose turn it is and where the pool comes from (drive.py).
"""

from __future__ import annotations

import os

from scheduler.domain.errors import PoolProblem
from scheduler.live import Live, write_live
from scheduler.queue.collect import Collector, held_runs
from scheduler.queue.companion import Companion, Nobody
from scheduler.queue.deciding import decide_all, next_decision
from scheduler.queue.interrupt import Interrupt
from scheduler.queue.means import Means
from scheduler.queue.place import Placer, nothing_usable
from scheduler.queue.pools import Joined
from scheduler.queue.progress import Screen
from scheduler.queue.telling import describe_slots
from scheduler.queue.turn import Turn
from scheduler.workspace import Workspace


class Loop:
    """Runs one lab on one pool. `run` once."""

    def __init__(
        self,
        space: Workspace,
        joined: Joined,
        screen: Screen,
        interrupt: Interrupt,
        means: Means,
        turn: Turn,
        companion: Companion | None = None,
    ) -> None:
        self._companion = companion or Nobody()
        self._space, self._pool, self._screen, self._interrupt = space, joined.pool, screen, interrupt
        self._turn = turn
        self._clock, self._sleep, self._pace = means.clock, means.sleep, means.pace
        self._collector = Collector(space, joined, means.clock, screen.say, means.patience)
        self._placer = Placer(space, joined.pool, means.clock, screen.say, means.patience.lease_s)
        self._decide_due = self._tell_due = float("-inf")
        self._lost_slots_at: float | None = None
        self._said_level = 0
        self.paused = False

    def run(self) -> None:
        """Returns when nothing is left to do or the lab is paused, or after Ctrl-C when what was asked for is done.

        Raises PoolProblem when no slot can run the lab, LabProblem when its baseline gets no score, the disk refuses or
        the turn was lost, LedgerProblem when the ledger was.
        """
        if not self._placer.usable() and not held_runs(self._space):
            raise nothing_usable(self._pool.slots(), self._space.lab)
        while not self._interrupt.stopping:
            self._round()
            if self._is_over():
                return
            self._sleep(self._pace.round_s)
        self._tell_interrupt()
        self._ensure_ours()
        self.stop_all()

    def stop_all(self) -> None:
        """Stop what runs and queue it again. Raises PoolProblem, LabProblem, LedgerProblem."""
        self._collector.stop_all()

    def _ensure_ours(self) -> None:
        """Before anything is collected or written: ledger and turn are still those that this process opened."""
        self._space.ledger.ensure_present()
        self._turn.ensure_held()

    def _round(self) -> None:
        self._ensure_ours()
        changed = self._collector.collect()
        if changed or self._clock() >= self._decide_due:
            decide_all(self._space, self._screen.say)
            self._decide_due = self._clock() + self._pace.decide_s
        self._heed_stop_file()
        self._heed_pause()
        resting = self._interrupt.finishing or self.paused
        self._companion.step(len(self._placer.usable()), resting=resting)
        if not resting:
            self._placer.place(self._companion.placeable)
            self._mind_lost_slots()
        self._tell_interrupt()
        self._tell()

    def _heed_stop_file(self) -> None:
        if self._space.paths.stop.exists():
            self._space.paths.stop.unlink(missing_ok=True)
            self._interrupt.finish()

    def _heed_pause(self) -> None:
        paused = self._space.ledger.labs.get(self._space.tag).paused_at is not None
        if paused != self.paused:
            self.paused = paused
            said = "paused: what runs is finished, nothing new begins; go on with: arsched resume"
            self._screen.say(said if paused else "resumed")

    def _is_over(self) -> bool:
        if held_runs(self._space):
            return False
        if self._interrupt.finishing:
            return True
        if self.paused:
            return not self._companion.is_busy()
        if self._companion.wants_more():
            return False
        self._decide_due = float("-inf")
        return not self._space.ledger.runs.queued(self._space.tag) and next_decision(self._space) is None

    def _mind_lost_slots(self) -> None:
        """Runs are queued and no slot can take one: wait for nodes to come back, but not for ever."""
        if held_runs(self._space) or self._placer.usable() or not self._space.ledger.runs.queued(self._space.tag):
            self._lost_slots_at = None
            return
        now = self._clock()
        problem = nothing_usable(self._pool.slots(), self._space.lab)
        if self._lost_slots_at is None:
            self._lost_slots_at = now
            self._screen.say(f"note: {problem.message}; waiting for one to come back")
        if now - self._lost_slots_at > self._pace.no_slot_s:
            raise PoolProblem(problem.message, problem.hint)

    def _tell(self) -> None:
        now = self._clock()
        if now < self._tell_due:
            return
        self._tell_due = now + self._pace.tell_s
        slots = describe_slots(self._space, self._pool.slots(), self._placer.pool_name, self._collector.progress)
        queued = len(self._space.ledger.runs.queued(self._space.tag))
        live = Live(
            at=now,
            pid=os.getpid(),
            tag=self._space.tag,
            pool=self._placer.pool_name,
            queued=queued,
            stopping=self._interrupt.finishing,
            slots=slots,
            note=self._companion.note(),
            search=self._companion.search,
        )
        write_live(self._space.paths.live, live)
        self._screen.show(live)

    def _tell_interrupt(self) -> None:
        level = self._interrupt.level
        if level == self._said_level:
            return
        self._said_level = level
        if self._interrupt.stopping:
            self._screen.say("stopping what runs; it goes back to the queue")
        else:
            running = len(held_runs(self._space))
            what = f"{running} run{'s' if running != 1 else ''}"
            self._screen.say(f"finishing {what}, placing no more; Ctrl-C again stops them and queues them again")
