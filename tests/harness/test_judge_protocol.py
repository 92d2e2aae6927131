"""Messages: whatever bytes arrive, they are one known message or a ProtocolError, and nothing else comes along."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.protocol import (
    MESSAGE_BYTES,
    Closed,
    Message,
    Op,
    ProtocolError,
    receive,
    receive_with_fds,
    send,
    socket_pair,
    unpack,
)

messages = st.builds(
    Message,
    st.sampled_from(Op),
    st.integers(0, 2**32 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket_pair()
    with ours, theirs:
        yield ours, theirs


@given(messages)
def test_a_message_survives_the_way(message: Message) -> None:
    assert len(message.pack()) == MESSAGE_BYTES == 24
    assert unpack(message.pack()) == message


@given(st.binary(max_size=64))
def test_bytes_are_a_message_or_an_error(data: bytes) -> None:
    try:
        assert unpack(data).op in Op
    except ProtocolError:
        return
    assert len(data) == MESSAGE_BYTES


@pytest.mark.parametrize("size", [1, 23, 25, 4096, 100_000])
def test_packets_of_another_length_are_refused_whole(pair: tuple[socket.socket, socket.socket], size: int) -> None:
    ours, theirs = pair
    theirs.send((Message(Op.HELLO).pack() * 5000)[:size])
    theirs.send(Message(Op.HELLO).pack())
    with pytest.raises(ProtocolError):
        receive(ours)
    assert receive(ours) == Message(Op.HELLO)


def test_descriptors_reach_only_who_asks_for_them(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    read_end, write_end = os.pipe()
    try:
        before = len(os.listdir("/proc/self/fd"))
        send(theirs, Message(Op.HELLO), (read_end, write_end))
        with pytest.raises(ProtocolError, match="descriptors"):
            receive(ours)
        assert len(os.listdir("/proc/self/fd")) == before, "a smuggled descriptor stayed open"
        send(ours, Message(Op.ROWS), (read_end,))
        message, fds = receive_with_fds(theirs)
        assert (message.op, len(fds)) == (Op.ROWS, 1)
        assert os.fstat(fds[0]).st_ino == os.fstat(read_end).st_ino
        os.close(fds[0])
    finally:
        os.close(read_end)
        os.close(write_end)


def test_a_peer_that_is_gone_is_recognised(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(Closed):
        receive(ours)
    with pytest.raises(Closed):
        send(ours, Message(Op.END))


def test_last_messages_arrive_although_the_peer_read_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    send(ours, Message(Op.ROWS))
    send(theirs, Message(Op.READY))
    send(theirs, Message(Op.DONE))
    theirs.close()
    assert [receive(ours).op, receive(ours).op] == [Op.READY, Op.DONE]
    with pytest.raises(Closed):
        receive(ours)


def test_a_peer_that_does_not_read_cannot_block_the_judge(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    ours.setblocking(False)
    with pytest.raises(ProtocolError, match="unread"):
        for _ in range(100_000):
            send(ours, Message(Op.BATCH))
