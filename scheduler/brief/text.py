"""The brief as text: at most MOST_LINES lines of Markdown, the same for the same facts.

Sections have shares of the page; what does not fit is counted, never dropped in silence. Words of candidates, agents
and logs are quoted on one line of their own making: they cannot pose as the brief's.
"""

from __future__ import annotations

from collections.abc import Callable

from scheduler.brief.facts import BriefFacts
from scheduler.brief.lab import about_baseline, about_contract, about_lineage, about_noise
from scheduler.brief.quoting import shorten
from scheduler.brief.tried import about_dead_ends, about_merges, about_near_misses, about_now, about_refused
from scheduler.policy.themes import suggested_theme

MOST_LINES, LONGEST_LINE = 150, 160
Section = Callable[[BriefFacts], list[str]]


def write_brief(facts: BriefFacts, ask_number: int = 0) -> str:
    """`ask_number` picks the theme that is suggested. Ends with a newline."""
    above: tuple[Section, ...] = (about_contract, about_noise, about_baseline, about_lineage, about_near_misses)
    below: tuple[Section, ...] = (about_now, about_merges, about_refused)
    head = [*_task(ask_number), *_titled(facts, above)]
    tail = _titled(facts, below)
    room = MOST_LINES - len(head) - len(tail) - 3
    lines = [*head, "", "## Dead ends, by theme", *about_dead_ends(facts, room), *tail]
    return "\n".join(shorten(line, LONGEST_LINE) for line in lines[:MOST_LINES]) + "\n"


def _task(ask_number: int) -> list[str]:
    return [
        "# One idea, please",
        "",
        "Change `train.py` in this folder, once, so that `val_bpb` (validation bits per byte, lower is better) falls.",
        "- Touch no other file: an idea that does is refused. NOTES.md (this page) and IDEA.json are no change.",
        "- Do not train here, do not submit, do not wait: the lab runs, judges and repeats what you leave behind.",
        '- Leave IDEA.json: {"title": …, "hypothesis": why it should help, "theme": …, "parents": [candidate ids]}.',
        "- One idea, as few lines as it takes; then end with exit code 0. Fewer lines at the same score win, too.",
        "- No idea worth a run? Leave train.py as it is and end: that costs nothing.",
        f"- Suggested theme, so that you and others differ: **{suggested_theme(ask_number)}**. A better idea beats it.",
    ]


def _titled(facts: BriefFacts, sections: tuple[Section, ...]) -> list[str]:
    lines: list[str] = []
    for section in sections:
        said = section(facts)
        if said:
            title = (section.__doc__ or "").partition(".")[0]
            lines += ["", f"## {title}", *said]
    return lines
