"""What the lab is doing now: baseline, noise, slots, queue, and whether anybody runs it."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.domain.run import Run, Running
from scheduler.domain.text import clean, flat, one_line
from scheduler.ledger import Ledger
from scheduler.live import Live, LiveSlot
from scheduler.views.efficiency import Efficiency, efficiency
from scheduler.views.explanation import waiting_for
from scheduler.views.facts import LabFacts
from scheduler.views.ideas import OpenIdea, open_ideas
from scheduler.views.leaderboard import Row, candidate_row
from scheduler.views.plain import View, finite
from scheduler.views.search import ClaimView, SearchView, read_search
from scheduler.views.slot_time import slot_time
from scheduler.views.stays import read_stays
from scheduler.views.summary import last_claim

FRESH_S = 15.0  # a live file older than this was left behind: its writer replaces it about once a second
RECENT = 5  # decisions shown


@dataclass(frozen=True, slots=True)
class Runner(View):
    """The process that runs the queue. `stopping`: it places nothing new."""

    pid: int
    heard_s_ago: float
    stopping: bool


@dataclass(frozen=True, slots=True)
class SlotRow(View):
    """One slot; `run` is "" when it is free. Progress is by the judge's clock, step and loss as train.py says."""

    slot: str
    problem: str
    run: str
    candidate: str
    name: str
    kind: str
    phase: str
    elapsed_s: float | None
    budget_s: float | None
    step: int | None
    loss: float | None


@dataclass(frozen=True, slots=True)
class QueuedRow(View):
    run: str
    candidate: str
    name: str
    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class Status(View):
    """`runner` is None when nobody runs the queue; running runs may then be left over from one that was killed.

    `search` is the lab's last one, `claim` the last there is; `efficiency` is of the whole lab. `ideas` are being made.
    """

    tag: str
    branch: str
    contract: str
    device: str
    baseline: Row | None
    noise_sd_bpb: float | None
    noise_repeats: int
    runner: Runner | None
    slots: tuple[SlotRow, ...]
    queued: tuple[QueuedRow, ...]
    queued_runs: int
    running_runs: int
    finished_runs: int
    cancelled_runs: int
    undecided_candidates: int
    paused: bool
    note: str
    search: SearchView | None
    claim: ClaimView | None
    efficiency: Efficiency
    ideas: tuple[OpenIdea, ...]
    recent_decisions: tuple[str, ...]


def read_status(ledger: Ledger, facts: LabFacts, live: Live | None, now: float) -> Status:
    """`now` in seconds since the epoch: how old the live file is decides whether it still means anything."""
    stays = read_stays(ledger, facts)
    return status(
        facts,
        live,
        now,
        search=read_search(ledger, facts),
        claim=last_claim(ledger, facts),
        used=efficiency(facts, stays, slot_time(stays)),
        ideas=open_ideas(ledger.proposals.list(facts.lab.tag), now),
    )


def status(
    facts: LabFacts,
    live: Live | None,
    now: float,
    *,
    used: Efficiency,
    search: SearchView | None = None,
    claim: ClaimView | None = None,
    ideas: tuple[OpenIdea, ...] = (),
) -> Status:
    """As `read_status`, of what was read already."""
    fresh = fresh_live(facts.lab.tag, live, now)
    baseline = facts.by_id.get(facts.board.baseline_id) if facts.board else None
    slots = usable_slots(facts.lab.tag, live, now)
    return Status(
        tag=facts.lab.tag,
        branch=facts.lab.branch,
        contract=facts.lab.contract_name,
        device=facts.lab.device,
        baseline=candidate_row(facts, baseline) if baseline else None,
        noise_sd_bpb=facts.noise.sigma if facts.noise else None,
        noise_repeats=facts.noise.df if facts.noise else 0,
        runner=Runner(fresh.pid, max(0.0, now - fresh.at), fresh.stopping) if fresh else None,
        slots=tuple(map(_slot, fresh.slots)) if fresh else tuple(_left_over(facts, run) for run in facts.running),
        queued=tuple(_queued(facts, run, slots) for run in facts.queued),
        queued_runs=len(facts.queued),
        running_runs=len(facts.running),
        finished_runs=len(facts.finished),
        cancelled_runs=len(facts.cancelled),
        undecided_candidates=sum(candidate.state.undecided for candidate in facts.candidates),
        paused=facts.lab.paused_at is not None,
        note=one_line(fresh.note) if fresh else "",
        search=search,
        claim=claim,
        efficiency=used,
        ideas=ideas,
        recent_decisions=tuple(flat(r.sentence) for r in facts.decisions[-RECENT:]),
    )


def fresh_live(tag: str, live: Live | None, now: float) -> Live | None:
    """The live file if its writer is still there and works on this lab."""
    return live if live is not None and live.tag == tag and now - live.at < FRESH_S else None


def usable_slots(tag: str, live: Live | None, now: float) -> int | None:
    """How many healthy slots the one who runs the queue has; None when nobody does."""
    fresh = fresh_live(tag, live, now)
    return sum(not slot.problem for slot in fresh.slots) if fresh else None


def _slot(slot: LiveSlot) -> SlotRow:
    return SlotRow(
        slot=slot.slot,
        problem=one_line(slot.problem),
        run=slot.run,
        candidate=slot.candidate,
        name=one_line(slot.name),
        kind=slot.kind,
        phase=one_line(slot.phase),
        elapsed_s=finite(slot.elapsed_s) if slot.run else None,
        budget_s=finite(slot.budget_s) if slot.run else None,
        step=slot.step,
        loss=finite(slot.loss),
    )


def _left_over(facts: LabFacts, run: Run) -> SlotRow:
    """A run the ledger holds as running although nobody watches it."""
    slot = run.state.slot_id if isinstance(run.state, Running) else ""
    name = one_line(facts.name(run.candidate_id))
    return SlotRow(slot, "", run.id, run.candidate_id, name, run.kind.value, "unwatched", None, None, None, None)


def _queued(facts: LabFacts, run: Run, slots: int | None) -> QueuedRow:
    why = clean(waiting_for(facts, run, slots))
    return QueuedRow(run.id, run.candidate_id, one_line(facts.name(run.candidate_id)), run.kind.value, why)
