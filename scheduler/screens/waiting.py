"""What is waited for, in lines."""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.queue.waiting import Wait
from scheduler.screens import numbers

SHOWN = 3


def waiting_line(now: Wait) -> str:
    """What is still missing, on one line."""
    missing = [one for one in now.awaited if not one.over]
    named = ", ".join(f"{one.subject} {numbers.cut(one.name, 24)}" for one in missing[:SHOWN])
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    return f"waiting for {named}{more}"


def wait_lines(ended: Wait) -> Iterator[str]:
    """One line each for what was waited for."""
    for one in ended.awaited:
        score = "" if one.val_bpb is None else f"  val_bpb {one.val_bpb:.4f}"
        pending = "" if one.over else "  (not over)"
        yield f"{one.subject}  {one.name}  {one.status}{score}{pending}"
