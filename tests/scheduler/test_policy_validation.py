"""What is no candidate: bytes and paths that are refused with their reason, and what is let through."""

from __future__ import annotations

import ast
import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.domain.errors import CandidateRejected
from scheduler.policy.source import (
    MAX_BYTES,
    check_changed_paths,
    fingerprint,
    free_name,
    normalised,
    read_source,
    slug,
)

BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (BOM, "empty"),
        (b"#" * (MAX_BYTES + 1), "131,073 bytes, the limit is 131,072"),
        (b"x = '\xff'\n", "byte 5 (0xff)"),
        ("x = 'ü'\n".encode("latin-1"), "byte 5 (0xfc)"),
        ("x = 1\n".encode("utf-16"), "not UTF-8: byte 0"),
        (b"x = 1\n\0", "NUL character, line 2"),
        (b"def f(:\n  pass\n", "line 1: def f(:"),
        (b"x = 1\nif x:\n\ty = 1\n        z = 1\n", "line 4: z = 1"),
        (b"x = (\n", "line 1"),
        (b"x = 1\nx = = 2\n", "line 2: x = = 2"),
        (b"# -*- coding: latin-1 -*-\nx = 1\n", "iso-8859-1"),
        (b"# coding: klingon\nx = 1\n", "unknown encoding"),
        (BOM + b"# coding: latin-1\n", "encoding problem"),
        (b"x = " + b"1" * 5000, "4300 digits"),
        (b"x = " + b"(" * 20_000 + b")" * 20_000, "nested"),
        (b"x = " + b"-" * 60_000 + b"1", "nested too deeply"),
        (b"x = a" + b".b" * 60_000, "nested too deeply"),
        (b"x = 1" + b"+1" * 60_000, "nested too deeply"),
        (b"x = " + b"lambda: " * 10_000 + b"1", "nested too deeply"),
    ],
)
def test_what_is_no_source_is_refused_with_its_reason(data: bytes, says: str) -> None:
    with pytest.raises(CandidateRejected, match=r"train\.py") as refusal:
        read_source(data)
    assert says in refusal.value.message
    assert refusal.value.hint
    assert len(refusal.value.message) < 400


@pytest.mark.parametrize(
    "data",
    [
        b"x = '\\d'\n",  # an escape Python warns of
        b"# -*- coding: utf-8 -*-\nx = 1\n",
        b"x = 1",
        b"#" * MAX_BYTES,
        b"x = 1" + b"+1" * 900,
        b"if 1: pass\n" + b"elif 1: pass\n" * 900,
        b"x = 0x" + b"f" * 100_000,
        "x = 'ü €  '\n".encode(),
    ],
)
def test_what_is_unusual_but_sound_is_let_through_and_can_be_distinguished(data: bytes) -> None:
    source = read_source(data)
    assert source.text.encode() == source.data == data
    assert source.fingerprint == read_source(data + b"\n# a comment\n"[: MAX_BYTES - len(data)]).fingerprint


LF_FORM = b'x = """a\nb"""\nif x:\n    y = 2\n'


@pytest.mark.parametrize("mark", [b"", BOM])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_source_is_stored_without_byte_order_mark_and_with_lf(mark: bytes, end: bytes) -> None:
    given, plain = read_source(mark + LF_FORM.replace(b"\n", end)), read_source(LF_FORM)
    assert given == plain and given.data == LF_FORM and given.text == LF_FORM.decode()
    assert given.sha256 == hashlib.sha256(LF_FORM).hexdigest()
    assert read_source(BOM + b"# coding: utf-8\n").text == "# coding: utf-8\n"


@given(st.text(alphabet=st.sampled_from("x='\"\n\r #\\f\t1")))
def test_normalising_changes_no_program(text: str) -> None:
    with contextlib.suppress(SyntaxError, ValueError):
        assert ast.dump(ast.parse(normalised(text.encode()))) == ast.dump(ast.parse(text.encode()))


def test_a_source_is_parsed_once_and_knows_its_hash_its_program_and_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'"""What it does."""\nx = 1  # one\n\nif x:\n    y = (2,\n         3)\n'
    parsed, parse = [], ast.parse
    monkeypatch.setattr(ast, "parse", lambda *args, **kwargs: parsed.append(args) or parse(*args, **kwargs))
    source = read_source(data)
    assert len(parsed) == 1
    assert source.sha256 == hashlib.sha256(data).hexdigest()
    assert source.fingerprint == fingerprint(data.decode())
    assert source.code_lines == 4


@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode(errors="replace")))
def test_any_bytes_are_source_or_refused(data: bytes) -> None:
    with contextlib.suppress(CandidateRejected):
        ast.parse(read_source(data).text)


def test_what_a_candidate_wrote_cannot_steer_the_terminal() -> None:
    with pytest.raises(CandidateRejected) as refusal:
        read_source(b"x = '\x1b[2J\x1b]0;gone\x07\n")
    assert refusal.value.message.isprintable()
    with pytest.raises(CandidateRejected) as refusal:
        check_changed_paths(["a\x1b[31m\n.py"])
    assert refusal.value.message.isprintable()


def test_only_train_py_may_change() -> None:
    check_changed_paths(["train.py"])
    check_changed_paths([])
    with pytest.raises(CandidateRejected, match=r"it also changes harness/judge\.py$"):
        check_changed_paths(["train.py", "harness/judge.py"])
    with pytest.raises(CandidateRejected, match=r"f0, f1, f2, f3, f4 and 3 more$"):
        check_changed_paths([f"f{i}" for i in range(7, -1, -1)])


@pytest.mark.parametrize(
    "path", ["Train.py", "./train.py", "sub/train.py", "train.py ", "train.pyc", "candidates/a/train.py"]
)
def test_a_name_like_train_py_is_another_file(path: str) -> None:
    with pytest.raises(CandidateRejected):
        check_changed_paths([path])


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Wider MLP (4x)", "wider-mlp-4x"),
        ("  --  ", "idea"),
        ("c0007", "idea-c0007"),
        ("7", "idea-7"),
        ("last", "idea-last"),
        ("\x1b[31mred\x1b[0m", "31mred-0m"),
        ("x" * 60, "x" * 40),
        ("UNEMBEDDING_LR 0.004 → 0.00071", "unembedding-lr-0.004-0.00071"),
        ("UNEMBEDDING_LR 0.004 → 0.00071, MATRIX_LR 0.04 → 0.05", "unembedding-lr-0.004-0.00071-matrix-lr"),
        ("ADAM_BETAS (0.8, 0.95) → (0.81234, 0.95123456789)", "adam-betas-0.8-0.95-0.81234"),
        ("version 1.2.3. ends", "version-1.2.3-ends"),
    ],
)
def test_a_name_comes_from_a_title_and_never_reads_like_an_id(title: str, name: str) -> None:
    assert slug(title) == name


def test_a_name_that_is_taken_gets_a_number() -> None:
    assert free_name("wider", {"deeper"}) == "wider"
    assert free_name("wider", {"wider", "wider-2"}) == "wider-3"
