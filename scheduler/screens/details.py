"""One run or one candidate, whole: figures, phases, attempts, decisions, diff."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from scheduler.screens import numbers
from scheduler.screens.terminal import Columns, Renderable, indented, pairs, state, verbatim
from scheduler.views.candidate_details import CandidateView
from scheduler.views.explanation import describe_merge
from scheduler.views.medians import describe_losses
from scheduler.views.run_details import Figures, RunView

SHORT_DIGEST = 12
DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def run_screen(run: RunView) -> Iterator[Renderable]:
    rows: list[tuple[str, Renderable]] = [
        ("run", f"{run.run}   {run.kind} run of {run.candidate} {run.name}   seed {run.seed}"),
        ("state", f"{run.state} since {run.since}" + (f" on {run.slot}" if run.slot else "")),
    ]
    if run.val_bpb is not None:
        rows.append(("val_bpb", f"{run.val_bpb:.6f}   (with upstream's byte counts: {_upstream(run)})"))
    if run.status:
        rows.append(("status", run.status))
    if run.reason:
        rows.append(("reason", run.reason))
    if run.figures:
        rows += _figures(run.figures)
    yield pairs(rows)
    if len(run.attempts) > 1 or (run.attempts and not run.figures):
        yield ""
        yield from _attempts(run)


def candidate_screen(view: CandidateView) -> Iterator[Renderable]:
    row = view.standing
    score = f"{numbers.bpb(row.val_bpb, row.val_bpb_se)} ({numbers.count(row.runs, 'run')})" if row.runs else "none"
    yield pairs(
        [
            ("candidate", f"{row.candidate} {row.name}"),
            ("title", row.title or numbers.UNKNOWN),
            ("state", state(row.detail if row.status in row.detail else f"{row.status} ({row.detail})", row.status)),
            ("val_bpb", score),
            ("effect", _effect(view)),
            *_merging(view),
            *_idea(view),
            ("author", view.author or numbers.UNKNOWN),
            ("commit", view.commit),
            ("train.py", f"sha256 {view.train_sha256[:SHORT_DIGEST]}   meaning {view.fingerprint[:SHORT_DIGEST]}"),
            ("submitted", view.submitted_at),
        ]
    )
    yield ""
    yield _runs(view)
    yield from _failures(view)
    yield from _decisions(view)
    yield from _diff(view.diff)


def _merging(view: CandidateView) -> Iterator[tuple[str, str]]:
    if view.merge is not None:
        yield "merged from", describe_merge(view.merge)
        for part in view.merge.parts:
            if not part.merged:
                yield "", f"without {part.candidate} {part.name}: it did not go in"
    if view.merged_into:
        unions = (f"{union.candidate} {union.name} ({union.status})" for union in view.merged_into)
        yield "merged into", ", ".join(unions)


def _idea(view: CandidateView) -> Iterator[tuple[str, str]]:
    row = view.standing
    if row.proposer:
        yield "proposer", row.proposer
    if row.theme:
        yield "theme", row.theme
    if view.hypothesis:
        yield "hypothesis", view.hypothesis


def _figures(figures: Figures) -> list[tuple[str, Renderable]]:
    phases = "  ".join(f"{phase.name} {numbers.seconds(phase.wall_s)}" for phase in figures.phases)
    phases += f"   (compile cache {figures.compile_cache})" if figures.compile_cache else ""
    speed = f", {figures.tokens_per_s:,.0f} tokens/s" if figures.tokens_per_s else ""
    speed += f", MFU {figures.mfu:.1%}" if figures.mfu is not None else ""
    last = f", last loss {figures.last_loss:.4f}" if figures.last_loss is not None else ""
    before = f", {describe_losses(figures.loss_at)}" if figures.loss_at else ""
    said = f"{_whole(figures.steps)} steps, {_whole(figures.tokens)} tokens{speed}{before}{last}   (as train.py says)"
    memory = numbers.UNKNOWN if figures.peak_memory_mb is None else f"{figures.peak_memory_mb:,.0f} MB"
    digests = (
        ("contract", figures.contract_digest),
        ("cache", figures.cache_digest),
        ("train.py", figures.train_sha256),
    )
    return [
        ("phases", phases or numbers.UNKNOWN),
        ("time", f"{numbers.seconds(figures.wall_s)} in all, {numbers.seconds(figures.budget_used_s)} of the budget"),
        ("training", said),
        ("memory", f"{memory} at the peak"),
        ("device", _device(figures)),
        ("digests", "  ".join(f"{name} {digest[:SHORT_DIGEST]}" for name, digest in digests if digest)),
    ]


def _device(figures: Figures) -> str:
    said = (figures.device, figures.attention, figures.exchange)
    device, attention, exchange = (text or numbers.UNKNOWN for text in said)
    return f"{device}   attention {attention}   exchange {exchange}"


def _attempts(run: RunView) -> Iterator[Renderable]:
    table = Columns("attempt", "slot", "started", "ended", "outcome", right=("attempt",), flexible="outcome")
    for attempt in run.attempts:
        ended = attempt.ended_at or numbers.UNKNOWN
        table.add(str(attempt.number), attempt.slot, attempt.started_at, ended, attempt.outcome or "running")
    yield table


def _runs(view: CandidateView) -> Renderable:
    table = Columns("run", "kind", "seed", "slot", "val_bpb", "steps", "memory", "status",
                    right=("seed", "val_bpb", "steps", "memory"), flexible="status")  # fmt: skip
    for run in view.runs:
        memory = run.figures.peak_memory_mb if run.figures else None
        table.add(
            run.run,
            run.kind,
            str(run.seed),
            run.slot or "",
            numbers.UNKNOWN if run.val_bpb is None else f"{run.val_bpb:.6f}",
            _whole(run.figures.steps if run.figures else None),
            numbers.UNKNOWN if memory is None else f"{memory:,.0f} MB",
            run.status or run.state,
        )
    return table


def _failures(view: CandidateView) -> Iterator[Renderable]:
    for run in view.runs:
        if run.reason:
            yield ""
            yield Text(f"{run.run} {run.status or run.state}", style="bold")
            yield indented(run.reason)


def _decisions(view: CandidateView) -> Iterator[Renderable]:
    if view.decisions:
        yield ""
        yield Text("decisions", style="bold")
        yield from (indented(decision.sentence) for decision in view.decisions)


def _diff(diff: str) -> Iterator[Renderable]:
    if diff:
        yield ""
        for line in diff.splitlines():
            yield verbatim(line, DIFF_STYLES.get(line[:1], ""))


def _effect(view: CandidateView) -> str:
    row = view.standing
    if row.effect_bpb is None:
        if view.made_from is None:
            return "it is the first baseline"
        return f"on {view.made_from}: {'none, it has no score' if row.status == 'failed' else 'not known yet'}"
    figures = numbers.effect(row.effect_bpb, row.effect_se_bpb)
    return f"{figures} on {view.made_from}, P(better) {numbers.probability(row.p_better)}"


def _upstream(run: RunView) -> str:
    return numbers.UNKNOWN if run.val_bpb_upstream is None else f"{run.val_bpb_upstream:.6f}"


def _whole(number: int | None) -> str:
    return numbers.UNKNOWN if number is None else f"{number:,}"
