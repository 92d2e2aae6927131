"""The lines proposer against programs that answer well, late, wrongly, too much, or not at all."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.domain.errors import ProposerProblem, UsageProblem
from scheduler.domain.search import NoIdea, ProposalFailure, Proposed, Proposer
from scheduler.proposers.lines import make
from tests.scheduler.proposer_kit import MARK, collect, make_ask, make_setup, make_trial, marked
from tests.waiting import wait_until

SOURCE = b"DEPTH = 4  # layers\nMATRIX_LR = 0.04\n"
START = "import json, sys, time, os\ndef say(**words): print(json.dumps(words), flush=True)\n"
EVERY = "for line in sys.stdin:\n    ask = json.loads(line)\n    "


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    value = uuid.uuid4().hex
    monkeypatch.setenv(MARK, value)
    yield value
    for pid in marked(value):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def speaker(tmp_path: Path, mark: str, clock: Clock) -> Iterator:
    """Makes a proposer around a program; all are closed, and nothing may be left of them."""
    made: list[Proposer] = []

    def start(program: str, **options: str) -> Proposer:
        (tmp_path / "speaker.py").write_text(START + program)
        setup = make_setup(tmp_path, {"command": f"{sys.executable} -S speaker.py", **options}, name="lines")
        made.append(make(dataclasses.replace(setup, clock=clock)))
        return made[-1]

    yield start
    for proposer in made:
        proposer.close()
    assert marked(mark) == []


def only(proposer: Proposer, ask_id: str = "p0001", **given) -> Proposed | NoIdea:
    proposer.ask(make_ask(SOURCE, ask_id, **given))
    [answer] = collect(proposer)
    assert answer.ask_id == ask_id
    return answer


def test_constants_are_written_into_the_source(speaker) -> None:
    proposer = speaker(
        EVERY + "say(ask=ask['ask'], constants={'DEPTH': 3, 'MATRIX_LR': 0.06}, theme='t', parents=['c1'])"
    )
    assert only(proposer) == Proposed(
        "p0001", b"DEPTH = 3  # layers\nMATRIX_LR = 0.06\n", "DEPTH 4 → 3, MATRIX_LR 0.04 → 0.06", "", "t", ("c1",)
    )


def test_a_whole_source_is_taken_as_it_is(speaker) -> None:
    proposer = speaker(
        EVERY + "say(ask=ask['ask'], train_py=ask['train_py'] + 'X = \"é\"\\n', title='T', hypothesis='H')"
    )
    assert only(proposer) == Proposed("p0001", SOURCE + 'X = "é"\n'.encode(), "T", "H")


def test_an_ask_tells_all_it_knows(speaker) -> None:
    proposer = speaker(EVERY + "say(ask=ask['ask'], no_idea=json.dumps([ask[k] for k in sorted(ask) if k != 'ask']))")
    answer = only(proposer, seed=5, trials=[make_trial(SOURCE, 1.5), make_trial(SOURCE, failure="crashed")])
    assert isinstance(answer, NoIdea)
    for said in ('"c0001"', "# Notes", "1.5", "crashed", "DEPTH = 4", '"pending": false'):
        assert said in answer.reason


def test_answers_come_in_any_order_and_one_process_serves_them(speaker) -> None:
    program = """
first, second = (json.loads(sys.stdin.readline()) for _ in range(2))
for ask in (second, first): say(ask=ask["ask"], constants={"DEPTH": 10 + ask["seed"]})
for line in sys.stdin: say(ask=json.loads(line)["ask"], no_idea=str(os.getpid()))
"""
    proposer = speaker(program, capacity="2")
    assert proposer.capacity == 2
    proposer.ask(make_ask(SOURCE, "p0001", seed=1))
    proposer.ask(make_ask(SOURCE, "p0002", seed=2))
    answers = collect(proposer, 2)
    assert [answer.ask_id for answer in answers] == ["p0002", "p0001"]
    assert [answer.title for answer in answers] == ["DEPTH 4 → 12", "DEPTH 4 → 11"]
    assert only(proposer, "p0003").reason == only(proposer, "p0004").reason


@pytest.mark.parametrize(
    ("answer", "trouble", "said"),
    [
        ("no_idea='tired'", ProposalFailure.UNCHANGED, "tired"),
        ("no_idea='done', exhausted=True", ProposalFailure.EXHAUSTED, "done"),
        ("train_py=ask['train_py']", ProposalFailure.UNCHANGED, "as it was"),
        ("constants={'DEPTH': 4}", ProposalFailure.UNCHANGED, "as it was"),
        ("constants={'DEPHT': 4}", ProposalFailure.REFUSED, "DEPHT"),
        ("constants={'DEPTH': float('inf')}", ProposalFailure.REFUSED, "DEPTH"),
        ("constants={'DEPTH': None}", ProposalFailure.MALFORMED, "DEPTH"),
        ("constants={'DEPTH': {}}", ProposalFailure.MALFORMED, "DEPTH"),
        ("train_py=3", ProposalFailure.MALFORMED, "train_py"),
        ("title='no source'", ProposalFailure.MALFORMED, "train_py"),
        ("train_py='', constants={}", ProposalFailure.MALFORMED, "one of"),
        ("patch='no diff'", ProposalFailure.REFUSED, "the patch does not apply"),
    ],
)
def test_what_is_no_idea_says_why_and_the_program_goes_on(
    speaker, answer: str, trouble: ProposalFailure, said: str
) -> None:
    pid = "say(ask=ask['ask'], no_idea=str(os.getpid()))"
    proposer = speaker(f"{EVERY}say(ask=ask['ask'], {answer}) if ask['seed'] else {pid}")
    before = only(proposer, "p0001", seed=0)
    found = only(proposer, "p0002")
    assert isinstance(found, NoIdea)
    assert (found.trouble, said in found.reason) == (trouble, True), found
    assert only(proposer, "p0003", seed=0).reason == before.reason


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("print('thinking \\x1b[31mhard', flush=True); time.sleep(600)", "'thinking ?[31mhard'"),
        ("print('[]', flush=True); time.sleep(600)", "'[]'"),
        ("print('[' * 100000, flush=True); time.sleep(600)", "'[[["),
        ("say(ask='p9999', no_idea=''); time.sleep(600)", "not open"),
        ("say(ask=7); time.sleep(600)", 'without "ask"'),
        ("sys.stdout.buffer.write(b'\\xff\\n'); sys.stdout.flush(); time.sleep(600)", "not JSON"),
        ("while True: print('x' * 100000, end='', flush=True)", "1,048,576 bytes"),
    ],
)
def test_nonsense_is_quoted_and_its_author_ended(speaker, mark: str, program: str, said: str) -> None:
    proposer = speaker(program)
    found = only(proposer)
    assert isinstance(found, NoIdea)
    assert (found.trouble, said in found.reason) == (ProposalFailure.MALFORMED, True), found
    assert found.reason.isprintable() and len(found.reason) < 300
    assert marked(mark) == []


def test_one_that_dies_is_started_again_so_many_times(speaker, tmp_path: Path) -> None:
    proposer = speaker("print('no key', file=sys.stderr); sys.stdin.readline(); sys.exit(4)", retries="1")
    for number in (1, 2):
        found = only(proposer, f"p000{number}")
        assert (found.trouble, found.reason) == (ProposalFailure.CRASHED, "it ended with exit code 4: no key")
        assert found.log == "no key\n"
    with pytest.raises(ProposerProblem, match="2 times in a row: it ended with exit code 4"):
        proposer.ask(make_ask(SOURCE, "p0003"))
    assert proposer.poll() == ()


def test_a_program_may_leave_after_every_answer(speaker) -> None:
    """Also while the next ask is already on its way to it."""
    proposer = speaker(
        "ask = json.loads(sys.stdin.readline())\nsay(ask=ask['ask'], constants={'DEPTH': 3})", retries="0"
    )
    for number in range(1, 4):
        assert isinstance(only(proposer, f"p000{number}"), Proposed)


def test_silence_ends_at_the_limit(speaker, clock: Clock, mark: str) -> None:
    proposer = speaker(
        "signal = __import__('signal'); signal.signal(15, signal.SIG_IGN)\nsys.stdin.readline(); time.sleep(600)",
        limit_s="30",
    )
    proposer.ask(make_ask(SOURCE))
    clock.now = 29.0
    assert proposer.poll() == ()
    clock.now = 31.0
    [found] = collect(proposer)
    assert (found.trouble, found.reason) == (ProposalFailure.TIMED_OUT, "it was still silent after 30 s")
    assert marked(mark) == []


def test_a_late_answer_is_no_nonsense(speaker, clock: Clock, tmp_path: Path) -> None:
    program = f"""
late, other = (json.loads(sys.stdin.readline()) for _ in range(2))
while not os.path.exists({str(tmp_path / "go")!r}): time.sleep(0.01)
say(ask=late["ask"], constants={{"DEPTH": 3}})
say(ask=other["ask"], constants={{"DEPTH": 2}})
"""
    proposer = speaker(program, capacity="2", limit_s="30")
    proposer.ask(make_ask(SOURCE, "p0001"))
    clock.now = 20.0
    proposer.ask(make_ask(SOURCE, "p0002"))
    clock.now = 31.0
    [first] = collect(proposer)
    (tmp_path / "go").touch()
    [second] = collect(proposer)
    assert (first.ask_id, first.trouble) == ("p0001", ProposalFailure.TIMED_OUT)
    assert isinstance(second, Proposed) and second.ask_id == "p0002"


def test_one_that_does_not_read_stops_no_one(speaker, clock: Clock) -> None:
    proposer = speaker("time.sleep(600)", limit_s="5")
    proposer.ask(dataclasses.replace(make_ask(SOURCE), brief="x" * 1_000_000))
    assert proposer.poll() == ()
    clock.now = 6.0
    assert collect(proposer)[0].trouble is ProposalFailure.TIMED_OUT


def test_closing_ends_its_daemons_too(speaker, mark: str, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    proposer = speaker(f"os.fork() or (os.setsid(), open({str(ready)!r}, 'w'), time.sleep(600))\ntime.sleep(600)")
    proposer.ask(make_ask(SOURCE))
    wait_until(ready.exists, "the daemon")
    proposer.close()
    assert marked(mark) == []
    assert proposer.poll() == ()


def test_it_wants_a_command(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="wants a command"):
        make(make_setup(tmp_path, {}))
