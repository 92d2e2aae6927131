"""One frame of `arsched watch`: as many lines as the terminal has, none longer, the most important first.

Below SIDE_BY_SIDE columns everything is stacked; above, what goes on stands left and what came of it right.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from rich.cells import cell_len
from rich.text import Text

from scheduler.domain.text import count
from scheduler.lab import LiveSlot
from scheduler.policy.explain import describe_undecided
from scheduler.screens import text
from scheduler.screens.drawings import Axis, effect_axis, staircase, whisker_text
from scheduler.screens.terminal import STYLES, fit, row
from scheduler.views.candidates import Row
from scheduler.views.search import SearchView, claim_sentence
from scheduler.views.status import Status, Watch

SIDE_BY_SIDE = 136  # columns
LEAST_STAIRS, MOST_STAIRS = 6, 22  # lines
MOST_SLOTS_STACKED = 8
NAMED, LONGEST_NAMED = 6, 24  # cells for the name of a slot: `gpu0`, `node-with-a-name/gpu0`
WHISKER, LEAST_WHISKER = 19, 9  # cells
EFFECT, NAME, NAME_AND_MORE = 19, 14, 56  # cells: `−0.00132 ± 0.00109`; a name, at least; all columns but the whisker
DECISIONS = 3


def watch_frame(view: Watch, width: int, height: int) -> Text:
    """Text of at most `height` lines of at most `width` cells."""
    head = _head(view, width)
    room = max(4, height - len(head))
    body = _wide(view, width, room) if width >= SIDE_BY_SIDE else _stacked(view, width, room)
    lines = [*head, *body][:height]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n").join(lines)


def _stacked(view: Watch, width: int, room: int) -> list[Text]:
    slots = _slots(view.status, width, min(MOST_SLOTS_STACKED, max(2, room // 4)))
    queue, decisions = _queue(view.status, width), _decisions(view.status, width, DECISIONS)
    left = room - len(slots) - len(queue) - len(decisions)
    stairs = staircase(view.history, width, max(LEAST_STAIRS, min(MOST_STAIRS, left // 2)))
    board = _board(view, width, max(2, left - len(stairs)))
    return [*slots, *queue, *board, *stairs, *decisions]


def _wide(view: Watch, width: int, room: int) -> list[Text]:
    half = max(58, width * 2 // 5)
    right_width = width - half - 2
    queue = _queue(view.status, half)
    slots = _slots(view.status, half, max(2, room - len(queue) - LEAST_STAIRS))
    stairs = staircase(view.history, half, min(MOST_STAIRS, room - len(slots) - len(queue)))
    decisions = _decisions(view.status, right_width, 2 * DECISIONS)
    board = _board(view, right_width, room - len(decisions))
    left, right = [*slots, *queue, *stairs], [*board, *decisions]
    return [Text.assemble(fit(one, half), "  ", other) for one, other in zip_longest(left, right, fillvalue=Text())]


def _head(view: Watch, width: int) -> list[Text]:
    seen = view.status
    lab = Text.assemble((f"lab {seen.tag}", "bold"), f"  contract {seen.contract}  {_runner(seen)}")
    clock = Text(view.at[11:19] + "Z", style="dim")
    lines = [Text.assemble(fit(lab, max(0, width - 10)), " ", clock)]
    lines.append(_total(view))
    if seen.undecided_below_bpb is not None:
        lines.append(Text(describe_undecided(seen.undecided_below_bpb), style="yellow"))
    if seen.search is not None:
        lines.append(_budget(seen.search, seen.runner is not None or seen.search.state == "ended"))
    lines.append(Text(text.efficiency_text(seen.efficiency), style="dim"))
    return lines


def _runner(seen: Status) -> str:
    paused = "paused, " if seen.paused else ""
    if seen.runner is None:
        return f"{paused}no process runs the queue"
    return f"{paused}{'stopping' if seen.runner.stopping else 'running'}, process {seen.runner.pid}"


def _total(view: Watch) -> Text:
    """The claim, or the baseline: never a running total."""
    seen = view.status
    if seen.claim is not None:
        style = "bold green" if seen.claim.excludes_zero else "bold"
        return Text.assemble("claim ", (claim_sentence(seen.claim), style))
    if seen.baseline is None or not seen.baseline.runs:
        return Text("no baseline measured yet")
    baseline = text.baseline_text(seen.baseline, seen.noise_sd_bpb)
    return Text.assemble("baseline ", (baseline, "bold green"), "  no claim yet")


def _budget(search: SearchView, running: bool) -> Text:
    """`search 1 running  hours ████······ 3.2/8  runs ██········ 10/40`"""
    line = Text(f"search {search.number} {search.state if running else text.NOT_RUN}")
    for noun, amount, value, limit in text.totals(search):
        gauge = f"{text.bar(value / limit)} {amount}/{limit:g}" if limit else amount
        line.append(f"  {noun}s {gauge}")
    if search.reason:
        line.append(f"  {search.reason}", style="dim")
    return line


def _slots(seen: Status, width: int, most: int) -> list[Text]:
    if not seen.slots:
        return [Text("no slot is at work", style="dim")]
    busy_first = sorted(seen.slots, key=lambda slot: (not slot.run, slot.slot))
    shown = busy_first if len(busy_first) <= most else busy_first[: most - 1]
    with_node = text.on_several_nodes(seen.slots)
    said = [(slot, text.slot_text(slot, with_node=with_node)) for slot in sorted(shown, key=lambda slot: slot.slot)]
    longest = max(cell_len(one.where) for _, one in said)
    name = max(NAMED, min(LONGEST_NAMED, longest)) if with_node else NAMED
    lines = [_slot(slot, one, name, width) for slot, one in said]
    if len(shown) < len(seen.slots):
        busy = sum(bool(slot.run) for slot in seen.slots)
        lines.append(Text(f"… {busy} of {len(seen.slots)} slots busy", style="dim"))
    return lines


def _slot(slot: LiveSlot, said: text.SlotText, named: int, width: int) -> Text:
    """`named`: cells for its name."""
    name = fit(said.where, named, style="bold")
    if not slot.run:
        return row([name, Text(said.problem or "free", style="red" if said.problem else "dim")], width)
    kind = [fit(slot.kind, 8)] if width >= 76 else []
    taken = 50 + named + 9 * len(kind)
    cells = [name, fit(said.run, 5), *kind, fit(said.candidate, max(8, width - taken))]
    cells += [fit(said.phase, 8), fit(said.bar, text.BAR, style="cyan"), fit(said.time, 11, right=True)]
    return row([*cells, fit(f"loss {said.loss}" if said.loss else "", 10)], width)


def _queue(seen: Status, width: int) -> list[Text]:
    words = [f"{seen.queued_runs} queued", f"{seen.undecided_candidates} undecided", f"{seen.finished_runs} finished"]
    names = ", ".join(f"{one.candidate} {one.name} ({one.kind})" for one in seen.queued)
    lines = [row([Text(", ".join(words)), Text(names, style="dim")], width)]
    if seen.ideas:
        ideas = ", ".join(f"{one.proposer} {one.id} {text.seconds(one.age_s)}" for one in seen.ideas)
        lines.append(row([Text(f"{count(len(seen.ideas), 'idea')} being written:"), Text(ideas)], width))
    elif seen.note:
        lines.append(fit(seen.note, width))
    return lines


def _board(view: Watch, width: int, most: int) -> list[Text]:
    rows = [one for one in view.leaderboard.candidates if one.rank is not None]
    shown = _best(rows, most - 1)
    if not shown:
        return []
    places = text.decimals(view.leaderboard.noise_sd_bpb)
    effects = [(one.effect_bpb, one.effect_se_bpb or 0.0) for one in shown if one.effect_bpb is not None]
    axis, whisker = effect_axis(effects), min(WHISKER, width - NAME_AND_MORE - NAME)
    titles = ("#", "candidate", "val_bpb", "effect", "← better".ljust(whisker), "P", "state")
    return [_board_row(titles, width, "bold"), *(_candidate(one, axis, places, width, whisker) for one in shown)]


def _best(rows: Sequence[Row], most: int) -> list[Row]:
    """The first ones, and the baseline even where it is not among them."""
    if most < 1:
        return []
    behind = [one for one in rows[most:] if one.is_baseline]
    return [*rows[: most - len(behind)], *behind]


def _candidate(one: Row, axis: Axis, places: int, width: int, whisker: int) -> Text:
    known = one.effect_bpb is not None and whisker >= LEAST_WHISKER
    drawn = whisker_text(axis, one.effect_bpb or 0.0, one.effect_se_bpb or 0.0, whisker) if known else " " * whisker
    effect = text.effect(one.effect_bpb, one.effect_se_bpb, places) if one.base else ""
    mark = "▶" if one.is_baseline else " "
    score = text.bpb(one.val_bpb, None, places)
    cells = (str(one.rank), f"{mark}{one.candidate} {one.name}", score, effect, drawn)
    return _board_row((*cells, text.probability(one.p_better) if one.base else "", one.detail), width, "", one.status)


def _board_row(cells: Sequence[str], width: int, style: str, status: str = "") -> Text:
    """What has no room is left out, the drawing first. `cells[4]` is the drawing, as wide as it may be."""
    rank, name, score, effect, drawn, p, state = cells
    parts = [
        fit(score, 7, right=True, style=style),
        fit(effect, EFFECT, right=True, style=style) if width >= 54 else None,
        fit(drawn, len(drawn), style=style) if len(drawn) >= LEAST_WHISKER else None,
        fit(p, 4, right=True, style=style) if width >= 60 else None,
        fit(state, 11, style=STYLES.get(status, style)),
    ]
    tail = [part for part in parts if part is not None]
    room = width - 3 - sum(part.cell_len + 1 for part in tail) - 1
    return row([fit(rank, 3, right=True, style=style), fit(name, max(8, room), style=style), *tail], width)


def _decisions(seen: Status, width: int, most: int) -> list[Text]:
    return [fit(" ".join(sentence.split()), width, style="dim") for sentence in seen.recent_decisions[-most:]]
