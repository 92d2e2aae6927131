"""Every verb's screen where the stream cannot encode its signs: plain spellings, never "?", never a defect.

Also blanks at the ends of lines, and what 60 and 40 columns cut.
"""

from __future__ import annotations

import ast
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.cli.main import main
from scheduler.cli.output import VERBS
from scheduler.doctor.checks import CheckResult, Grade
from scheduler.domain.text import plain, spelt
from tests.scheduler.git_kit import make_repository
from tests.scheduler.view_kit import demo_lab

ROOT = Path(__file__).resolve().parents[2]
READING = (
    "status", "leaderboard", "show depth-1", "show r0004", "explain depth-1", "explain r0004", "wait depth-1", "brief",
    "watch --once", "report", "show typo", "pause --dry-run", "resume --dry-run", "cancel c0099", "submit nothing",
    "labs", "logs typo", "new wider --dry-run", "promote c0004 --dry-run", "audit c0099", "search --runs 2 --dry-run",
    "init --tag nov23", "prepare --contract cpu --dry-run", "stop --dry-run", "restore", "gc --dry-run",
    "calibrate --dry-run",
)  # fmt: skip
SLOW = {"doctor", "demo"}  # both print by the same two functions; the doctor's arrow is tried below
Run = Callable[..., "Said"]


class Said:
    """What a command left on streams of one encoding."""

    def __init__(self, code: int, out: bytes, err: bytes, encoding: str) -> None:
        self.code, self.out, self.err = code, out.decode(encoding), err.decode(encoding)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository whose lab was played, shared by all that only read it."""
    made = make_repository(tmp_path_factory.mktemp("encodings") / "lab")
    play = demo_lab(made / ".arsched" / "ledger.db")
    yield made
    play.ledger.close()


@pytest.fixture
def arsched(root: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(root)

    def run(words: str, encoding: str = "utf-8", columns: int = 80) -> Said:
        monkeypatch.setenv("COLUMNS", str(columns))
        out, err = io.BytesIO(), io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding))
        with pytest.raises(SystemExit) as ended:
            main.main(words.split())
        sys.stdout.flush()
        sys.stderr.flush()
        return Said(int(ended.value.code or 0), out.getvalue(), err.getvalue(), encoding)

    return run


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("words", READING)
def test_a_sign_that_the_stream_lacks_is_spelt_plainly(arsched: Run, words: str, encoding: str) -> None:
    usual, said = arsched(words), arsched(words, encoding)
    assert said.code == usual.code
    for shown, whole in ((said.out, usual.out), (said.err, usual.err)):
        assert "defect" not in shown and "\\u" not in shown
        assert shown.count("?") == whole.count("?")
        if words != "watch --once":  # a frame is cut to its width
            assert shown.count("-0.0") >= whole.count("−0.0") and shown.count("+/-") + shown.count("±") >= whole.count(
                "±"
            )


def test_no_verb_is_left_out() -> None:
    assert {words.split()[0] for words in READING} | SLOW == set(VERBS)


def test_the_doctors_lines_are_spelt_plainly(arsched: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = CheckResult("disk", Grade.NOTE, "5 ± 1 GB − little", "make room")
    monkeypatch.setattr("scheduler.cli.doctor.run_checks", lambda *_: iter([found]))
    said = arsched("doctor", "ascii")
    assert "5 +/- 1 GB - little" in said.out and "-> make room" in said.out


@pytest.mark.parametrize("columns", [0, 1, -5])
def test_a_width_that_cannot_be_one_counts_as_not_given(arsched: Run, columns: int) -> None:
    assert arsched("show depth-1", columns=columns).out == arsched("show depth-1", columns=120).out != ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_json_is_the_same_value_in_every_encoding(arsched: Run, encoding: str) -> None:
    assert json.loads(arsched("explain depth-1 --json", encoding).out) == json.loads(
        arsched("explain depth-1 --json").out
    )


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_plain_ascii(arsched: Run, verb: str) -> None:
    """click writes it by itself, to an encoding of its own choice."""
    assert arsched(f"{verb} --help").out.isascii()


def test_every_sign_of_our_own_has_a_plain_spelling() -> None:
    """Docstrings left out: they are not printed, but for those of the verbs, which are in ASCII."""
    signs = set()
    for path in (ROOT / "scheduler").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
                signs |= {character for character in node.value if not character.isascii()}
    assert len(signs) > 15
    assert {sign: plain(sign) for sign in signs if "\\" in plain(sign)} == {}


def test_letters_keep_what_they_can() -> None:
    assert spelt("−0.03 ± 0.01 ▶ é 中", "latin-1") == "-0.03 ± 0.01 > é \\u4e2d"
    assert spelt("−0.03 ± 0.01 ≥ é → · …", "ascii") == "-0.03 +/- 0.01 >= e -> . ..."
    assert spelt("−±é", "utf-8") == "−±é"


@pytest.mark.parametrize("words", READING)
def test_no_line_into_a_pipe_ends_in_blanks(arsched: Run, words: str) -> None:
    assert [line for line in arsched(words).out.splitlines() if line != line.rstrip()] == []


IDS = re.compile(r"\b[cr]\d{4}\b")
FIGURE = re.compile(r"[−\d.]+ ± [\d.]+")


@pytest.mark.parametrize("columns", [40, 60])
@pytest.mark.parametrize("words", ["status", "leaderboard", "show depth-1", "explain depth-1", "wait", "report"])
def test_a_narrow_screen_cuts_names_and_never_ids_or_figures(arsched: Run, words: str, columns: int) -> None:
    wide, narrow = arsched(words, columns=200).out, arsched(words, columns=columns).out
    diff = wide.find("--- ")  # verbatim lines
    wide, narrow = wide[: diff if diff > 0 else None], narrow[: narrow.find("--- ") if diff > 0 else None]
    assert max((len(line) for line in narrow.splitlines()), default=0) <= columns
    assert set(IDS.findall(narrow)) == set(IDS.findall(wide))
    figures = " ".join(narrow.split())
    assert [figure for figure in FIGURE.findall(wide) if figure not in figures and words == "leaderboard"] == []
    assert not re.search(r"\d…", narrow)


def test_what_a_narrow_table_leaves_out_is_said_and_nothing_at_80(arsched: Run) -> None:
    assert "left out" not in arsched("leaderboard").out
    assert "left out at this width: n, P" in arsched("leaderboard", columns=60).out
    assert "left out" in arsched("leaderboard", columns=40).out
