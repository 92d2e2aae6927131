"""One run or one candidate, whole: figures, phases, attempts, decisions, diff; and why it is where it is."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from scheduler.domain.decision import Combine
from scheduler.domain.run import Measurements
from scheduler.domain.text import candidates_words, count, flat, one_line, signed
from scheduler.screens import text
from scheduler.screens.terminal import Columns, Renderable, indented, pairs, state, verbatim
from scheduler.views import utc
from scheduler.views.audit import AuditSide, AuditView
from scheduler.views.calibration import CalibratedSlot, CalibrationView
from scheduler.views.candidate import CandidateView, Explanation, compared_with, effect_in
from scheduler.views.candidates import describe_merge
from scheduler.views.facts import describe_noise, noise_parts
from scheduler.views.runs import RunView, describe_losses

SHORT_DIGEST = 12
DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def run_screen(run: RunView) -> Iterator[Renderable]:
    rows: list[tuple[str, Text | str]] = [
        ("run", f"{run.run}   {run.kind} run of {run.candidate} {run.name}   seed {run.seed}"),
        ("state", f"{run.state} since {run.since}" + (f" on {run.slot}" if run.slot else "")),
        *_lab_sandbox(run.sandbox),
    ]
    if run.val_bpb is not None:
        upstream = text.UNKNOWN if run.val_bpb_upstream is None else f"{run.val_bpb_upstream:.6f}"
        rows.append(("val_bpb", f"{run.val_bpb:.6f}   (with upstream's byte counts: {upstream})"))
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
    score = f"{text.bpb(row.val_bpb, row.val_bpb_se)} ({count(row.runs, 'run')})" if row.runs else "none"
    yield pairs(
        [
            ("candidate", f"{row.candidate} {row.name}"),
            ("title", candidates_words(row.title) if row.title else text.UNKNOWN),
            ("state", state(row.detail if row.status in row.detail else f"{row.status} ({row.detail})", row.status)),
            ("val_bpb", score),
            ("effect", _effect(view)),
            *_lab_sandbox(view.sandbox),
            *_merging(view),
            *_idea(view),
            ("author", view.author or text.UNKNOWN),
            ("commit", view.commit),
            ("train.py", f"sha256 {view.train_sha256[:SHORT_DIGEST]}   meaning {view.fingerprint[:SHORT_DIGEST]}"),
            ("source", f"{view.compressed_bytes:,} bytes compressed"),
            *(("", note) for note in view.source_notes),
            ("submitted", view.submitted_at),
        ]
    )
    yield ""
    yield _runs(view)
    yield from _machines(view)
    yield from _failures(view)
    yield from _decisions(view)
    yield from _diff(view.diff)


def _lab_sandbox(level: str) -> list[tuple[str, Text | str]]:
    return [] if level == "full" else [("lab", f"sandbox: {level}")]


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
        yield "hypothesis", candidates_words(view.hypothesis)


def _figures(figures: Measurements) -> list[tuple[str, Text | str]]:
    phases = "  ".join(f"{one_line(name)} {text.seconds(value)}" for name, value in figures.phases_s)
    phases += f"   (compile cache {figures.compile_cache})" if figures.compile_cache else ""
    speed = f", {figures.tokens_per_s:,.0f} tokens/s" if figures.tokens_per_s else ""
    speed += f", MFU {figures.mfu:.1%}" if figures.mfu is not None else ""
    last = f", last loss {figures.last_loss:.4f}" if figures.last_loss is not None else ""
    before = f", {describe_losses(figures.loss_at)}" if figures.loss_at else ""
    done = f"{text.whole(figures.steps)} steps, {text.whole(figures.tokens)} tokens"
    memory = text.UNKNOWN if figures.peak_memory_mb is None else f"{figures.peak_memory_mb:,.0f} MB"
    names = (figures.device, figures.attention, figures.exchange, figures.sandbox, figures.containment)
    device, attention, exchange, sandbox, containment = (one_line(word or text.UNKNOWN) for word in names)
    digests = (
        ("contract", figures.contract_digest),
        ("cache", figures.cache_digest),
        ("train.py", figures.train_sha256),
    )
    return [
        ("phases", phases or text.UNKNOWN),
        ("time", f"{text.seconds(figures.wall_s)} in all, {text.seconds(figures.budget_used_s)} of the budget"),
        ("training", f"{done}{speed}{before}{last}   (as train.py says)"),
        ("memory", f"{memory} at the peak"),
        ("device", f"{device}   attention {attention}   exchange {exchange}"),
        *_machine(figures),
        ("sandbox", f"{sandbox}   containment {containment}"),
        ("digests", "  ".join(f"{name} {digest[:SHORT_DIGEST]}" for name, digest in digests if digest)),
    ]


def _machine(figures: Measurements) -> Iterator[tuple[str, Text | str]]:
    if said := text.machine_text(figures.machine):
        yield "machine", said


def _attempts(run: RunView) -> Iterator[Renderable]:
    table = Columns("attempt", "slot", "started", "ended", "outcome", right=("attempt",), flexible="outcome",
                    drop=("ended", "started"))  # fmt: skip
    for attempt in run.attempts:
        ended = text.UNKNOWN if attempt.ended_at is None else utc(attempt.ended_at)
        outcome = one_line(attempt.outcome) or "running"
        table.add(str(attempt.number), attempt.slot_id, utc(attempt.started_at), ended, outcome)
    yield table


def _runs(view: CandidateView) -> Renderable:
    table = Columns("run", "kind", "seed", "slot", "val_bpb", "steps", "memory", "status",
                    right=("seed", "val_bpb", "steps", "memory"), flexible="status",
                    drop=("memory", "seed", "steps", "kind", "slot"))  # fmt: skip
    for run in view.runs:
        memory = run.figures.peak_memory_mb if run.figures else None
        table.add(
            run.run,
            run.kind,
            str(run.seed),
            run.slot or "",
            text.UNKNOWN if run.val_bpb is None else f"{run.val_bpb:.6f}",
            text.whole(run.figures.steps if run.figures else None),
            text.UNKNOWN if memory is None else f"{memory:,.0f} MB",
            run.status or run.state,
        )
    return table


def _machines(view: CandidateView) -> Iterator[Renderable]:
    """One line for each run of which the machine is known."""
    said = {run.run: text.machine_text(run.figures.machine) for run in view.runs if run.figures}
    if any(said.values()):
        yield ""
        yield Text("machine", style="bold")
        yield from (indented(f"{run}  {words}") for run, words in said.items() if words)


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
        yield from (indented(flat(record.sentence)) for record in view.decisions)


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
    figures = text.effect(row.effect_bpb, row.effect_se_bpb)
    return f"{figures} on {view.made_from}, P(better) {text.probability(row.p_better)}"


def audit_screen(view: AuditView) -> Iterator[Renderable]:
    table = Columns("", "first", "audit", flexible="audit")
    for name, first, again in zip(_AUDITED, _audited(view.first), _audited(view.again), strict=True):
        table.add(name, first, again)
    for probe in sorted({*view.first.probes, *view.again.probes}):
        table.add(f"probe {probe}", *(side.probes.get(probe, text.UNKNOWN) for side in (view.first, view.again)))
    yield Text.assemble((view.candidate, "bold"), f" {view.name}")
    yield table
    yield ""
    word = ("consistent", "green") if view.consistent else ("not consistent", "red")
    diff = "" if view.diff_bpb is None else f"  difference {signed(view.diff_bpb, 6)} bpb"
    yield Text.assemble(word, f"{diff}  {view.sentence}")


_AUDITED = ("run", "seed", "slot", "status", "val_bpb", "holdout bpb", "sandbox", "steps")


def _audited(side: AuditSide) -> tuple[str, ...]:
    scores = (text.UNKNOWN if bpb is None else f"{bpb:.6f}" for bpb in (side.val_bpb, side.holdout_bpb))
    steps = text.whole(side.steps)
    return (
        f"{side.run} {side.kind}",
        str(side.seed),
        side.slot,
        side.status,
        *scores,
        side.sandbox or text.UNKNOWN,
        steps,
    )


def calibration_screen(view: CalibrationView) -> Iterator[Renderable]:
    seeds = ", ".join(map(str, view.seeds)) or "none yet"
    yield f"lab {view.tag}   {view.candidate} {view.name} on every slot, seeds {seeds}"
    if view.slots:
        numbers = ("n", "val_bpb", "offset ± error", "steps", "tokens/s", "speed")
        optional = ("speed", "tokens/s", "device", "steps", "n", "val_bpb")
        table = Columns("slot", "device", *numbers, "", right=numbers, flexible="device", drop=optional)
        for slot in view.slots:
            table.add(*_calibrated(slot))
        yield table
    yield ""
    if view.failed:
        yield f"{count(view.failed, 'run')} without a score of this pool left out"
    yield view.sentence


def _calibrated(slot: CalibratedSlot) -> tuple[str | Text, ...]:
    differs = Text("differs", "yellow") if slot.differs else ""
    offset = text.effect(slot.offset_bpb, slot.error_bpb, 5)
    rates = (None if rate is None else round(rate) for rate in (slot.steps, slot.tokens_per_s))
    speed = text.UNKNOWN if slot.speed is None else f"{slot.speed:.3f}"
    figures = (str(slot.runs), text.bpb(slot.val_bpb, places=5), offset, *map(text.whole, rates), speed)
    return slot.slot, slot.device, *figures, differs


def explanation_screen(about: Explanation) -> Iterator[Renderable]:
    subject = about.subject if about.subject == about.candidate else f"{about.subject}, a run of {about.candidate}"
    yield Text.assemble((subject, "bold"), f" {about.name}: ", state(about.status, about.status))
    yield indented(about.answer)
    if about.note:
        yield indented(about.note)
    if about.decisions:
        yield ""
        yield Text("decisions, with the numbers they were taken from", style="bold")
        for record in about.decisions:
            yield indented(flat(record.sentence))
            if isinstance(record.decision, Combine):
                yield indented(f"  parts {', '.join(record.decision.parts)}, {utc(record.decided_at)}")
            if effect_in(record.decision) is not None:
                base, noise = compared_with(record).candidate_id, noise_parts(record.noise)
                noise_words = describe_noise(record.noise.sigma, noise)
                yield indented(f"  against {base}, noise {noise_words}, {utc(record.decided_at)}")
    if about.waiting:
        yield ""
        yield Text("not over yet", style="bold")
        yield from (indented(f"{waiting.run} {waiting.sentence}") for waiting in about.waiting)
    yield ""
    yield Text(about.rule, style="dim")
