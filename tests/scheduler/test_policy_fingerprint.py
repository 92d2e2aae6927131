"""Fingerprints: words about a program do not count, the program does, down to a None and a float."""

from __future__ import annotations

import ast
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.domain.errors import CandidateRejected
from scheduler.policy.source import fingerprint

TRAIN_PY = (Path(__file__).resolve().parents[2] / "train.py").read_text(encoding="utf-8")
SOURCE = '''"""Knobs."""
import torch

DEPTH = 4  # layers
NAMES = {"a": 1, **{}}


class Net(torch.nn.Module):
    """A net."""

    def forward(self, x, *, scale=None):
        """Apply it."""
        return x * scale if scale else f"{x!r:>{DEPTH}}"


async def wait():
    "One line."
    return Net()
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# layers", "# more layers"),
        ("  # layers", ""),
        ("Knobs.", "Other words."),
        ('"""Knobs."""\n', ""),
        ('    """A net."""\n\n', ""),
        ('"""Apply it."""', "'''Applied.'''"),
        ('    "One line."\n', ""),
        ("\n\n\nclass", "\n\n\n\n\nclass"),
        ("DEPTH = 4", "DEPTH   =   (4)"),
        ("DEPTH = 4", "DEPTH = 0x4"),
        ('"a"', "'a'"),
        ('"a"', '"\\x61"'),
        ('{"a": 1, **{}}', '{\n    "a": 1,\n    **{},\n}'),
        ("\n", "\r\n"),
        ("    return Net()", "    return \\\n        Net()"),
    ],
)
def test_words_about_the_program_and_layout_do_not_make_another_program(old: str, new: str) -> None:
    changed = SOURCE.replace(old, new)
    assert changed != SOURCE
    assert fingerprint(changed) == fingerprint(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("DEPTH = 4", "DEPTH = 5"),
        ("DEPTH = 4", "DEPTH = 4.0"),
        ("DEPTH = 4", "DEPTH: int = 4"),
        ("DEPTH = 4", "DEPTH = -4"),
        ('"a": 1', '"a": True'),
        ('"a": 1', 'b"a": 1'),
        ("**{}", "None: {}"),
        ("*, scale=None", "scale=None"),
        ("*, scale=None", "*, scale"),
        ("!r:", "!s:"),
        ("import torch", "import torch as t"),
        ("async def", "def"),
        ('"One line."', 'f"One line."'),
        ("x * scale", "scale * x"),
        ("Net()", "Net(),"),
    ],
)
def test_any_change_of_the_program_makes_another(old: str, new: str) -> None:
    changed = SOURCE.replace(old, new)
    assert changed != SOURCE
    assert fingerprint(changed) != fingerprint(SOURCE)


def test_trees_that_look_much_alike_are_distinguished() -> None:
    lookalikes = [
        *("x = 1", "x = 1.0", "x = True", "x = '1'", "x = b'1'", "x = 1j", "x = ...", "x = None", "x = 'None'", "x"),
        *("{**x}", "{None: x}", "{'None': x}", "{x}", "[x]", "(x,)", "(x)", "(x).x", "x[x]", "x[x:]", "x[:x]", "x()"),
        *("def f(*, a, b=None): 0", "def f(*, a=None, b=None): 0", "def f(a, b=None): 0", "lambda: 0", "lambda x: 0"),
        *("f(x)()", "f()(x)", "f(x)(x)", "if x:\n  if y:\n    z\n  x", "if x:\n  if y:\n    z\n    x"),
        *("if x: y\nelse: z", "if x:\n  y\n  z", "if x: y\nz", "x = y = z", "x = y; y = z", "x, y = z", "x = y, z"),
        *("y('( .id x')", "y('.id' 'x')", "y('a, b')", "y('a', 'b')", "y('')", "y('\\'')", "y(f'{x}')", "y(f'x')"),
    ]
    equal = [pair for pair in combinations(lookalikes, 2) if len(set(map(fingerprint, pair))) == 1]
    assert equal == [("x", "(x)")]


def test_a_seed_alone_makes_another_program() -> None:
    assert fingerprint("torch.manual_seed(42)") != fingerprint("torch.manual_seed(43)")


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30))
def test_a_comment_never_counts_and_a_string_always_does(text: str) -> None:
    assert fingerprint(f"x = 1  # {text}") == fingerprint("x = 1")
    assert fingerprint(f"x = {text!r}") == fingerprint(f"x = ({text!r})")
    assert fingerprint(f"x = {text!r}") != fingerprint(f"x = {text + '.'!r}")


def test_unparsing_keeps_the_fingerprint_of_the_shipped_train_py() -> None:
    assert fingerprint(ast.unparse(ast.parse(TRAIN_PY))) == fingerprint(TRAIN_PY)
    assert len(fingerprint(TRAIN_PY)) == 64


def test_no_source_has_no_fingerprint() -> None:
    with pytest.raises(CandidateRejected, match="line 1"):
        fingerprint("x = = 1")
