"""The leaderboard as a table of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from scheduler.screens import numbers
from scheduler.screens.terminal import Columns, Renderable, state
from scheduler.views.leaderboard import Leaderboard, Row


def leaderboard_screen(board: Leaderboard, limit: int | None = None) -> Iterator[Renderable]:
    """`limit` rows at most, with a word about the rest."""
    yield _headline(board)
    yield ""
    if not board.candidates:
        yield "no candidate yet"
        return
    places = numbers.decimals(board.noise_sd_bpb)
    table = Columns(
        "#", "id", "name", "val_bpb", "n", "effect on its base", "P", "status",
        right=("#", "val_bpb", "n", "effect on its base", "P"), flexible="name",
    )  # fmt: skip
    for row in board.candidates[:limit]:
        table.add(*_cells(row, places))
    yield table
    hidden = len(board.candidates) - len(board.candidates[:limit])
    if hidden:
        yield f"and {hidden} more: --limit 0 shows all"
    yield ""
    yield "effect ± error on the baseline it was made from (negative is better), P that it"
    yield "is truly better. Decided against the baseline of the moment: arsched explain ID"


def _headline(board: Leaderboard) -> str:
    noise = f"noise sd {board.noise_sd_bpb:.5f} bpb" if board.noise_sd_bpb is not None else "noise unknown"
    repeats = numbers.count(board.noise_repeats, "repeat")
    return f"lab {board.tag}   contract {board.contract}   {noise} ({repeats})"


def _cells(row: Row, places: int) -> tuple[str | Text, ...]:
    return (
        "" if row.rank is None else str(row.rank),
        row.candidate,
        row.name,
        numbers.bpb(row.val_bpb, row.val_bpb_se, places),
        str(row.runs or numbers.UNKNOWN),
        numbers.effect(row.effect_bpb, row.effect_se_bpb, places) if row.base else "",
        numbers.probability(row.p_better) if row.base else "",
        state(f"{'▶' if row.is_baseline else ''}{row.detail}{'?' if row.suspect_runs else ''}", row.status),
    )
