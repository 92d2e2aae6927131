"""Whether a Ray head listens at an address, asked of its port and never of Ray, which hangs or ends its process then.

Not covered: whether a driver with that version and token may join, and which nodes there are.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from enum import Enum

from scheduler.ray.failures import first_words, join_failure, loopback_failure, silent_failure

LISTENS_S = 15.0  # a head on a busy machine, whose actors all join, needs more than five to greet
CONNECT_S, ANSWER_S = 1.0, 3.0
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and empty SETTINGS
SETTINGS_FRAME = 4  # the type of the first frame, its fourth byte (RFC 9113, 3.4 and 4.1)


class Head(Enum):
    """SILENT: something takes connections there and does not answer as a head does: it hangs, or is another program."""

    THERE = "there"
    SILENT = "silent"
    AWAY = "away"


def look_for_head(address: str) -> Head:
    """What is at "host:port" now, in four seconds at most; what is no such address counts as THERE."""
    place = _place(address)
    if place is None:
        return Head.THERE
    try:
        with socket.create_connection(place, CONNECT_S) as there:
            there.settimeout(ANSWER_S)
            return Head.THERE if _is_head(_greet(there)) else Head.SILENT
    except OSError:
        return Head.AWAY


def takes_connections(address: str) -> bool:
    """In a second at most; True for what is no "host:port"."""
    place = _place(address)
    if place is None:
        return True
    with suppress(OSError):
        socket.create_connection(place, CONNECT_S).close()
        return True
    return False


def refuse_unless_listening(where: str) -> None:
    """Ray itself would try for minutes. Raises PoolProblem when no Ray head listens at that "host:port"."""
    place = _place(where)
    if place is None:
        return
    try:
        with socket.create_connection(place, LISTENS_S) as there:
            answer = _greet(there)
    except OSError as problem:
        raise join_failure(where, problem.strerror or first_words(str(problem))) from None
    if not _is_head(answer):
        raise silent_failure(where, answer or b"")


def refuse_without_loopback() -> None:
    """Ray's own processes would wait for each other without end. Raises PoolProblem where 127.0.0.1 is not reached."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as own:
            socket.create_connection(own.getsockname(), CONNECT_S).close()
    except OSError as problem:
        raise loopback_failure(problem.strerror or first_words(str(problem))) from None


def _place(address: str) -> tuple[str, int] | None:
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else None


def _is_head(answer: bytes | None) -> bool:
    return answer is None or answer[3:4] == bytes((SETTINGS_FRAME,))


def _greet(there: socket.socket) -> bytes | None:
    """The first bytes of what answers as HTTP/2, which Ray's heads speak; empty where nothing comes in time.

    None where nothing is asked, because the connection would have to be made with a certificate.
    """
    if os.environ.get("RAY_USE_TLS") == "1":
        return None
    with suppress(OSError):
        there.sendall(HTTP2_GREETING)
        return there.recv(9)
    return b""
