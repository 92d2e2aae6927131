"""summary.md of gpu_quarter.py: what was measured next to what an H100 should show, and a mark where they differ.

The expected ranges are estimates for one H100 with Flash Attention 2 or FlexAttention; they are for looking twice, not
for passing. Pure: answers in, Markdown out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Values = dict[str, Any]
Read = Callable[["Answers"], Any]


class Answers:
    """The last values under each stage and answer; a stage's last failure counts as its answer `failed`."""

    def __init__(self, lines: Sequence[Values]) -> None:
        self._values: dict[tuple[str, str], Values] = {}
        for line in lines:
            self._values[line["stage"], line.get("answer", "failed")] = line["values"]

    def get(self, stage: str, answer: str, *keys: str) -> Any:
        """The value under the keys; None where any of them is unknown."""
        value: Any = self._values.get((stage, answer))
        if value is None and answer == "run":  # a judged run that did not score still shows figures
            value = self._values.get((stage, "failed"))
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `expected` is a word, a (low, high) range, or None where nothing is known beforehand."""

    question: str
    read: Read
    expected: str | tuple[float, float] | None = None
    digits: int = 0

    def line(self, answers: Answers, *, compare: bool) -> str:
        value = self.read(answers)
        cells = [self.question, self._shown(self.expected), self._shown(value)]
        return f"| {' | '.join(cells)} | {'**look**' if compare and self._differs(value) else ''} |"

    def _differs(self, value: Any) -> bool:
        if value is None or self.expected is None:
            return False
        if isinstance(self.expected, str):
            return bool(value != self.expected)
        return not self.expected[0] <= value <= self.expected[1]

    def _shown(self, value: Any) -> str:
        if isinstance(value, tuple):
            return " to ".join(self._shown(end) for end in value)
        return "" if value is None else f"{value:,.{self.digits}f}" if isinstance(value, int | float) else str(value)


def _at(stage: str, answer: str, *keys: str) -> Read:
    return lambda answers: answers.get(stage, answer, *keys)


def _ratio(key: str) -> Read:
    def read(answers: Answers) -> float | None:
        ours, upstream = (answers.get(stage, "run", key) for stage in ("ours", "upstream"))
        return ours / upstream if ours and upstream else None

    return read


def _not_passed(answers: Answers) -> int | None:
    failed, error = (answers.get("tests", "pytest", kind) for kind in ("failed", "error"))
    return None if failed is None else failed + error


def _around_the_budget(answers: Answers) -> float | None:
    """Wall seconds of `ours` that are neither compilation nor training nor evaluation."""
    phases, wall_s = answers.get("ours", "run", "phases_s"), answers.get("ours", "run", "wall_s")
    if not phases or not wall_s:
        return None
    return float(wall_s - sum(phases.get(name) or 0.0 for name in ("compile", "train", "evaluate")))


def _same_attention(answers: Answers) -> str | None:
    ours, upstream = (answers.get(stage, "run", "attention") for stage in ("ours", "upstream"))
    return None if ours is None or upstream is None else "yes" if ours == upstream else f"no: {ours}, {upstream}"


ROWS = (
    Row("smoke: status", _at("smoke", "run", "status"), "ok"),
    Row("smoke: attention", _at("smoke", "run", "attention")),
    Row("smoke: exchange of logits", _at("smoke", "run", "exchange"), "cuda-ipc"),
    Row("smoke: containment", _at("smoke", "run", "containment"), "namespace"),
    Row("smoke: compilation from nothing, s", _at("smoke", "run", "phases_s", "compile"), (20, 60), 1),
    Row("smoke: peak memory, MiB", _at("smoke", "run", "peak_memory_mb"), (44_500, 45_500)),
    Row("tests: passed", _at("tests", "pytest", "passed")),
    Row("tests: failed or in error", _not_passed, (0, 0)),
    Row("ours: status", _at("ours", "run", "status"), "ok"),
    Row("ours: rows", _at("ours", "run", "rows"), "python sources"),
    Row("ours: val_bpb", _at("ours", "run", "val_bpb"), None, 4),
    Row("ours: steps", _at("ours", "run", "steps")),
    Row("ours: step, ms", _at("ours", "run", "step_ms"), (290, 350)),
    Row("ours: step, 90th percentile, ms", _at("ours", "run", "step_ms_p90")),
    Row("ours: tokens/s", _at("ours", "run", "tokens_per_s"), (1_450_000, 1_700_000)),
    Row("ours: MFU, %", _at("ours", "run", "mfu_percent"), (35, 41), 1),
    Row("ours: peak memory, MiB", _at("ours", "run", "peak_memory_mb"), (44_500, 45_500)),
    Row("ours: compile caches", _at("ours", "run", "compile_caches")),
    Row("ours: compilation, s", _at("ours", "run", "phases_s", "compile"), (4, 15), 1),
    Row("ours: outside compiling, training, evaluating, s", _around_the_budget, (0, 8), 1),
    Row("upstream: status", _at("upstream", "run", "status"), "ok"),
    Row("upstream: val_bpb", _at("upstream", "run", "val_bpb"), None, 4),
    Row("upstream: step, ms", _at("upstream", "run", "step_ms"), (290, 350)),
    Row("upstream: same attention as ours", _same_attention, "yes"),
    Row("ours / upstream, time of a step", _ratio("step_ms"), (0.97, 1.03), 3),
    Row("ours / upstream, tokens (upstream has 11 untimed steps)", _ratio("tokens"), None, 3),
    Row("evaluation of 10,240 rows: exchange", _at("evalcost", "best", "exchange")),
    Row("evaluation of 10,240 rows, s", _at("evalcost", "best", "evaluation_s"), (8, 15), 1),
    Row("flex: step, ms", _at("probes", "flex", "step_ms"), (290, 350)),
    Row("fa2: step, ms", _at("probes", "fa2", "step_ms"), (290, 350)),
    Row("fa3: step, ms", _at("probes", "fa3", "step_ms")),
    Row("flex: first step, cold, s", _at("probes", "flex", "first_step_s"), (20, 60), 1),
    Row("flex: first step, warm cache, s", _at("probes", "flex, warm", "first_step_s"), (4, 15), 1),
    Row("loader: tokens/s", _at("probes", "loader", "tokens_per_s")),
)


def summary(lines: Sequence[Values], note: str) -> str:
    """The table over everything answered so far, then what failed. With a note nothing is compared."""
    answers = Answers(lines)
    machine = answers.get("env", "machine") or {}
    card = machine.get("gpu") or "no GPU"
    compare = not note and "H100" in card
    text = ["# A quarter of an hour on a GPU", "", *([f"**{note}**", ""] if note else [])]
    text += [f"{card}, torch {machine.get('torch', 'unknown')}, Python {machine.get('python', 'unknown')}.", ""]
    if not note and not compare:
        text += ["The expected ranges are for an H100: nothing is marked on another card.", ""]
    text += ["| question | expected | measured | |", "|---|---|---|---|"]
    text += [row.line(answers, compare=compare) for row in ROWS]
    slower = [line for line in lines if line["stage"] == "evalcost" and line.get("answer") not in (None, "best")]
    text += [
        Row(f"evaluation of 10,240 rows by {line['answer']}, s", lambda _, v=line: v["values"]["evaluation_s"]).line(
            answers, compare=False
        )
        for line in slower
    ]
    failures = [f"- {line['stage']}: {line['error']}" for line in lines if "error" in line]
    return "\n".join([*text, "", *(["What has no answer:", "", *failures, ""] if failures else [])])
