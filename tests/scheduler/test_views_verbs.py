"""The reading verbs as they are typed: one JSON value with stable keys, exit codes, errors; logs and waiting.

The command runs in this process on a real repository with a played ledger; no Ray, no torch.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.cli.logs import start_of_tail
from scheduler.cli.main import main
from scheduler.domain.errors import UsageProblem
from scheduler.domain.run import RunKind
from scheduler.lab import find_run, open_workspace
from scheduler.queue.wait import Wait, wait_for
from scheduler.views.runs import follow_log
from tests.scheduler.git_kit import make_repository
from tests.scheduler.view_kit import START, Play, demo_lab, judged

Arsched = Callable[..., "Said"]


class Said:
    """What a command left: exit code, stdout, stderr."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = make_repository(tmp_path / "lab")
    monkeypatch.chdir(made)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("ARSCHED_SPOOL", str(tmp_path / "spool"))
    return made


@pytest.fixture
def play(root: Path) -> Iterator[Play]:
    played = demo_lab(root / ".git" / "arsched" / "ledger.db")
    yield played
    played.ledger.close()


@pytest.fixture
def arsched(capsys: pytest.CaptureFixture[str], root: Path) -> Arsched:
    def run(*words: str) -> Said:
        with pytest.raises(SystemExit) as ended:
            main.main(list(words))
        out, err = capsys.readouterr()
        return Said(int(ended.value.code or 0), out, err)

    return run


KEYS = {
    "status": "tag branch contract device baseline noise_sd_bpb noise_repeats noise_parts"
    " undecided_below_bpb runner slots queued queued_runs running_runs finished_runs cancelled_runs"
    " undecided_candidates paused note search claim efficiency ideas recent_decisions",
    "leaderboard": "tag contract baseline noise_sd_bpb noise_repeats noise_parts candidates pools",
    "show last": "standing author hypothesis commit made_from train_sha256 fingerprint sandbox"
    " compressed_bytes source_notes submitted_at runs decisions merge merged_into diff",
    "show r0004": "run candidate name kind seed state since status reason slot pool sandbox val_bpb val_bpb_upstream"
    " figures attempts",
    "explain last": "subject candidate name status answer note rule decisions waiting",
    "explain r0004": "subject candidate name status answer note rule decisions waiting",
    "wait depth-1": "all_over timed_out paused awaited",
    "report": "index_html progress_png timeline_png results_tsv summary",
}
ROW = (
    "rank candidate name title status detail is_baseline val_bpb val_bpb_se runs effect_bpb effect_se_bpb"
    " effect_shrunken_bpb p_better base suspect_runs origin proposer theme"
)


@pytest.mark.parametrize("line", KEYS)
def test_json_keys_are_a_promise(arsched: Arsched, play: Play, line: str) -> None:
    said = arsched(*line.split(), "--json")
    assert said.code == 0
    assert list(said.json) == KEYS[line].split()


def test_the_keys_of_a_leaderboard_row_are_a_promise(arsched: Arsched, play: Play) -> None:
    rows = arsched("leaderboard", "--limit", "1", "--json").json["candidates"]
    assert len(rows) == 8 and all(list(row) == ROW.split() for row in rows)


@pytest.mark.parametrize("line", KEYS)
def test_text_goes_to_stdout_without_escapes(arsched: Arsched, play: Play, line: str) -> None:
    said = arsched(*line.split())
    assert said.code == 0 and said.out.strip() and "\x1b" not in said.out


@pytest.mark.parametrize("line", ["show", "explain", "logs", "wait"])
def test_an_unknown_id_names_the_nearest(arsched: Arsched, play: Play, line: str) -> None:
    said = arsched(line, "depht-1")
    assert (said.code, said.out) == (2, "")
    assert "no candidate 'depht-1'" in said.err and "did you mean 'depth-1'?" in said.err
    assert arsched(line, "r9999").code == 2
    assert "error" in arsched(line, "nothing-like-it", "--json").json


@pytest.mark.parametrize("verb", ["status", "leaderboard", "report", "wait", "show last", "explain last", "logs last"])
def test_without_a_lab_it_says_how_to_make_one(arsched: Arsched, verb: str) -> None:
    said = arsched(*verb.split())
    assert (said.code, said.out) == (1, "")
    assert "there is no lab" in said.err and "arsched init --tag" in said.err


def test_another_tag(arsched: Arsched, play: Play) -> None:
    assert arsched("status", "--tag", "nov23", "--json").json["tag"] == "nov23"
    assert "no lab 'dec24'" in arsched("status", "--tag", "dec24").err


def test_from_inside_a_folder_below(arsched: Arsched, play: Play, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "candidates" / "x").mkdir(parents=True)
    monkeypatch.chdir(root / "candidates" / "x")
    assert arsched("leaderboard", "--json").json["baseline"] == "c0003"


# report


def test_report_writes_whole_files_where_asked(arsched: Arsched, play: Play, root: Path) -> None:
    said = arsched("report", "--out", "elsewhere")
    assert "wrote elsewhere/progress.png" in said.err and "gain" in said.out
    assert (root / "elsewhere" / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert (root / "elsewhere" / "results.tsv").read_text().count("\n") == 9
    assert sorted(os.listdir(root / "elsewhere")) == ["index.html", "progress.png", "results.tsv", "timeline.png"]


def test_report_to_a_place_that_cannot_be_written(arsched: Arsched, play: Play, root: Path) -> None:
    (root / "file").write_text("")
    said = arsched("report", "--out", "file/below")
    assert (said.code, said.out) == (1, "") and "cannot be written" in said.err


# logs


def log_of(root: Path, key: str, data: bytes) -> Path:
    path = root / ".git" / "arsched" / "runs" / key / "run.log"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def test_a_log_is_cleaned(arsched: Arsched, play: Play, root: Path) -> None:
    log_of(root, "r0009.1", b"\x1b[31mstep 1\x1b[0m\n\xff\xfe bad utf-8\n\x1b]0;title\x07last\n")
    assert arsched("logs", "typo").out == "step 1\n�� bad utf-8\nlast\n"
    assert arsched("logs", "r0009", "--tail", "1").out == "last\n"
    assert arsched("logs", "r0009", "--tail", "0").out == "\n"
    assert arsched("logs", "typo", "--json").json == {
        "run": "r0009", "candidate": "c0007", "attempt": 1, "log": "step 1\n�� bad utf-8\nlast\n",
        "words_of": "the candidate",
    }  # fmt: skip


def test_a_log_that_is_not_there(arsched: Arsched, play: Play) -> None:
    said = arsched("logs", "typo")
    assert said.code == 1 and "r0009 left no log" in said.err
    play.add("late")
    said = arsched("logs", "late")
    assert said.code == 3 and "r0013 has not run yet" in said.err and "arsched explain r0013" in said.err
    play.lease(play.ledger.runs.queued("nov23")[0])
    said = arsched("logs", "late")
    assert said.code == 3 and "runs on laptop/cpu0, and its log is there" in said.err


def test_a_run_on_this_machine_shows_its_log_while_it_goes_on(arsched: Arsched, play: Play, tmp_path: Path) -> None:
    play.add("late")
    play.lease(play.ledger.runs.queued("nov23")[0])
    spool = tmp_path / "spool" / "lab-nov23" / "r0013.1" / "out"
    spool.mkdir(parents=True)
    (spool / "run.log").write_text("step 1\n")
    assert arsched("logs", "late").out == arsched("logs", "last").out == "step 1\n"


def test_following_a_run_that_is_over_ends(arsched: Arsched, play: Play, root: Path) -> None:
    log_of(root, "r0009.1", b"one\ntwo")
    assert arsched("logs", "-f", "r0009").out == "one\ntwo"
    assert arsched("logs", "-f", "r0009", "--tail", "1").out == "two"
    assert arsched("logs", "-f", "r0009", "--tail", "0").out == ""
    assert arsched("logs", "-f", "r0009", "--json").code == 2


@pytest.mark.parametrize(
    ("data", "lines", "left"),
    [
        (b"a\nb\nc", 1, b"c"),
        (b"a\nb\nc\n", 1, b"c\n"),
        (b"a\nb\r\nc\r\n", 2, b"b\r\nc\r\n"),
        (b"step 1\rstep 2\rstep 3", 2, b"step 2\rstep 3"),
        (b"a\nb\n", 7, b"a\nb\n"),
        (b"a\nb\n", 0, b""),
        (b"", 3, b""),
    ],
)
def test_where_the_last_lines_of_a_log_begin(data: bytes, lines: int, left: bytes) -> None:
    assert data[start_of_tail(data, lines) :] == left


def test_following_reads_to_the_last_word() -> None:
    """The writer goes on between two looks, ends in the middle of a letter and a sequence, and then is over."""
    written = [b"st", b"ep 1\nstep \x1b[3", b"1m2\x1b[0m\n\xc3", b"\xa9t\xc3", b"\xa9\n", b"end"]
    file, over = io.BytesIO(), []

    def write() -> None:
        here = file.tell()
        file.seek(0, io.SEEK_END)
        file.write(written.pop(0))
        file.seek(here)
        if not written:
            over.append(True)

    said = "".join(follow_log(file, lambda: bool(over), write))
    assert said == "step 1\nstep 2\nété\nend"


def test_a_line_without_end_is_not_held_back() -> None:
    endless = io.BytesIO(b"x" * 100_000)
    assert "".join(follow_log(endless, lambda: True, lambda: None)) == "x" * 100_000


# wait


def test_waiting_for_what_is_decided_takes_no_time(arsched: Arsched, play: Play) -> None:
    said = arsched("wait", "depth-1", "r0004")
    assert said.code == 0 and "c0003  depth-1  baseline  val_bpb 1.8440" in said.out
    assert arsched("wait").code == 0 and "nothing is undecided" in arsched("wait").err


def test_a_failure_is_the_answer_no(arsched: Arsched, play: Play) -> None:
    assert arsched("wait", "depth-1", "typo").code == 3
    assert arsched("wait", "r0009").code == 3
    assert arsched("wait", "typo", "--json").json["awaited"][0]["status"] == "failed"


def test_a_wait_that_runs_out(arsched: Arsched, play: Play) -> None:
    play.add("late")
    said = arsched("wait", "--timeout", "0.01")
    assert said.code == 3 and "c0009  late  open  (not over)" in said.out
    assert arsched("wait", "late", "--timeout", "0", "--json").json["timed_out"] is True


def test_a_wait_ends_with_the_decision(play: Play, root: Path) -> None:
    """Time passes only when the waiter sleeps; each sleep lets the lab take one step."""
    play.add("late")
    run = play.ledger.runs.queued("nov23")[0]
    steps = [lambda: play.lease(run), lambda: play.ledger.runs.record(run.id, 1, judged(1.99)), play.decide]
    looks: list[Wait] = []

    def sleep(seconds: float) -> None:
        play.clock.now += seconds
        steps.pop(0)()

    with open_workspace(start=root) as space:
        ended = wait_for(space, ["late"], timeout_s=60, clock=play.clock, sleep=sleep, report=looks.append)
    assert ended.all_ok and not ended.timed_out and not steps
    assert [one.status for one in ended.awaited] == ["discarded"]
    assert len(looks) == 3 and not any(look.all_over for look in looks)


def test_a_cancelled_candidate_is_over_and_not_ok(play: Play, root: Path) -> None:
    play.add("late")
    play.ledger.candidates.cancel("c0009", "by hand")
    with open_workspace(start=root) as space:
        ended = wait_for(space, ["late", "r0013"], timeout_s=None, clock=play.clock, sleep=fail, report=fail)
    assert ended.all_over and not ended.all_ok


def test_waiting_for_nothing_there_is_is_an_error(play: Play, root: Path) -> None:
    with open_workspace(start=root) as space, pytest.raises(UsageProblem):
        wait_for(space, ["depth-1", "nope"], timeout_s=None, clock=play.clock, sleep=fail, report=fail)


def fail(_: object) -> None:
    raise AssertionError("there was nothing to wait for")


@pytest.mark.parametrize(("flags", "heavy"), [((), ""), (("--json",), "rich")])
def test_no_reading_verb_imports_more_than_it_needs(play: Play, root: Path, flags: tuple[str, ...], heavy: str) -> None:
    import subprocess

    checkout = Path(__file__).resolve().parents[2]
    heavy = "git ray torch scipy matplotlib jinja2 " + heavy
    probe = (
        "import sys; from scheduler.cli.main import main\n"
        "for words in ('status', 'leaderboard', 'show last', 'explain last', 'wait depth-1', 'watch --once'):\n"
        f"    try: main.main([*words.split(), *{flags!r}])\n"
        "    except SystemExit as ended: assert not ended.code, words\n"
        f"print([m for m in {heavy.split()!r} if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    said = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=environment, check=True)
    assert said.stdout.splitlines()[-1] == "[]"


def test_the_last_run_of_a_candidate_is_the_last_by_number(play: Play) -> None:
    """r10000 after r9999, in whatever order they are read."""
    play.ledger._database.execute("UPDATE sqlite_sequence SET seq = 9998 WHERE name = 'run'")
    play.add("late")
    play.ledger.runs.add("c0009", RunKind.REPEAT, "one more")
    with open_workspace() as space:
        runs = space.ledger.runs.of_candidate("c0009")
        assert [run.id for run in runs] == ["r9999", "r10000"]
        assert find_run(space, "late").id == "r10000"


def test_the_clock_of_the_play_is_what_golden_files_show() -> None:
    from scheduler.views import utc

    assert utc(START) == "2026-11-23T02:13:20Z"
