"""Nothing that could move a cursor, hide a word or break a JSON reader gets through to the reader."""

from __future__ import annotations

import json
import math
import unicodedata
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.domain.text import clean, flat, one_line
from scheduler.views import View, jsonable, utc


@pytest.mark.parametrize(
    ("evil", "left"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;never ended", ""),
        ("\x1bPdevice\x1b\\x", "x"),
        ("\x1b(0lines", "0lines"),
        ("bell\x07 back\x08 null\x00 del\x7f", "bell back null del"),
        ("c1 \x9b31m \x85 end", "c1 31m  end"),
        ("a\u202eevil\u202c b\u200fc\ufeff", "aevil bc"),
        ("line\u2028para\u2029", "linepara"),
        ("10%\r20%\r\n30%", "10%\n20%\n30%"),
        ("lone \ud800 surrogate", "lone  surrogate"),
        ("tab\tstays, élan 字 ± stays", "tab\tstays, élan 字 ± stays"),
        ("\x1b", ""),
    ],
)
def test_control_characters_are_taken_out(evil: str, left: str) -> None:
    assert clean(evil) == left


@given(st.text() | st.text(alphabet=st.sampled_from("\x1b[]0;m\x07\\\r\n\x9b\u202eaP_")))
def test_what_is_cleaned_is_clean_and_stays_so(text: str) -> None:
    cleaned = clean(text)
    assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co") for c in cleaned)
    assert clean(cleaned) == cleaned
    assert "\n" not in one_line(text) and "\n" not in flat(text)
    cleaned.encode("utf-8")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, None])
def test_what_is_not_finite_is_unknown(number: float | None) -> None:
    assert jsonable(number) is None


@dataclass(frozen=True, slots=True)
class Inner(View):
    loss: float


@dataclass(frozen=True, slots=True)
class Outer(View):
    name: str
    inner: tuple[Inner, ...]
    wall_s: float | None


def test_a_view_is_json_without_nan() -> None:
    view = Outer("x", (Inner(math.nan), Inner(1 / 3)), math.inf)
    said = json.dumps(view.to_json(), allow_nan=False)
    assert json.loads(said) == {"name": "x", "inner": [{"loss": None}, {"loss": 0.333333}], "wall_s": None}


def test_times_are_utc() -> None:
    assert utc(0.9) == "1970-01-01T00:00:00Z"
