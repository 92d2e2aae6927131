"""The HTML report: everything that happened is on it, nothing a candidate said is more than text, and it stands alone.

The page is parsed, not matched: a tag that is not closed, or one that came out of a title, is seen.
"""

from __future__ import annotations

import base64
import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.domain.run import MachineReadings
from scheduler.domain.search import ProposalFailure
from scheduler.lab import LabPaths, Workspace
from scheduler.report.page import render_page, write_report
from scheduler.report.plots import render_progress
from scheduler.report.timeline import paces_of, render_timeline
from scheduler.screens.drawings import effect_axis, value_axis
from scheduler.views.candidates import history
from scheduler.views.report import read_report
from tests.scheduler.searched_lab import EVIL, SearchedLab, long_lab, searched_lab
from tests.scheduler.view_kit import demo_lab

PNG = b"\x89PNG\r\n\x1a\nnot really"
VOID = {"meta", "img", "br", "line", "circle", "link", "input"}


class Page(HTMLParser):
    """What a browser would make of it: tags as a stack, text by the section it is in, everything an attribute says."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.section = ""
        self.text: dict[str, str] = {}
        self.ids: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "section":
            self.section = dict(attrs).get("id") or "facts"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text[self.section] = self.text.get(self.section, "") + " ".join(data.split()) + " "


def page_of(played: SearchedLab) -> Page:
    return Page(render_page(read_report(played.facts()), PNG, PNG))


@pytest.fixture
def played(tmp_path: Path) -> Iterator[SearchedLab]:
    played = searched_lab(tmp_path / "ledger.db")
    yield played
    played.ledger.close()


def test_the_claim_is_the_headline_and_the_only_total(played: SearchedLab) -> None:
    html = render_page(read_report(played.facts()), PNG, PNG)
    assert "1.9530 → 1.8835, −0.0695 ± 0.0031 (2 + 2 runs)" in Page(html).text[""]
    assert "excludes zero" in html and "over-claims" not in html
    assert "1.9530 → 1.8840" not in html


def test_the_claims_dots_stand_on_an_axis_with_figures(played: SearchedLab) -> None:
    shown = Page(render_page(read_report(played.facts()), PNG, PNG)).text[""]
    ends = re.search(r"(1\.\d+)\s+val_bpb\s+(1\.\d+)", shown)
    assert ends
    claim = read_report(played.facts()).summary.claim
    assert claim is not None
    scores = [*claim.first_scores, *claim.final_scores]
    assert float(ends[1]) <= min(scores) <= max(scores) <= float(ends[2])


def test_on_a_narrow_screen_every_figure_says_what_it_is(played: SearchedLab) -> None:
    """There the heads of tables are not shown."""
    html = render_page(read_report(played.facts()), PNG, PNG)
    tables = [table for table in re.findall(r"<table>.*?</table>", html, re.S) if "<th>" in table]
    assert len(tables) >= 5
    for table in tables:
        heads = re.findall(r"<th>(.*?)</th>", table)
        for row in re.findall(r"<tr.*?</tr>", table, re.S):
            cells = re.findall(r"<td([^>]*)>", row)
            for head, attributes in zip(heads, cells, strict=False):
                if 'class="num' in attributes and head != "#":
                    assert f'data-head="{head}"' in attributes, (head, row[:200])


def test_without_a_claim_it_says_so(tmp_path: Path) -> None:
    page = page_of(searched_lab(tmp_path / "ledger.db", ended=False))
    assert "No claim yet" in page.text[""] and "over-claims" in page.text[""]
    fresh = SearchedLab(tmp_path / "new.db")
    fresh.begin()
    assert "Nothing was promoted" in page_of(fresh).text[""]


def test_a_claim_of_an_earlier_baseline_is_called_that(played: SearchedLab) -> None:
    played.idea("by-hand")
    played.until_idle()
    played.promote(played.ledger.candidates.get("by-hand", played.tag).id)
    assert "moved since" in page_of(played).text[""]


def test_everything_that_happened_is_on_it(played: SearchedLab) -> None:
    page = page_of(played)
    ids = [candidate.id for candidate in played.facts().candidates]
    assert all(ref in page.text["candidates"] and ref in page.ids for ref in ids)
    assert all(ref in page.text["lineage"] for ref in ("c0001", "c0002", "c0005"))
    assert "expect about" in page.text["lineage"] and "-NAME = 'wider'" in page.text["lineage"]
    assert "−0.0172" in page.text["unions"] and "it conflicts" in page.text["unions"]
    assert "c0006" in page.text["shelf"] and "c0007" not in page.text["shelf"]
    assert "schedule: 2 tried" in page.text["dead-ends"] and "c0007" in page.text["dead-ends"]
    assert "someone needs the machine" in page.text["events"]
    assert "12" in page.text["proposers"] and "tpe" in page.text["proposers"]
    assert "slot-hours" in page.text["slots"] and "laptop/cpu1" in page.text["slots"]


def test_every_failed_ask_is_on_it_with_its_reason(played: SearchedLab) -> None:
    said = page_of(played).text["failures"]
    assert all(f"{trouble} for a reason" in said for trouble in ProposalFailure)
    assert "c0008" in said and "the same program as c0007" in said
    assert "it left 1 process behind" in said


def test_what_candidates_say_is_text(played: SearchedLab) -> None:
    page = page_of(played)
    assert "<script>alert('x')</script>" in page.text["candidates"] and "{{ 7 * 7 }}" in page.text["candidates"]
    assert page.tags.isdisjoint({"script", "b onerror", "iframe", "object", "form", "embed", "a href"})
    assert not any(name.startswith("on") for name, _ in page.attributes)
    html = render_page(read_report(played.facts()), PNG, PNG)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", html)


def test_it_needs_no_other_file(played: SearchedLab) -> None:
    for name, value in page_of(played).attributes:
        if name in ("src", "href", "srcset", "action", "data"):
            assert value.startswith(("data:image/png;base64,", "#")), (name, value[:80])
    html = render_page(read_report(played.facts()), PNG, PNG)
    assert base64.b64encode(PNG).decode() in html and "url(" not in html and "@import" not in html


def test_every_link_leads_somewhere(played: SearchedLab) -> None:
    page = page_of(played)
    links = {value[1:] for name, value in page.attributes if name == "href"}
    assert links <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_the_same_ledger_gives_the_same_page(played: SearchedLab) -> None:
    first = render_page(read_report(played.facts()), PNG, PNG)
    played.clock.now += 1e6
    assert render_page(read_report(played.facts()), PNG, PNG) == first


def test_all_files_are_written_whole_and_alike(played: SearchedLab, tmp_path: Path) -> None:
    space = Workspace(None, LabPaths(tmp_path), played.ledger, played.ledger.labs.get(played.tag))  # type: ignore[arg-type]
    folders = (tmp_path / "one", tmp_path / "two")
    for folder in folders:
        write_report(space, folder)
    names = {"index.html", "progress.png", "timeline.png", "results.tsv"}
    assert {entry.name for entry in folders[0].iterdir()} == names
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names)


def test_the_pace_of_the_machine_is_drawn_below_the_slots_where_it_was_measured(played: SearchedLab) -> None:
    drawn = read_report(played.facts()).timeline
    assert (
        not drawn.is_measured
        and paces_of(drawn) == []
        and "the pace of the machine" not in page_of(played).text["slots"]
    )
    cpu = MachineReadings(speed=0.9, speed_low=0.7, throttled=("heat",))
    gpus = [MachineReadings(gpu=(("sm_mhz", mhz, mhz - 100.0, mhz + 90.0),)) for mhz in (1890.0, 990.0)]
    odd = MachineReadings(gpu=(("sm_mhz", math.nan, 0.0, 0.0), ("power_w", 1.0, 1.0, 1.0)))
    slot = drawn.bars[0].slot
    mine = [number for number, bar in enumerate(drawn.bars) if bar.slot == slot][:4]
    bars = list(drawn.bars)
    for number, machine in zip(mine, (cpu, *gpus, odd), strict=True):
        bars[number] = replace(bars[number], machine=machine)
    measured = replace(drawn, bars=tuple(bars))
    found = [(pace.mean, pace.low, pace.high, pace.throttled) for _, pace in paces_of(measured)]
    assert found == [
        (0.9, 0.7, 0.9, True),
        (pytest.approx(1890 / 1980), pytest.approx(1790 / 1980), 1.0, False),
        (0.5, pytest.approx(890 / 1980), pytest.approx(1080 / 1980), False),
    ]
    before, after = (png_height(render_timeline(one, "cpu")) for one in (drawn, measured))
    assert after > before
    view = replace(read_report(played.facts()), timeline=measured)
    assert "the pace of the machine" in Page(render_page(view, PNG, PNG)).text["slots"]


def png_height(picture: bytes) -> int:
    return int.from_bytes(picture[20:24], "big")


def test_labs_with_next_to_nothing(tmp_path: Path) -> None:
    empty = SearchedLab(tmp_path / "empty.db")
    assert "No baseline yet" in page_of(empty).text["lineage"]
    assert "By hand" not in page_of(demo_lab(tmp_path / "demo.db")).text["candidates"]  # type: ignore[arg-type]


def test_endless_words_are_cut(played: SearchedLab) -> None:
    facts = played.facts()
    long = tuple(
        replace(one, title="字" * 200_000, hypothesis="x" * 200_000, theme="y" * 9999) for one in facts.candidates
    )
    facts.candidates = long
    view = read_report(facts)
    assert len(render_page(view, PNG, PNG)) < 200_000


def test_a_long_search_is_quick_and_small(tmp_path: Path) -> None:
    lab = long_lab(tmp_path / "ledger.db", candidates=700)
    began = time.process_time()
    facts = lab.facts()
    view = read_report(facts)
    pictures = render_progress(history(facts)), render_timeline(view.timeline, "cpu")
    html = render_page(view, *pictures)
    assert time.process_time() - began < 10
    assert len(html.encode()) < 5_000_000
    assert len(view.timeline.bars) == facts.count_runs("finished") >= 700
    Page(html)


def test_drawings_stay_on_their_axis() -> None:
    axis = effect_axis([(-0.02, 0.005), (-0.001, 0.005), (0.004, 0.005), (0.7, 0.005)])
    assert 0 < axis.zero < 100 and axis.whisker(0.7, 0.005).cut == ">"
    kept = axis.whisker(-0.02, 0.005)
    assert 0 < kept.low < kept.mid < kept.high < axis.zero and not kept.cut


@given(st.lists(st.tuples(st.floats(-1, 10), st.floats(0, 1)), max_size=20))
def test_any_effects_make_an_axis(effects: list[tuple[float, float]]) -> None:
    axis = effect_axis(effects)
    assert axis.low < 0 < axis.high
    for mean, error in effects:
        drawn = axis.whisker(mean, error)
        assert 0 <= drawn.low <= drawn.mid <= drawn.high <= 100
        assert mean > 0 or not drawn.cut, "a gain is never cut"
    assert value_axis([mean for mean, _ in effects]).low < value_axis([mean for mean, _ in effects]).high


def test_the_kit_is_as_hostile_as_it_says(played: SearchedLab) -> None:
    titles = [candidate.title for candidate in played.facts().candidates]
    assert EVIL in titles
