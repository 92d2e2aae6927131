"""An explanation: the answer first, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from scheduler.screens.terminal import Renderable, indented, state
from scheduler.views.explanation import Explanation


def explanation_screen(about: Explanation) -> Iterator[Renderable]:
    subject = about.subject if about.subject == about.candidate else f"{about.subject}, a run of {about.candidate}"
    yield Text.assemble((subject, "bold"), f" {about.name}: ", state(about.status, about.status))
    yield indented(about.answer)
    if about.note:
        yield indented(about.note)
    if about.decisions:
        yield ""
        yield Text("decisions, with the numbers of their moment", style="bold")
        for decision in about.decisions:
            yield indented(f"{decision.sentence}")
            if decision.parts:
                yield indented(f"  parts {', '.join(decision.parts)}, {decision.decided_at}")
            if decision.effect_bpb is not None:
                yield indented(
                    f"  against {decision.base}, noise sd {decision.noise_sd_bpb:.5f}, {decision.decided_at}"
                )
    if about.waiting:
        yield ""
        yield Text("not over yet", style="bold")
        yield from (indented(f"{waiting.run} {waiting.sentence}") for waiting in about.waiting)
    yield ""
    yield Text(about.rule, style="dim")
