"""Runs: one with everything the ledger knows of it, what several of a candidate amount to, and what one printed.

Figures are the judge's, but for steps, tokens and losses: those are what the candidate reported of itself.
"""

from __future__ import annotations

import codecs
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import BinaryIO

from scheduler.domain.candidate import Candidate
from scheduler.domain.errors import LabProblem, NotYet
from scheduler.domain.run import (
    Attempt,
    Cancelled,
    Failed,
    Finished,
    Infra,
    MachineReadings,
    Measurements,
    Queued,
    Run,
    Running,
    Scored,
)
from scheduler.domain.text import clean, one_line
from scheduler.lab import Workspace
from scheduler.views import View, jsonable, utc
from scheduler.views.facts import LabFacts

CHUNK_BYTES = 1 << 16
LONGEST_LINE = 1 << 14  # characters held back for the end of their line

_FIGURES = (
    "wall_s", "budget_used_s", "steps", "tokens", "tokens_per_s", "last_loss", "loss_at", "mfu", "peak_memory_mb",
    "attention", "exchange", "device", "sandbox", "containment", "compile_cache", "machine",
    "contract_digest", "cache_digest", "train_sha256",
)  # fmt: skip
_MACHINE = ("speed", "speed_low", "speed_high", "calibration", "steal", "load", "throttled_share", "energy_j")


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
    sandbox: str
    val_bpb: float | None
    val_bpb_upstream: float | None
    figures: Measurements | None
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Medians:
    """Over a candidate's scored runs; None where no run said. `loss_at`: (share of the budget, loss) of the last run.

    `tokens_per_s` is by the contract's clock: what a slot's neighbours do to its wall clock is not the candidate's.
    All are claims of the candidate and decide nothing.
    """

    tokens_per_s: float | None
    steps: float | None
    mfu: float | None
    peak_memory_mb: float | None
    loss_at: tuple[tuple[float, float], ...]


@jsonable.register
def _(measured: Measurements) -> dict[str, object]:
    phases = [{"name": one_line(name), "wall_s": jsonable(seconds)} for name, seconds in measured.phases_s]
    return {"phases": phases, **{name: jsonable(getattr(measured, name)) for name in _FIGURES}}


@jsonable.register
def _(machine: MachineReadings) -> dict[str, object] | None:
    """None where nothing was measured."""
    if machine == MachineReadings():
        return None
    gpu = {one_line(name): _reading(*values) for name, *values in machine.gpu}
    shown = {name: jsonable(getattr(machine, name)) for name in _MACHINE}
    return shown | {"gpu": gpu or None, "throttled": [one_line(reason) for reason in machine.throttled]}


def _reading(mean: float, low: float, high: float) -> dict[str, object]:
    return {"mean": jsonable(mean), "low": jsonable(low), "high": jsonable(high)}


@jsonable.register
def _(attempt: Attempt) -> dict[str, object]:
    return {
        "number": attempt.number,
        "slot": attempt.slot_id,
        "started_at": utc(attempt.started_at),
        "ended_at": None if attempt.ended_at is None else utc(attempt.ended_at),
        "outcome": one_line(attempt.outcome),
    }


def run_view(facts: LabFacts, run: Run) -> RunView:
    since, reason = _state(run)
    result = run.state.result if isinstance(run.state, Finished) else None
    scored = result.verdict if result and isinstance(result.verdict, Scored) else None
    return RunView(
        run=run.id,
        candidate=run.candidate_id,
        name=one_line(facts.name(run.candidate_id)),
        kind=run.kind.value,
        seed=run.seed,
        state=state_word(run),
        since=utc(since),
        status=one_line(result.verdict.status) if result else "",
        reason=clean(reason),
        slot=run.state.slot_id if isinstance(run.state, Running | Finished) else None,
        pool=run.pool,
        sandbox=facts.lab.sandbox,
        val_bpb=scored.val_bpb if scored else None,
        val_bpb_upstream=scored.val_bpb_upstream if scored else None,
        figures=_known(result.measured) if result else None,
        attempts=facts.ledger.runs.attempts(run.id),
    )


def state_word(run: Run) -> str:
    return type(run.state).__name__.lower()


def is_pending(run: Run) -> bool:
    return isinstance(run.state, Queued | Running)


def last_failure(runs: Iterable[Run]) -> Failed | Infra | None:
    """The verdict of the last run that ended without a score, like "crash" or "timeout: train"."""
    verdicts = [run.state.result.verdict for run in runs if isinstance(run.state, Finished)]
    return next((verdict for verdict in reversed(verdicts) if not isinstance(verdict, Scored)), None)


def medians_of(facts: LabFacts, candidate: Candidate) -> Medians:
    measured = [
        run.state.result.measured
        for run in facts.runs_of[candidate.id]
        if isinstance(run.state, Finished) and isinstance(run.state.result.verdict, Scored)
    ]
    return Medians(
        tokens_per_s=_median(one.tokens / one.budget_used_s for one in measured if one.tokens and one.budget_used_s),
        steps=_median(one.steps for one in measured),
        mfu=_median(one.mfu for one in measured),
        peak_memory_mb=_median(one.peak_memory_mb for one in measured),
        loss_at=measured[-1].loss_at if measured else (),
    )


def describe_medians(medians: Medians) -> str:
    """On one line; what is unknown is left out."""
    parts = [
        "" if medians.tokens_per_s is None else f"{medians.tokens_per_s:,.0f} tokens/s",
        "" if medians.steps is None else f"{medians.steps:,.0f} steps",
        "" if medians.mfu is None else f"MFU {medians.mfu:.1%}",
        "" if medians.peak_memory_mb is None else f"{medians.peak_memory_mb:,.0f} MB",
        describe_losses(medians.loss_at),
    ]
    return ", ".join(part for part in parts if part) or "no figures yet"


def describe_losses(loss_at: tuple[tuple[float, float], ...]) -> str:
    """Like "loss 4.120, 3.300, 2.950 at 25, 50, 75 %"; "" without any."""
    losses = ", ".join(f"{loss:.3f}" for _, loss in loss_at)
    return f"loss {losses} at {', '.join(f'{100 * share:.0f}' for share, _ in loss_at)} %" if loss_at else ""


def log_path(space: Workspace, run: Run) -> Path:
    """The log of a run's latest attempt. Raises LabProblem, NotYet when there is none to read here."""
    if not run.attempts:
        raise NotYet(f"{run.id} has not run yet", f"why it waits: arsched explain {run.id}")
    for path in _log_places(space, run):
        if path.is_file():
            return path
    match run.state:
        case Queued() | Cancelled():
            raise LabProblem(f"the last attempt of {run.id} left no log", f"what became of it: arsched show {run.id}")
        case Finished():
            harvested = _log_places(space, run)[0]
            raise LabProblem(f"{run.id} left no log: {harvested} is not there", f"its result: arsched show {run.id}")
    hint = f"it comes here when the run is over: arsched wait {run.id}"
    raise NotYet(f"{run.id} runs on {run.state.slot_id}, and its log is there", hint)


def has_log(space: Workspace, run: Run) -> bool:
    return any(path.is_file() for path in _log_places(space, run))


def read_log(path: Path) -> str:
    """The whole log, cleaned. Raises LabProblem when it cannot be read."""
    try:
        return clean(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as problem:
        raise LabProblem(f"{path} cannot be read: {problem.strerror}") from None


def follow_log(file: BinaryIO, is_over: Callable[[], bool], pause: Callable[[], None]) -> Iterator[str]:
    """Cleaned text as it is written, until `is_over` and everything is read. The file may be unlinked meanwhile."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    held = ""
    while True:
        over = is_over()  # asked before reading, so that the last words are not missed
        while data := file.read(CHUNK_BYTES):
            *lines, held = (held + decoder.decode(data)).split("\n")
            yield from (f"{clean(line)}\n" for line in lines)
            if len(held) > LONGEST_LINE:
                yield clean(held)
                held = ""
        if over:
            yield clean(held + decoder.decode(b"", final=True))
            return
        pause()


def _log_places(space: Workspace, run: Run) -> tuple[Path, Path]:
    """Where the log of the latest attempt is when it is over, and where while it goes on on this machine."""
    from scheduler.node.spool import default_spool_root  # most who read runs read no log

    spool = default_spool_root() / space.lab.lab_id / f"{run.id}.{run.attempts}"
    return space.paths.log(run.id, run.attempts), spool / "out" / "run.log"


def _known(measured: Measurements) -> Measurements:
    """With None for what is not finite: a candidate may report anything."""
    values = {field.name: getattr(measured, field.name) for field in fields(measured)}
    odd = {name: None for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)}
    return replace(measured, **odd)  # type: ignore[arg-type]


def _state(run: Run) -> tuple[float, str]:
    """When the run came into the state it is in, seconds since the epoch, and why."""
    match run.state:
        case Queued(since=since, last_problem=problem):
            return since, problem
        case Running(started_at=started_at):
            return started_at, ""
        case Finished(finished_at=at, result=result):
            return at, "" if isinstance(result.verdict, Scored) else result.verdict.reason
        case Cancelled(at=at, reason=reason):
            return at, reason


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
