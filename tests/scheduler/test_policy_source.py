"""What is a candidate: bytes that are refused with their reason, programs told apart, constants rewritten in place."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.domain.errors import CandidateRejected
from scheduler.policy.constants import read_constants, rewrite_constants
from scheduler.policy.fingerprint import fingerprint
from scheduler.policy.validation import MAX_BYTES, check_changed_paths, check_train_py

TRAIN_PY = (Path(__file__).resolve().parents[2] / "train.py").read_text(encoding="utf-8")
SOURCE = '''"""Knobs."""
DEPTH = 4  # layers
TOTAL_BATCH_SIZE = 2**19 # tokens
ADAM_BETAS = (0.8, 0.95)
WINDOW_PATTERN = "SSSL"; NOTE = "ü"
LR: float = -1e-3  # typed
WIDE = (
    1,
    2,
)  # many lines
SEEN = 1
SEEN = 2
COMPUTED = len("x")
lower = 3

def f():
    DEPTH = 9
'''


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (b"x = 1\n" * MAX_BYTES, "bytes"),
        (b"x = '\xff'\n", "byte 5 (0xff)"),
        (b"x = 1\n\0", "line 2"),
        (b"def f(:\n  pass\n", "line 1"),
        (b"x = (\n", "line 1"),
        (b"x = " + b"(" * 20_000 + b")" * 20_000, "does not parse"),
        (b"x = " + b"-" * 60_000 + b"1", "does not parse"),
    ],
)
def test_what_is_no_source_is_refused_with_its_reason(data: bytes, says: str) -> None:
    with pytest.raises(CandidateRejected, match=r"train\.py") as refusal:
        check_train_py(data)
    assert says in refusal.value.message
    assert refusal.value.hint


def test_a_byte_order_mark_and_a_strange_escape_are_no_sins() -> None:
    assert check_train_py(b"\xef\xbb\xbfx = '\\d'\n") == "x = '\\d'\n"


@given(st.binary(max_size=300))
def test_any_bytes_are_source_or_refused(data: bytes) -> None:
    with contextlib.suppress(CandidateRejected):
        ast.parse(check_train_py(data))


def test_only_train_py_may_change() -> None:
    check_changed_paths(["train.py"])
    check_changed_paths([])
    with pytest.raises(CandidateRejected, match=r"harness/judge\.py"):
        check_changed_paths(["train.py", "harness/judge.py"])
    with pytest.raises(CandidateRejected, match="and 3 more"):
        check_changed_paths([f"f{i}" for i in range(8)])


@pytest.mark.parametrize(
    "same",
    [
        SOURCE.replace("# layers", "# more layers"),
        SOURCE.replace('"""Knobs."""', '"""Other words."""'),
        SOURCE.replace('"""Knobs."""\n', ""),
        SOURCE.replace("\n\ndef", "\n\n\n\ndef").replace("    DEPTH = 9", "        DEPTH = 9"),
        SOURCE.replace('"SSSL"', "'SSSL'"),
    ],
)
def test_words_about_the_program_do_not_make_another_program(same: str) -> None:
    assert fingerprint(same) == fingerprint(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [("DEPTH = 4", "DEPTH = 5"), ("0.95", "0.96"), ("(0.8, 0.95)", "[0.8, 0.95]"), ('"x"', '"y"'), ("def f", "def g")],
)
def test_any_change_of_the_program_makes_another(old: str, new: str) -> None:
    assert fingerprint(SOURCE.replace(old, new)) != fingerprint(SOURCE)


def test_constants_are_read_by_name() -> None:
    assert read_constants(SOURCE) == {
        "DEPTH": 4,
        "TOTAL_BATCH_SIZE": 2**19,
        "ADAM_BETAS": (0.8, 0.95),
        "WINDOW_PATTERN": "SSSL",
        "NOTE": "ü",
        "LR": -1e-3,
        "WIDE": (1, 2),
    }


def test_rewriting_touches_the_values_and_nothing_else() -> None:
    new = rewrite_constants(
        SOURCE, {"DEPTH": 8, "TOTAL_BATCH_SIZE": 4096, "WINDOW_PATTERN": 'L"\\', "NOTE": "é", "LR": 0.5}
    )
    assert new.splitlines()[1:5] == [
        "DEPTH = 8  # layers",
        "TOTAL_BATCH_SIZE = 4096 # tokens",
        "ADAM_BETAS = (0.8, 0.95)",
        'WINDOW_PATTERN = "L\\"\\\\"; NOTE = "é"',
    ]
    assert "LR: float = 0.5  # typed" in new
    assert "    DEPTH = 9" in new
    assert read_constants(new)["WINDOW_PATTERN"] == 'L"\\'


def test_a_value_over_many_lines_becomes_one() -> None:
    assert "WIDE = 3  # many lines\nSEEN = 1" in rewrite_constants(SOURCE, {"WIDE": 3})


def test_rewriting_nothing_changes_nothing() -> None:
    assert rewrite_constants(SOURCE, {}) == SOURCE


@pytest.mark.parametrize(("name", "near"), [("DEPHT", "DEPTH"), ("SEEN", "module level"), ("COMPUTED", "module level")])
def test_a_name_that_is_no_constant_is_refused(name: str, near: str) -> None:
    with pytest.raises(CandidateRejected, match=name) as refusal:
        rewrite_constants(SOURCE, {name: 1})
    assert near in refusal.value.hint


@given(
    st.dictionaries(
        st.sampled_from(sorted(set(read_constants(SOURCE)) - {"ADAM_BETAS", "WIDE"})),
        st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(min_codepoint=32, max_codepoint=0x24F), max_size=12),
    )
)
def test_what_is_written_is_read_back(values: dict[str, int | float | str]) -> None:
    assert read_constants(SOURCE) | values == read_constants(rewrite_constants(SOURCE, values))


def test_every_constant_of_the_shipped_train_py_can_be_rewritten() -> None:
    constants = {k: v for k, v in read_constants(TRAIN_PY).items() if isinstance(v, int | float | str)}
    assert {"DEPTH", "ASPECT_RATIO", "TOTAL_BATCH_SIZE", "DEVICE_BATCH_SIZE", "WINDOW_PATTERN"} <= set(constants)
    assert rewrite_constants(TRAIN_PY, constants).count("\n") == TRAIN_PY.count("\n")
    assert fingerprint(rewrite_constants(TRAIN_PY, constants)) == fingerprint(TRAIN_PY)
