"""What a candidate may send and when: every breach of the protocol, against the judge's state machine in this process.

Real sockets and the real cache; no candidate process. A whole judge's verdicts are in test_judge_hostile.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.judge.clock import BudgetClock, PhaseTimeline
from harness.judge.cpu_time import PolledClock
from harness.judge.data import judge_data
from harness.judge.evaluation import transports
from harness.judge.protocol_session import ProtocolSession
from harness.judge.report import JudgeVerdict
from harness.protocol import Message, Op, receive_with_fds, send, socket_pair
from harness.rows import first_training_row
from tests.harness.judging import Rig


@dataclasses.dataclass
class Dialogue:
    """The judge's half, and the socket of a candidate that is not there."""

    judge: ProtocolSession
    socket: socket.socket

    def verdict_after(self, statements: str) -> JudgeVerdict | None:
        """What the judge makes of these statements, which see `sock`."""
        exec(statements, {"sock": self.socket, "send": send, "Message": Message, "Op": Op, "struct": struct})
        self.judge.listen()
        return self.judge.verdict


@pytest.fixture
def dialogue(tmp_path: Path) -> Iterator[Dialogue]:
    rig = Rig(tmp_path)
    ours, theirs = socket_pair()
    with theirs, judge_data(rig.cache()) as data:
        judge = ProtocolSession(
            SimpleNamespace(contract=rig.contract, expect_attention=None, seed=5),  # type: ignore[arg-type]
            data,
            SimpleNamespace(socket=ours, timeline=PhaseTimeline()),  # type: ignore[arg-type]
            BudgetClock(rig.contract.budget, PolledClock(os.getpid(), own_namespace=False)),
            transports(rig.contract, "auto", on_gpu=False),
        )
        yield Dialogue(judge, theirs)
        judge.close()


ASK = "send(sock, Message(Op.START)); send(sock, Message(Op.EVAL, integer=8))"
JUNK = {
    "short": "sock.send(b'hello')",
    "oversize": "sock.send(bytes(65536))",
    "one byte too long": "sock.send(Message(Op.HELLO).pack() + b'!')",
    "unknown operation": "sock.send(struct.pack('<HHIqd', 99, 1, 0, 0, 0.0))",
    "wrong version": "sock.send(struct.pack('<HHIqd', 1, 7, 0, 0, 0.0))",
    "the judge's word": "send(sock, Message(Op.END, real=0.1))",
    "two hellos": "send(sock, Message(Op.HELLO)); send(sock, Message(Op.HELLO))",
    "two starts": "send(sock, Message(Op.START)); send(sock, Message(Op.START))",
    "warming after start": "send(sock, Message(Op.START)); send(sock, Message(Op.WARMING))",
    "no such attention": "send(sock, Message(Op.ATTENTION, count=4000000000))",
    "done before eval": "send(sock, Message(Op.START)); send(sock, Message(Op.DONE, count=1))",
    "batch size zero": "send(sock, Message(Op.START)); send(sock, Message(Op.EVAL, integer=0))",
    "batch size negative": "send(sock, Message(Op.START)); send(sock, Message(Op.EVAL, integer=-8))",
    "batch size absurd": "send(sock, Message(Op.START)); send(sock, Message(Op.EVAL, integer=2**62))",
    "no buffer will do": "\n".join(
        f"send(sock, Message(Op.{op}, integer={integer}))"
        for op, integer in (("START", 0), ("EVAL", 8), ("ROOM", 0), ("READY", 0))
    ),
    "done out of order": "\n".join(
        f"send(sock, Message(Op.{op}, count={count}, integer=8))"
        for op, count in (("START", 0), ("EVAL", 0), ("ROOM", 0), ("READY", 1), ("DONE", 2))
    ),
    "room before eval": "send(sock, Message(Op.START)); send(sock, Message(Op.ROOM))",
    "room twice": f"{ASK}; send(sock, Message(Op.ROOM)); send(sock, Message(Op.ROOM))",
    "ready before room": f"{ASK}; send(sock, Message(Op.READY, count=1))",
    "done before room": f"{ASK}; send(sock, Message(Op.DONE, count=0))",
    "ready twice": f"{ASK}; send(sock, Message(Op.ROOM))" + "; send(sock, Message(Op.READY, count=1))" * 2,
    "no such opening": f"{ASK}; send(sock, Message(Op.ROOM)); send(sock, Message(Op.READY, count=3))",
    "an absurd opening": f"{ASK}; send(sock, Message(Op.ROOM)); send(sock, Message(Op.READY, count=2**32 - 1))",
    "a descriptor with ready": f"{ASK}; send(sock, Message(Op.ROOM)); send(sock, Message(Op.READY, count=1), (0,))",
    "a descriptor with room": f"{ASK}; send(sock, Message(Op.ROOM), (0, 1))",
    "the judge's offer": f"{ASK}; send(sock, Message(Op.FD_BUFFER, count=1, integer=1))",
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK.keys())
def test_junk_breaks_the_protocol(dialogue: Dialogue, junk: str) -> None:
    verdict = dialogue.verdict_after(junk)
    assert verdict is not None and verdict.status == "invalid: protocol" and "broke the protocol" in verdict.reason
    assert dialogue.judge.score is None


@pytest.mark.parametrize("said", ["", "send(sock, Message(Op.ROOM))", "send(sock, Message(Op.STEP, count=3))"])
def test_what_is_in_order_breaks_nothing(dialogue: Dialogue, said: str) -> None:
    assert dialogue.verdict_after(f"{ASK}; {said}") is None
    assert dialogue.judge.exchange is None


def test_the_seed_says_where_training_begins(dialogue: Dialogue) -> None:
    assert dialogue.verdict_after("send(sock, Message(Op.START))") is None
    answer, fds = receive_with_fds(dialogue.socket)
    for fd in fds:
        os.close(fd)
    assert answer.count == first_training_row(5, answer.integer) > 0


def test_an_evaluation_without_a_start_is_refused(dialogue: Dialogue) -> None:
    verdict = dialogue.verdict_after("send(sock, Message(Op.EVAL, integer=8))")
    assert verdict is not None and verdict.status == "invalid: no-start"


def test_the_first_breach_decides(dialogue: Dialogue) -> None:
    verdict = dialogue.verdict_after("send(sock, Message(Op.EVAL, integer=8)); sock.send(b'junk')")
    assert verdict is not None and verdict.status == "invalid: no-start"


def test_a_closed_socket_is_no_breach(dialogue: Dialogue) -> None:
    dialogue.socket.close()
    assert dialogue.judge.listen() is False and dialogue.judge.verdict is None
