"""What the judge can say of a run, and how an exit without a score is read.

Covers: the verdict type, the exit code of each kind of verdict, telling a crash from memory running out.
Not covered: when a verdict falls (harness.judge.watch).
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

_OUT_OF_MEMORY = re.compile(
    r"^(?:\w+\.)*(?:OutOfMemoryError|MemoryError)\b|CUDA out of memory|can't allocate memory|std::bad_alloc"
    r"|Cannot allocate memory",
    re.MULTILINE,
)
_EXIT_OK, _EXIT_INFRA, _EXIT_OTHER = 0, 1, 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """status: one of the result file's statuses; reason: a sentence for a person, or empty."""

    status: str
    reason: str = ""

    @property
    def scored(self) -> bool:
        return self.status == "ok" or self.status.startswith("suspect: ")

    @property
    def exit_code(self) -> int:
        if self.scored:
            return _EXIT_OK
        return _EXIT_INFRA if self.status.startswith("infra: ") else _EXIT_OTHER


def of_exit(exit_code: int, log_tail: str, *, kernel_killed_for_memory: bool) -> Verdict:
    """The verdict about a candidate that ended before it was scored; exit_code is negative for a signal."""
    said = last_lines(log_tail)
    if exit_code == 0:
        return Verdict("no-eval", "train.py ended without calling evaluate_bpb")
    if exit_code == -signal.SIGKILL and kernel_killed_for_memory:
        return Verdict("oom", "the kernel killed train.py for its memory")
    ended = f"exit code {exit_code}" if exit_code > 0 else f"killed by {_signal_name(-exit_code)}"
    if _OUT_OF_MEMORY.search(log_tail):
        return Verdict("oom", f"train.py ran out of memory ({ended}): {said}")
    return Verdict("crash", f"train.py crashed ({ended}): {said}" if said else f"train.py crashed ({ended})")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def after_settling(verdict: Verdict, fault: str) -> Verdict:
    """The verdict once the output folder is the judge's again; `fault` says what had become of it, or is empty.

    No honest train.py knows that folder, so its candidate answers for it. What was the lab's fault anyway stays so.
    """
    if not fault or verdict.exit_code == _EXIT_INFRA:
        return verdict
    return Verdict("invalid: output", fault)


def last_lines(text: str, lines: int = 3, characters: int = 400) -> str:
    """The last non-empty lines of a log on one line, without control characters: safe to print, short to read."""
    clean = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    kept = [line.strip() for line in re.split(r"[\r\n]+", clean) if line.strip()][-lines:]
    joined = " | ".join("".join(c if c.isprintable() else "?" for c in line) for line in kept)
    return joined if len(joined) <= characters else "…" + joined[1 - characters :]
