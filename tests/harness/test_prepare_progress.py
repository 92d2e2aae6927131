"""What a person sees while waiting: never silence, one line rewritten on a terminal, who holds the lock."""

from __future__ import annotations

import ast
import io
import threading
from pathlib import Path

import pytest

import harness
from harness.prepare.stage import PrepareProgress, count, held, run_in_threads, size

QUICK_S = 0.01
PRINTED_BY_PREPARE = (
    "prepare/*.py",
    "fields.py",
    "cache.py",
    "files.py",
    "calibration.py",
    "gpu_probe.py",
    "gpu_trial.py",
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Watched(io.StringIO):
    """A stream with an event that is set once a certain word was written."""

    def __init__(self, word: str, *, terminal: bool = False) -> None:
        super().__init__()
        self.word, self.terminal, self.seen = word, terminal, threading.Event()

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        if self.word in text:
            self.seen.set()
        return super().write(text)


def test_a_long_call_is_never_silent() -> None:
    out = Watched("so far")
    progress = PrepareProgress(out, QUICK_S)
    with progress.stage("merging"):
        progress.show("3 of 9")
        assert out.seen.wait(10)
    assert "merging ...\n" in out.getvalue() and "merging: 3 of 9, 0 s so far\n" in out.getvalue()
    assert out.getvalue().splitlines()[-1].startswith("merging: 3 of 9, 0.")


def test_what_prepare_prints_fits_every_stream() -> None:
    """It has no guarded way to stderr, where an ascii terminal would get \\u2026."""
    home = Path(harness.__file__).parent
    for path in sorted(found for pattern in PRINTED_BY_PREPARE for found in home.glob(pattern)):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = [one.value for one in ast.walk(tree) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        docs = {ast.get_docstring(one, clean=False) for one in ast.walk(tree) if isinstance(one, DOCUMENTED)}
        assert not [text for text in texts if not text.isascii() and text not in docs], path


def test_a_terminal_gets_one_line_that_changes() -> None:
    out = Watched("so far", terminal=True)
    progress = PrepareProgress(out, QUICK_S)
    with progress.stage("merging"):
        assert out.seen.wait(10)
    lasting = out.getvalue().split("\n")
    assert len(lasting) == 3 and "\r\x1b[2K" in lasting[1]


def test_a_stage_that_fails_stops_talking() -> None:
    out = Watched("so far")
    with pytest.raises(KeyError), PrepareProgress(out, QUICK_S).stage("merging"):
        raise KeyError
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_waiting_for_another_preparation_is_said(tmp_path: Path) -> None:
    out = Watched("another preparation is at work")
    got_it = threading.Event()

    def second() -> None:
        with held(tmp_path / "lock", PrepareProgress(out, QUICK_S)):
            got_it.set()

    thread = threading.Thread(target=second)
    with held(tmp_path / "lock", PrepareProgress(io.StringIO())):
        thread.start()
        assert out.seen.wait(10) and not got_it.is_set()
    thread.join(30)
    assert got_it.is_set()


def test_the_first_failure_stops_the_rest() -> None:
    stop, ran = threading.Event(), []

    def fail() -> None:
        raise ValueError("this one")

    with pytest.raises(ValueError, match="this one"):
        run_in_threads([fail, *[lambda: ran.append(1)] * 50], 1, stop)
    assert stop.is_set() and ran == []
    run_in_threads([lambda: ran.append(1)] * 50, 7, threading.Event())
    assert len(ran) == 50


def test_numbers_for_people() -> None:
    assert [size(n) for n in (0, 999, 1234, 5_000_000, 4.3e9)] == ["0 B", "999 B", "1.23 kB", "5 MB", "4.3 GB"]
    assert [count(n) for n in (7, 1234, 2_147_483_648)] == ["7", "1.23 k", "2.15 G"]
