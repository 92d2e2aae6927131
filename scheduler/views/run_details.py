"""One run with everything the ledger knows of it. Figures are the judge's, but for step, token and loss counts: those
are what the candidate said of itself."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.domain.result import Measurements, Scored
from scheduler.domain.run import Attempt, Cancelled, Finished, Queued, Run, Running
from scheduler.domain.text import clean, one_line
from scheduler.ledger import Ledger
from scheduler.views.facts import LabFacts
from scheduler.views.plain import View, finite, utc


@dataclass(frozen=True, slots=True)
class AttemptView(View):
    number: int
    slot: str
    started_at: str
    ended_at: str | None
    outcome: str


@dataclass(frozen=True, slots=True)
class Phase(View):
    name: str
    wall_s: float | None


@dataclass(frozen=True, slots=True)
class Figures(View):
    """What was measured; None where the judge could not know."""

    phases: tuple[Phase, ...]
    wall_s: float | None
    budget_used_s: float | None
    steps: int | None
    tokens: int | None
    tokens_per_s: float | None
    last_loss: float | None
    loss_at: tuple[tuple[float, float], ...]
    mfu: float | None
    peak_memory_mb: float | None
    attention: str | None
    exchange: str | None
    device: str | None
    compile_cache: str | None
    contract_digest: str
    cache_digest: str
    train_sha256: str


@dataclass(frozen=True, slots=True)
class RunView(View):
    """`state` is queued, running, finished or cancelled; `status` the judge's verdict once there is one, else ""."""

    run: str
    candidate: str
    name: str
    kind: str
    seed: int
    state: str
    since: str
    status: str
    reason: str
    slot: str | None
    pool: str
    val_bpb: float | None
    val_bpb_upstream: float | None
    figures: Figures | None
    attempts: tuple[AttemptView, ...]


def run_view(ledger: Ledger, facts: LabFacts, run: Run) -> RunView:
    result = run.state.result if isinstance(run.state, Finished) else None
    scored = result.verdict if result and isinstance(result.verdict, Scored) else None
    return RunView(
        run=run.id,
        candidate=run.candidate_id,
        name=one_line(facts.name(run.candidate_id)),
        kind=run.kind.value,
        seed=run.seed,
        state=type(run.state).__name__.lower(),
        since=utc(_since(run)),
        status=one_line(result.verdict.status) if result else "",
        reason=_reason(run),
        slot=run.state.slot_id if isinstance(run.state, Running | Finished) else None,
        pool=run.pool,
        val_bpb=scored.val_bpb if scored else None,
        val_bpb_upstream=finite(scored.val_bpb_upstream) if scored else None,
        figures=figures(result.measured) if result else None,
        attempts=tuple(map(_attempt, ledger.runs.attempts(run.id))),
    )


def figures(measured: Measurements) -> Figures:
    return Figures(
        phases=tuple(Phase(one_line(name), finite(seconds)) for name, seconds in measured.phases_s),
        wall_s=finite(measured.wall_s),
        budget_used_s=finite(measured.budget_used_s),
        steps=measured.steps,
        tokens=measured.tokens,
        tokens_per_s=finite(measured.tokens_per_s),
        last_loss=finite(measured.last_loss),
        loss_at=measured.loss_at,
        mfu=finite(measured.mfu),
        peak_memory_mb=finite(measured.peak_memory_mb),
        attention=measured.attention,
        exchange=measured.exchange,
        device=measured.device,
        compile_cache=measured.compile_cache,
        contract_digest=measured.contract_digest,
        cache_digest=measured.cache_digest,
        train_sha256=measured.train_sha256,
    )


def _reason(run: Run) -> str:
    match run.state:
        case Queued(last_problem=problem):
            return clean(problem)
        case Cancelled(reason=reason):
            return clean(reason)
        case Finished(result=result) if not isinstance(result.verdict, Scored):
            return clean(result.verdict.reason)
    return ""


def _since(run: Run) -> float:
    """When the run came into the state it is in, seconds since the epoch."""
    match run.state:
        case Queued(since=since):
            return since
        case Running(started_at=started_at):
            return started_at
        case Finished(finished_at=finished_at):
            return finished_at
        case Cancelled(at=at):
            return at


def _attempt(attempt: Attempt) -> AttemptView:
    ended_at = None if attempt.ended_at is None else utc(attempt.ended_at)
    return AttemptView(attempt.number, attempt.slot_id, utc(attempt.started_at), ended_at, one_line(attempt.outcome))
