"""The messages of an evaluation, both halves in one process: shapes, order, and a buffer that is declined."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from harness.contract import Contract
from harness.judge import exchange_host
from harness.judge.evaluation import Evaluation, OpenExchange
from harness.judge.exchange_host import ExchangeUnavailable, HostExchange, NoRoom, SharedMemory
from harness.judge.serving import PlainServing
from harness.logits_server import Buffer, serve
from harness.protocol import Closed, Layout, Message, Op, ProtocolError, receive, send, socket_pair
from harness.rows import padded_batches
from harness.scoring import NonFinite, Score, TokenBytes, tally_logits
from tests.harness.judging import TINY

LENGTH, VOCAB = TINY.sequence_length, TINY.vocab_size
BYTES = TokenBytes(np.full(VOCAB, 2, np.int64), np.full(VOCAB, 3, np.int64))
TABLE = np.random.default_rng(0).normal(0, 2, (VOCAB, VOCAB)).astype(np.float32)


class Answer:
    """Logits that depend on the current token alone."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = tokens

    def write(self, first: int, count: int, buffer: Buffer) -> None:
        assert buffer.host is not None
        buffer.host[:count] = TABLE[self.tokens[first : first + count]]


class DeviceExchange(HostExchange):
    """Offers what a process without a GPU cannot open."""

    op = Op.IPC_BUFFER


def unavailable(_layout: Layout) -> HostExchange:
    raise ExchangeUnavailable("no such way here")


def full(_layout: Layout) -> HostExchange:
    raise NoRoom("nothing free")


def host(layout: Layout) -> HostExchange:
    return HostExchange(layout)


def device(layout: Layout) -> HostExchange:
    return DeviceExchange(layout)


def evaluate(
    rows: np.ndarray,
    batch_size: int,
    slice_rows: int,
    forward: Callable[[np.ndarray], Answer] = Answer,
    openers: tuple[OpenExchange, ...] = (host,),
    used: list[str | None] | None = None,
) -> Score:
    """Run judge and candidate against each other to the end; returns the judge's score, and adds to `used`."""
    ours, theirs = socket_pair()
    with ours, theirs:
        received: list[float] = []
        candidate = threading.Thread(target=run_candidate, args=(theirs, forward, batch_size, received))
        candidate.start()
        try:
            score = run_judge(ours, rows, slice_rows, openers, used)
        finally:
            ours.close()
            candidate.join()
    assert received == [score.val_bpb]
    return score


def run_candidate(
    sock: socket.socket, forward: Callable[[np.ndarray], Answer], size: int, received: list[float]
) -> None:
    contract: Contract = TINY
    with contextlib.suppress(SystemExit):
        received.append(serve(sock, forward, size, contract))


def run_judge(
    sock: socket.socket,
    rows: np.ndarray,
    slice_rows: int,
    openers: tuple[OpenExchange, ...],
    used: list[str | None] | None = None,
) -> Score:
    forward_rows = min(receive(sock).integer, len(rows))
    layout = Layout(forward_rows, min(slice_rows, forward_rows), LENGTH, VOCAB)
    serving = PlainServing(rows, forward_rows, layout.slice_rows, BYTES)
    evaluation = Evaluation(serving, layout, iter(openers), lambda message, fds: send(sock, message, fds))
    try:
        while not evaluation.over:
            evaluation.on_message(receive(sock))
        if used is not None:
            used.append(evaluation.exchange)
        return serving.score
    finally:
        evaluation.close()


def random_rows(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, (count, LENGTH + 1)).astype(np.uint16)


@pytest.mark.parametrize("rows", [1, 5, 12])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 100])
@pytest.mark.parametrize("slice_rows", [1, 3, 100])
def test_every_row_counts_once_however_it_is_cut(rows: int, batch_size: int, slice_rows: int) -> None:
    given = random_rows(rows)
    expected = tally_logits(TABLE[given[:, :-1]], given[:, 1:], BYTES).score()
    assert evaluate(given, batch_size, slice_rows).val_bpb == pytest.approx(expected.val_bpb, rel=1e-12)


def test_every_forward_has_the_same_shape() -> None:
    shapes: list[tuple[int, ...]] = []

    def forward(tokens: np.ndarray) -> Answer:
        shapes.append(tokens.shape)
        return Answer(tokens)

    evaluate(random_rows(10), 4, 2, forward)
    assert shapes == [(4, LENGTH)] * 3


def test_logits_are_gone_before_the_next_forward() -> None:
    """A forward of the standard benchmark has 8 GiB of them."""
    last: list[weakref.ref[Answer]] = []
    kept: list[bool] = []

    def forward(tokens: np.ndarray) -> Answer:
        kept.append(any(reference() is not None for reference in last))
        answer = Answer(tokens)
        last.append(weakref.ref(answer))
        return answer

    evaluate(random_rows(10), 4, 2, forward)
    assert kept == [False, False, False]


def test_padding_repeats_rows_already_served() -> None:
    given = random_rows(7)
    *full, last = padded_batches(given, 4)
    assert [batch.valid for batch in (*full, last)] == [4, 3]
    assert np.array_equal(last.rows, np.concatenate([given[4:], given[:1]]))


def test_a_buffer_that_cannot_be_opened_is_followed_by_the_next() -> None:
    given = random_rows(6)
    plain = evaluate(given, 4, 2)
    assert evaluate(given, 4, 2, openers=(unavailable, device, host)) == plain


def test_when_no_buffer_will_do_the_reasons_are_given() -> None:
    """Nothing a candidate could help: it is no breach."""
    with pytest.raises(ExchangeUnavailable, match="could not open the IPC_BUFFER; no such way here"):
        evaluate(random_rows(6), 4, 2, openers=(device, unavailable))


@pytest.mark.parametrize("openers", [(full, unavailable), (unavailable, full), (full, device)])
def test_when_one_transport_found_no_room_and_none_is_left_it_is_for_lack_of_room(
    openers: tuple[OpenExchange, ...],
) -> None:
    with pytest.raises(NoRoom, match="nothing free"):
        evaluate(random_rows(6), 4, 2, openers=openers)


def test_a_transport_without_room_is_followed_by_the_next() -> None:
    assert evaluate(random_rows(6), 4, 2, openers=(full, host)) == evaluate(random_rows(6), 4, 2)


def test_nothing_is_taken_before_the_candidate_has_made_room() -> None:
    """What the candidate still holds when it asks for its evaluation may be all there is."""
    taken: list[str] = []

    def watched(layout: Layout) -> HostExchange:
        taken.append("buffer")
        return host(layout)

    ours, theirs = socket_pair()
    with ours, theirs:
        candidate = threading.Thread(
            target=serve, args=(theirs, Answer, 4, TINY), kwargs={"make_room": lambda: taken.append("room")}
        )
        candidate.start()
        run_judge(ours, random_rows(4), 2, (watched,))
        candidate.join()
    assert taken == ["room", "buffer"]


def test_the_next_request_waits_poisoned_before_the_last_answer_is_reduced() -> None:
    """What a candidate leaves of an earlier slice is gone by the time it may say DONE again."""

    class Lazy(Answer):
        def write(self, first: int, count: int, buffer: Buffer) -> None:
            if first == 0:
                super().write(first, count, buffer)

    with pytest.raises(NonFinite):
        evaluate(random_rows(4), 4, 2, Lazy)


def test_what_is_reduced_is_out_of_the_candidates_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = HostExchange(Layout(2, 2, LENGTH, VOCAB))
    shared: list[bool] = []

    def watched(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
        shared.append(np.shares_memory(logits, exchange._logits))
        return np.zeros(ids.shape, np.float32)

    monkeypatch.setattr(exchange_host, "log_probabilities", watched)
    exchange.reduce(exchange.snapshot(2), [np.zeros((LENGTH, 1), np.int64)] * 2)
    assert shared == [False, False]
    exchange.close()


FILLS = {
    "nothing written": "pass",
    "one logit missing": "view[...] = 0; view[-1, -1, -1] = np.nan",
    "nan": "view[...] = np.nan",
    "plus infinity": "view[...] = 0; view[:, :, 5] = np.inf",
    "minus infinity": "view[...] = -np.inf",
    "target ruled out": "view[...] = -np.inf; view[:, :, 0] = 0",
}


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS.keys())
def test_logits_that_are_no_probabilities_have_no_score(fill: str) -> None:
    class Filler(Answer):
        def write(self, first: int, count: int, buffer: Buffer) -> None:
            assert buffer.host is not None
            exec(fill, {"view": buffer.host[:count], "np": np})

    with pytest.raises(NonFinite):
        evaluate(random_rows(4), 4, 4, Filler)


def test_the_candidate_hears_when_its_judge_is_gone() -> None:
    ours, theirs = socket_pair()
    with theirs:
        ours.close()
        with pytest.raises(SystemExit, match="judge is gone"):
            serve(theirs, Answer, 4, TINY)


@pytest.fixture
def shared() -> Iterator[SharedMemory]:
    shared = SharedMemory(1 << 16)
    yield shared
    shared.close()


@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_shared_memory_keeps_its_size(shared: SharedMemory, size: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(shared.fd, size)


def test_a_second_ready_is_a_breach() -> None:
    serving = PlainServing(random_rows(4), 4, 2, BYTES)
    evaluation = Evaluation(serving, Layout(4, 2, LENGTH, VOCAB), iter([host]), lambda message, fds: None)
    evaluation.on_message(Message(Op.ROOM))
    evaluation.on_message(Message(Op.READY, count=1))
    with pytest.raises(ProtocolError):
        evaluation.on_message(Message(Op.READY, count=1))
    evaluation.close()


def test_closed_is_not_mistaken_for_an_answer() -> None:
    ours, theirs = socket_pair()
    with ours:
        theirs.close()
        with pytest.raises(Closed):
            run_judge(ours, random_rows(4), 2, (host,))
