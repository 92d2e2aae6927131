"""Constants: read by name, rewritten in place, refused where a rewrite would not do what it says."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.domain.errors import CandidateRejected
from scheduler.git.commits import merge_file
from scheduler.policy.constants import merge_by_name, read_constants, rewrite_constants
from scheduler.policy.source import fingerprint

TRAIN_PY = (Path(__file__).resolve().parents[2] / "train.py").read_text(encoding="utf-8")
SOURCE = '''"""Knobs."""
import os
DEPTH = 4  # layers
TOTAL_BATCH_SIZE = 2**19 # tokens
ADAM_BETAS = (0.8, 0.95)
WINDOW_PATTERN = "SSSL"; NOTE = "ü"; AFTER = 1  # ü
LR: float = -1e-3  # typed
BARE = 0.1, 0.2
WARMUP, (COOLDOWN) = 0.0, 0.5  # both
WIDE = (
    1,  # one
    2,
)  # many lines
LONG = ("a"  # first half
        "b")
FAR = \\
    7
HALF = (1 << 10) // 2 - 3 % 2
USE_BIAS = False

def f():
    DEPTH = 9
    AFTER: int = 2
    return [NOTE for NOTE in "x"]
'''
READ = {
    "DEPTH": 4,
    "TOTAL_BATCH_SIZE": 2**19,
    "ADAM_BETAS": (0.8, 0.95),
    "WINDOW_PATTERN": "SSSL",
    "NOTE": "ü",
    "AFTER": 1,
    "LR": -1e-3,
    "BARE": (0.1, 0.2),
    "WARMUP": 0.0,
    "COOLDOWN": 0.5,
    "WIDE": (1, 2),
    "LONG": "ab",
    "FAR": 7,
    "HALF": 511,
    "USE_BIAS": False,
}

NUMBERS = st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = NUMBERS | st.text(max_size=12)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)


def as_typed(value: object) -> str:
    """Tells 1, 1.0 and True apart, and 0.0 from -0.0."""
    return repr(value)


def test_constants_are_read_by_name_in_the_order_of_the_file() -> None:
    assert read_constants(SOURCE) == READ
    assert list(read_constants(SOURCE)) == list(READ)
    assert read_constants(SOURCE)["USE_BIAS"] is False


def test_rewriting_touches_the_values_and_nothing_else() -> None:
    values = {"DEPTH": 8, "TOTAL_BATCH_SIZE": 4096, "WINDOW_PATTERN": 'L"\\', "NOTE": "longer é", "AFTER": 22}
    new = rewrite_constants(SOURCE, values | {"LR": 0.5, "COOLDOWN": 0.25, "BARE": (1, 2), "FAR": 8})
    expected = (
        SOURCE.replace("DEPTH = 4", "DEPTH = 8")
        .replace("2**19", "4096")
        .replace('"SSSL"; NOTE = "ü"; AFTER = 1 ', '"L\\"\\\\"; NOTE = "longer é"; AFTER = 22 ')
        .replace("-1e-3", "0.5")
        .replace("0.1, 0.2", "(1, 2)")
        .replace("0.0, 0.5", "0.0, 0.25")
        .replace("    7\n", "    8\n")
    )
    assert new == expected


def test_a_value_over_many_lines_becomes_one() -> None:
    assert "\nWIDE = 3  # many lines\nLONG" in rewrite_constants(SOURCE, {"WIDE": 3})
    assert '\nLONG = ("c")\nFAR' in rewrite_constants(SOURCE, {"LONG": "c"})


def test_rewriting_nothing_changes_nothing() -> None:
    assert rewrite_constants(SOURCE, {}) == SOURCE


@given(st.dictionaries(st.sampled_from(list(READ)), VALUES))
def test_what_is_written_is_read_back_and_the_rest_is_as_it_was(values: dict) -> None:
    new = rewrite_constants(SOURCE, values)
    assert as_typed(read_constants(new)) == as_typed(READ | values)
    assert rewrite_constants(new, values) == new
    kept = [line.partition("#")[2] for line in SOURCE.splitlines() if line.startswith(("DEPTH", "TOTAL", "WARMUP"))]
    assert all(f"#{comment}\n" in new for comment in kept)


@given(st.dictionaries(st.sampled_from(list(READ)), SCALARS), st.sampled_from(["\r\n", "\r"]))
def test_line_ends_are_kept(values: dict, line_end: str) -> None:
    source = SOURCE.replace("\n", line_end)
    assert rewrite_constants(source, values) == rewrite_constants(SOURCE, values).replace("\n", line_end)


def test_a_form_feed_or_a_strange_space_does_not_shift_the_columns() -> None:
    source = "\fA = 1\nB = '\u2028\x0b'; C = 2\n"
    assert rewrite_constants(source, {"A": 10, "C": 20}) == "\fA = 10\nB = '\u2028\x0b'; C = 20\n"


@pytest.mark.parametrize(
    "again",
    [
        "DEPTH = 8",
        "if cuda:\n    DEPTH = 8",
        "DEPTH += 1",
        "DEPTH: int = 8",
        "for DEPTH in range(3): pass",
        "def DEPTH(): pass",
        "class DEPTH: pass",
        "import DEPTH",
        "from x import y as DEPTH",
        "DEPTH, OTHER = 1, 2",
        "OTHER = DEPTH = 1",
        "with open('x') as DEPTH: pass",
        "def f():\n    global DEPTH\n    DEPTH = 5",
        "print(DEPTH := 5)",
        "del DEPTH",
        "try: pass\nexcept ValueError as DEPTH: pass",
        "match x:\n    case [*DEPTH]: pass",
        "match x:\n    case {**DEPTH}: pass",
        "match x:\n    case int() as DEPTH: pass",
    ],
)
def test_a_name_the_module_binds_twice_is_refused(again: str) -> None:
    """The rewrite would be undone further down, and the candidate would not be what it says."""
    source = f"DEPTH = 4\nWIDTH = 2\n{again}\n"
    ast.parse(source)
    assert "DEPTH" not in read_constants(source)
    with pytest.raises(CandidateRejected, match=r"sets DEPTH in 2 places: lines 1, \d") as refusal:
        rewrite_constants(source, {"WIDTH": 3, "DEPTH": 8})
    assert "DEPTH = value" in refusal.value.hint


@pytest.mark.parametrize(
    "elsewhere",
    [
        "def f(DEPTH=1):\n    DEPTH = 2",
        "class A:\n    DEPTH = 3",
        "x.DEPTH = 5",
        "x = lambda DEPTH: DEPTH",
        "f(DEPTH=3)",
    ],
)
def test_the_same_name_in_another_scope_is_another_name(elsewhere: str) -> None:
    source = f"DEPTH = 4\n{elsewhere}\n"
    assert rewrite_constants(source, {"DEPTH": 8}) == f"DEPTH = 8\n{elsewhere}\n"


@pytest.mark.parametrize(
    "line",
    [
        "KNOB = len('x')",
        "KNOB = OTHER = 3",
        "KNOB = [1, 2]",
        "KNOB = None",
        "KNOB = b'x'",
        "KNOB = 1j",
        "KNOB = 9**9**9",
        "KNOB = 1 << 10**9",
        "KNOB = 'a' * 10**9",
        "KNOB = 1 / 0",
        "KNOB = (-8) ** 0.5",
        "KNOB = 1" + "+1" * 2500,
        "KNOB = f'{1}'",
        "KNOB = (1, x)",
        "KNOB, REST = pair",
        "KNOB, REST = 1, 2, 3",
        "KNOB: int",
        "Knob = 1; KNOB = x",
        "if x:\n    KNOB = 1",
    ],
)
def test_what_is_no_plain_literal_is_no_constant(line: str) -> None:
    assert "KNOB" not in read_constants(line)
    with pytest.raises(CandidateRejected, match="KNOB") as refusal:
        rewrite_constants(line, {"KNOB": 1})
    assert "KNOB = value" in refusal.value.hint


def test_a_name_in_small_letters_is_a_variable() -> None:
    assert read_constants("depth = 4\nDepth = 5\nDEPTH = 6\n") == {"DEPTH": 6}
    with pytest.raises(CandidateRejected, match=r"depth on line 1 of train\.py is not a constant") as refusal:
        rewrite_constants("depth = 4\n", {"depth": 5})
    assert "in capitals" in refusal.value.hint


def test_a_text_that_utf_8_cannot_hold_is_escaped() -> None:
    new = rewrite_constants("NAME = 'x'\n", {"NAME": "a\ud800\n\0"})
    assert new.isascii() and read_constants(new) == {"NAME": "a\ud800\n\0"}


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(CandidateRejected, match="no constant DEPHT") as refusal:
        rewrite_constants(SOURCE, {"DEPHT": 1})
    assert refusal.value.hint == "did you mean DEPTH?"
    with pytest.raises(CandidateRejected, match="no constant ZZZ") as refusal:
        rewrite_constants(SOURCE, {"ZZZ": 1})
    assert "module level" in refusal.value.hint


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, (1, math.nan)])
def test_a_value_no_literal_can_spell_is_refused(value: object) -> None:
    with pytest.raises(CandidateRejected, match="DEPTH cannot be set"):
        rewrite_constants(SOURCE, {"DEPTH": value})


def test_a_source_that_does_not_parse_is_refused() -> None:
    for act in (read_constants, lambda source: rewrite_constants(source, {"A": 1})):
        with pytest.raises(CandidateRejected, match="line 2"):
            act("A = 1\nB = = 2\n")


def test_every_constant_of_the_shipped_train_py_can_be_rewritten_in_its_line() -> None:
    constants = read_constants(TRAIN_PY)
    assert {"DEPTH", "ASPECT_RATIO", "TOTAL_BATCH_SIZE", "DEVICE_BATCH_SIZE", "WINDOW_PATTERN"} <= set(constants)
    same = rewrite_constants(TRAIN_PY, constants)
    assert fingerprint(same) == fingerprint(TRAIN_PY)
    for name in [name for name in constants if f"\n{name} = (\n" not in TRAIN_PY]:
        changed = rewrite_constants(TRAIN_PY, {name: 123})
        pairs = zip(TRAIN_PY.splitlines(), changed.splitlines(), strict=True)
        [(old, new)] = [(old, new) for old, new in pairs if old != new]
        assert new == f"{name} = 123{'  #' * ('  #' in old)}{old.partition('  #')[2]}"


def merged(ours: str, base: str, theirs: str) -> str | None:
    found = merge_by_name(ours.encode(), base.encode(), theirs.encode(), merge_file)
    return None if found is None else found.decode()


KNOBS = "".join(f"KNOB_{n} = {n}  # the knob {n}\n" for n in range(6)) + "\n\ndef f():\n    return KNOB_0\n"


def edited(source: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in source
        source = source.replace(old, new)
    return source


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([("KNOB_2 = 2", "KNOB_2 = 20")], [("KNOB_3 = 3", "KNOB_3 = 2**5")]),
        ([("KNOB_0 = 0", "KNOB_0 = 9"), ("KNOB_1 = 1", "KNOB_1 = 9")], [("KNOB_2 = 2", "KNOB_2 = (\n    1,\n)")]),
        ([("KNOB_5 = 5", "KNOB_5 = 7")], [("KNOB_4 = 4", "KNOB_4 = 8"), ("return KNOB_0", "return KNOB_1")]),
        ([("KNOB_1 = 1", "KNOB_1 = 7")], [("KNOB_1 = 1", "KNOB_1 = 7"), ("KNOB_2 = 2", "KNOB_2 = 5")]),
        ([("KNOB_1 = 1  #", "KNOB_1 = 1  # much of")], [("KNOB_1 = 1 ", "KNOB_1 = 3 ")]),
        ([("KNOB_3 = 3 ", "NEW = 1\nKNOB_3 = 3 ")], [("KNOB_2 = 2 ", "KNOB_2 = 4 ")]),
        ([("KNOB_2 = 2  # the", "KNOB_2 = 7  # was 2, the")], [("KNOB_3 = 3  # the knob 3", "KNOB_3 = 8  # was 3")]),
        ([("KNOB_2 = 2  # the knob 2\n", "")], [("KNOB_3 = 3 ", "KNOB_3 = 8 ")]),
        ([("KNOB_2 = 2", "KNOB_2: float = 7")], [("KNOB_3 = 3  # the knob 3", "KNOB_3 = 8")]),
    ],
)
def test_constants_on_neighbouring_lines_merge_by_name(ours: list, theirs: list) -> None:
    left, right = edited(KNOBS, *ours), edited(KNOBS, *theirs)
    assert merge_file(left.encode(), KNOBS.encode(), right.encode()) is None, "git alone does not merge these"
    found = merged(left, KNOBS, right)
    assert found is not None
    kept = {name: value for name, value in read_constants(KNOBS).items() if name in read_constants(left)}
    assert read_constants(found) == kept | changes(KNOBS, left) | changes(KNOBS, right)


@pytest.mark.parametrize(
    ("ours", "theirs", "line"),
    [
        (("2  # the knob 2", "7  # was 2"), ("KNOB_3 = 3", "KNOB_3 = 8"), "KNOB_2 = 7  # was 2\n"),
        (("KNOB_2 = 2", "KNOB_2 = 7"), ("3  # the knob 3", "8"), "KNOB_3 = 8\n"),
        (("2  # the knob 2", "2  # mine"), ("2  # the knob 2", "8  # theirs"), "KNOB_2 = 8  # theirs\n"),
        (("2  # the knob 2", "7  # mine"), ("2  # the knob 2", "2  # theirs"), "KNOB_2 = 7  # mine\n"),
        (("2  # the knob 2", "7"), ("3  # the knob 3", "(\n    1,\n)  # 3"), "KNOB_3 = (\n    1,\n)  # 3\n"),
    ],
)  # fmt: skip
def test_the_comment_behind_a_constant_goes_with_its_new_value(ours: tuple, theirs: tuple, line: str) -> None:
    found = merged(edited(KNOBS, ours), KNOBS, edited(KNOBS, theirs))
    assert found is not None and line in found


def test_a_tuple_over_many_lines_is_one_value() -> None:
    base = "BETAS = (\n" + "".join(f"    0.{n},\n" for n in range(9)) + ")\n"
    left, right = edited(base, ("0.0,", "0.01,")), edited(base, ("0.8,", "0.81,"))
    assert merge_file(left.encode(), base.encode(), right.encode()) is not None, "git sees two lines"
    assert merged(left, base, right) is None and merged(left, base, left) == left == merged(left, base, base)


def test_one_new_constant_in_two_places_is_a_conflict_only_where_the_values_differ() -> None:
    left = edited(KNOBS, ("KNOB_0 = 0", "EMA = 0.9\nKNOB_0 = 0"))
    for value, expected in ((0.99, False), (0.9, True)):
        right = edited(KNOBS, ("\n\ndef", f"EMA = {value}\n\n\ndef"))
        assert merge_file(left.encode(), KNOBS.encode(), right.encode()) is not None, "git sees two lines"
        assert (merged(left, KNOBS, right) is not None) == expected


def changes(base: str, changed: str) -> dict:
    old = read_constants(base)
    return {name: value for name, value in read_constants(changed).items() if old.get(name) != value}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([("KNOB_2 = 2", "KNOB_2 = 20")], [("KNOB_2 = 2", "KNOB_2 = 30")]),
        ([("KNOB_2 = 2", "KNOB_2 = 2.0")], [("KNOB_2 = 2", "KNOB_2 = 3")]),
        ([("KNOB_2 = 2", "KNOB_2 = 20"), ("return KNOB_0", "return 1")], [("return KNOB_0", "return 2")]),
        ([("KNOB_2 = 2", "KNOB_2 = f()")], [("KNOB_2 = 2", "KNOB_2 = 30")]),
        ([("KNOB_2 = 2  # the knob 2\n", "")], [("KNOB_2 = 2", "KNOB_2 = 30")]),
        ([("KNOB_2 = 2", "KNOB_2 = 1\nKNOB_2 = 2")], [("KNOB_2 = 2", "KNOB_2 = 30")]),
        ([("KNOB_2 = 2", "KNOB_2 = = 2")], [("KNOB_2 = 2", "KNOB_2 = 30")]),
    ],
)
def test_what_both_changed_differently_is_a_conflict(ours: list, theirs: list) -> None:
    assert merged(edited(KNOBS, *ours), KNOBS, edited(KNOBS, *theirs)) is None


@given(
    st.dictionaries(st.sampled_from([f"KNOB_{n}" for n in range(3)]), st.integers(10, 99), min_size=1),
    st.dictionaries(st.sampled_from([f"KNOB_{n}" for n in range(3, 6)]), st.floats(1, 2), min_size=1),
)
def test_whoever_is_merged_first_both_sets_of_constants_are_in(one: dict, other: dict) -> None:
    left, right = rewrite_constants(KNOBS, one), rewrite_constants(KNOBS, other)
    assert merged(left, KNOBS, right) == merged(right, KNOBS, left) == rewrite_constants(left, other)
