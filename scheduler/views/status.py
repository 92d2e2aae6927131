"""What the lab is doing now: baseline, noise, slots, queue, and the process that runs it; once, or again and again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scheduler.domain.decision import Claim
from scheduler.domain.run import Run, Running
from scheduler.domain.text import clean, flat, one_line
from scheduler.lab import Live, LiveSlot, read_live
from scheduler.ledger import Ledger
from scheduler.views import View, utc
from scheduler.views.candidate import waiting_for
from scheduler.views.candidates import History, Leaderboard, Row, candidate_row, history, leaderboard
from scheduler.views.facts import LabFacts, NoiseParts
from scheduler.views.search import OpenIdea, SearchView, open_ideas, read_search
from scheduler.views.slots import Efficiency

FRESH_S = 15.0  # a live file older than this was left behind: its writer replaces it about once a second


@dataclass(frozen=True, slots=True)
class Runner(View):
    """The process that runs the queue. `stopping`: it places nothing new."""

    pid: int
    heard_s_ago: float
    stopping: bool


@dataclass(frozen=True, slots=True)
class QueuedRow(View):
    run: str
    candidate: str
    name: str
    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class Status(View):
    """`runner` is None when no process runs the queue; running runs may then be left over from one that was killed.

    `search` is the lab's last one, `claim` the last there is; `efficiency` is of the whole lab. `ideas` are being made.
    """

    tag: str
    branch: str
    contract: str
    device: str
    baseline: Row | None
    noise_sd_bpb: float | None
    noise_repeats: int
    noise_parts: NoiseParts | None
    undecided_below_bpb: float | None
    runner: Runner | None
    slots: tuple[LiveSlot, ...]
    queued: tuple[QueuedRow, ...]
    queued_runs: int
    running_runs: int
    finished_runs: int
    cancelled_runs: int
    undecided_candidates: int
    paused: bool
    note: str
    search: SearchView | None
    claim: Claim | None
    efficiency: Efficiency
    ideas: tuple[OpenIdea, ...]
    recent_decisions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Watch(View):
    """One look, at `at`."""

    at: str
    status: Status
    leaderboard: Leaderboard
    history: History


def read_status(facts: LabFacts, live: Live | None, now: float) -> Status:
    """As `status`, with the lab's last search."""
    return status(facts, live, now, read_search(facts))


def status(facts: LabFacts, live: Live | None, now: float, search: SearchView | None) -> Status:
    """`now` in seconds since the epoch: how old the live file is decides whether it still means anything."""
    fresh = fresh_live(facts.lab.tag, live, now)
    return Status(
        tag=facts.lab.tag,
        branch=facts.lab.branch,
        contract=facts.lab.contract_words,
        device=facts.lab.device,
        baseline=candidate_row(facts, facts.baseline) if facts.baseline else None,
        noise_sd_bpb=facts.noise.sigma if facts.noise else None,
        noise_repeats=facts.noise.df if facts.noise else 0,
        noise_parts=facts.noise_parts,
        undecided_below_bpb=facts.undecided_below_bpb,
        runner=Runner(fresh.pid, max(0.0, now - fresh.at), fresh.stopping) if fresh else None,
        slots=fresh.slots if fresh else tuple(_left_over(facts, run) for run in facts.running),
        queued=tuple(_queued(facts, run, fresh) for run in facts.queued),
        queued_runs=len(facts.queued),
        running_runs=len(facts.running),
        finished_runs=facts.count_runs("finished"),
        cancelled_runs=facts.count_runs("cancelled"),
        undecided_candidates=sum(standing.state.undecided for standing in facts.standings.values()),
        paused=facts.lab.paused_at is not None,
        note=one_line(fresh.note) if fresh else "",
        search=search,
        claim=facts.claim,
        efficiency=facts.efficiency,
        ideas=open_ideas(facts.proposals, now),
        recent_decisions=tuple(map(flat, facts.recent_sentences)),
    )


def fresh_live(tag: str, live: Live | None, now: float) -> Live | None:
    """The live file if its writer is still there and works on this lab."""
    is_ours = live is not None and live.tag == tag and abs(now - live.at) < FRESH_S  # a clock may be set back
    return live if is_ours and live is not None and live.may_be_alive() else None


def usable_slots(tag: str, live: Live | None, now: float) -> int | None:
    """How many healthy slots the process that runs the queue has; None when there is none."""
    return _usable(fresh_live(tag, live, now))


def _usable(fresh: Live | None) -> int | None:
    return sum(not slot.problem for slot in fresh.slots) if fresh else None


class Watcher:
    """Looks at one lab again and again, and reads only what changed. `live` is the path of its live file.

    The ledger is read again when its history has a new line; what a search has spent when anything was written at all;
    the live file every time.
    """

    def __init__(self, ledger: Ledger, tag: str, live: Path) -> None:
        self._ledger, self._tag, self._live = ledger, tag, live
        self._known: tuple[LabFacts, Leaderboard, History] | None = None
        self._event = 0
        self._read = ledger.per_stamp(self._read_changes)

    def look(self, now: float) -> Watch:
        """`now` in seconds since the epoch. Raises LedgerProblem when the ledger cannot be read."""
        with self._ledger.snapshot():
            facts, board, course, search = self._read()
            return Watch(utc(now), status(facts, read_live(self._live), now, search), board, course)

    def _read_changes(self) -> tuple[LabFacts, Leaderboard, History, SearchView | None]:
        events = self._ledger.events.list(self._tag, limit=1)
        last = events[-1].number if events else 0
        if self._known is None or last != self._event:
            facts = LabFacts(self._ledger, self._ledger.labs.get(self._tag))
            self._known, self._event = (facts, leaderboard(facts), history(facts)), last
        return *self._known, read_search(self._known[0])


def _left_over(facts: LabFacts, run: Run) -> LiveSlot:
    """A run that the ledger holds as running although no process watches it."""
    slot = run.state.slot_id if isinstance(run.state, Running) else ""
    name = one_line(facts.name(run.candidate_id))
    return LiveSlot(slot, run=run.id, candidate=run.candidate_id, name=name, kind=run.kind.value, phase="unwatched")


def _queued(facts: LabFacts, run: Run, fresh: Live | None) -> QueuedRow:
    has_note = fresh is not None and fresh.note and not fresh.slots  # it waits for its cluster
    why = fresh.note if fresh is not None and has_note else waiting_for(facts, run, _usable(fresh))
    return QueuedRow(run.id, run.candidate_id, one_line(facts.name(run.candidate_id)), run.kind.value, clean(why))
