"""Lines of code: what explains a program costs nothing, what runs does, and the shipped train.py can be counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.policy.source import read_source

ROOT = Path(__file__).resolve().parents[2]
STATEMENTS = st.lists(
    st.sampled_from(["x = 1", "y = [1, 2]", "print('#')", "f = lambda: 0", "z = '''a'''"]), min_size=1, max_size=8
)
SAYS_NOTHING = st.sampled_from(["", "   ", "# a comment", "    # an indented one"])


def code_lines(source: str) -> int:
    return read_source(source.encode()).code_lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("\n# nothing\n\n", 0),
        ('"""What it is,\n\nat length."""\n', 0),
        ("x = 1  # why\n", 1),
        ("x = 1; y = 2\n", 1),
        ("x = (\n    1,\n    2,\n)\n", 4),
        ("x = (\n    1,  # one\n\n    # two\n)\n", 3),
        ('def f():\n    """Says what."""\n    return 1\n', 2),
        ('class A:\n    """Says\n    what."""\n\n    x = 1\n', 2),
        ('async def f():\n    "Says."\n    return 1\n', 2),
        ('x = """one\ntwo\nthree"""\n', 3),
        ('x = 1\n"a string that documents nothing"\n', 2),
        ("x = 1\r\n\r\ny = 2\r\n", 2),
        ("x = 1", 1),
        ("x = 1\ry = 2\r", 2),
        ("\x0cx = 1\n", 1),
        ('x = "a\u2028b\x1c\x85c"\n', 1),
        ('"""a\x0cb\u2029c"""\nx = 1\n', 1),
    ],
)
def test_lines_that_hold_code_are_counted_and_no_others(source: str, lines: int) -> None:
    assert code_lines(source) == lines


@given(STATEMENTS, st.data())
def test_comments_and_blank_lines_change_nothing(statements: list[str], data: st.DataObject) -> None:
    said = [line for statement in statements for line in (data.draw(SAYS_NOTHING), statement)]
    assert code_lines("\n".join(said)) == code_lines("\n".join(statements)) == len(statements)


def test_the_shipped_program_is_counted_and_a_line_less_is_one_less() -> None:
    source = (ROOT / "train.py").read_text(encoding="utf-8")
    total = code_lines(source)
    assert 0.5 * len(source.splitlines()) < total < len(source.splitlines())
    assert code_lines(source + "\n# more\nspare = 1\n") == total + 1
