"""Ray's failures in words: pure functions from its texts to a message and the hint of that very cause.

Also what an --address can be, and whether slots that did not come were held by others. Contacts nothing.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from scheduler.domain.errors import HeadGone, PoolProblem, UsageProblem

DASHBOARD_PORT = "8265"
ADDRESS_HINT = "give host:port as `ray start` printed it, mostly HOST:6379, or --address auto on a node of the cluster"
GONE_HINT = (
    "is the cluster still up (`ray status` on its head)? start one with `ray up cluster.yaml` or `ray start --head`; "
    "without --address arsched uses this machine alone"
)
BUSY_HINT = (
    "this machine may be too busy to start processes in time (see `uptime`): nothing is lost; run the same command "
    "again, best when it is quieter"
)
OWN_NAME_HINT = "this machine has to find itself: put its name (`hostname`) into /etc/hosts"
_HERE = {GONE_HINT: BUSY_HINT, ADDRESS_HINT: OWN_NAME_HINT}  # where no cluster was asked for, but Ray's own processes


class RayFailure(NamedTuple):
    """What went wrong and what to do next."""

    message: str
    hint: str


# The first that matches counts: part of Ray's text, what it means ("" for the line of Ray's that has it), what to do.
_CAUSES = (
    (
        r"AF_UNIX path length",
        "the path of Ray's sockets is too long",
        "set TMPDIR to a short path, like /tmp",
    ),
    (
        r"Version mismatch",
        "",
        "install the same Ray and Python here as on the cluster's nodes, see constraints.txt",
    ),
    (
        r"/dev/shm|object store memory size is greater|plasma.*(?:memory|space)|ftruncate|mmap failed",
        "",
        "make room in /dev/shm (df -h /dev/shm; a container takes --shm-size=2g)",
    ),
    (
        r"No space left on device|Disk quota exceeded",
        "",
        "make room where temporary files lie (df -h /tmp), or set TMPDIR to a short path on a disk with room",
    ),
    (
        r"Resource temporarily unavailable|[Cc]an't start new thread|Cannot fork|pthread_create",
        "",
        "this machine starts no more processes: see what else runs, and the limits (ulimit -u)",
    ),
    (
        r"Too many open files",
        "",
        "this process may not open more files: raise the limit (ulimit -n)",
    ),
    (
        r"Permission denied",
        "",
        "let this user write there, or set TMPDIR to a folder of its own",
    ),
    (
        r"[Aa]uthenticat|InvalidAuthToken|[Uu]nauthenticated|token is (?:missing|required|invalid)",
        "",
        "the cluster wants its token: put it into ~/.ray/auth_token or RAY_AUTH_TOKEN, as on its head",
    ),
    (
        r"Found multiple active Ray instances",
        "",
        "several clusters run on this machine: name one, --address HOST:PORT",
    ),
    (
        r"Could not find any running Ray instance|No node info found|Failed to get node info",
        "no Ray cluster runs on this machine",
        "start one with `ray start --head`, name one with --address HOST:PORT, or leave --address away: "
        "this machine alone",
    ),
    (
        r"Connection refused|Failed to connect to GCS|GCS|[Tt]imed out|unreachable|No route to host",
        "",
        GONE_HINT,
    ),
    (
        r"Name or service not known|Temporary failure in name resolution|nodename nor servname|No address associated",
        "this machine cannot resolve that host name",
        ADDRESS_HINT,
    ),
)


def explain_failure(text: str) -> RayFailure | None:
    """What Ray's text says in one line, and what to do about it; None for a cause that is not known here."""
    for pattern, meaning, hint in _CAUSES:
        if re.search(pattern, text):
            return RayFailure(_versions(text) or meaning or _line_with(pattern, text), hint)
    return None


def start_failure(text: str) -> PoolProblem:
    """Why Ray could not be started on this machine."""
    message, hint = explain_failure(text) or RayFailure(
        first_words(text), "see what else runs here (`ps ax`), and the room in /tmp and /dev/shm; then try again"
    )
    return PoolProblem(f"Ray could not be started on this machine: {message}", _HERE.get(hint, hint))


def loopback_failure(reason: str) -> PoolProblem:
    """Nothing that is started on this machine can be reached from it."""
    hint = "Ray needs the loopback interface, without any other network too: as root, ip link set lo up"
    return PoolProblem(f"this machine does not reach itself at 127.0.0.1: {reason}", hint)


def join_failure(where: str, text: str) -> PoolProblem:
    """Why the cluster at "host:port", or at this machine (""), could not be joined."""
    message, hint = explain_failure(text) or RayFailure(first_words(text), GONE_HINT)
    return PoolProblem(f"no Ray cluster could be joined at {where or 'this machine'}: {message}", hint)


def silent_failure(where: str, answer: bytes) -> PoolProblem:
    """Something at "host:port" takes connections and does not speak as a Ray head does; `answer`: what it said."""
    if answer:
        return PoolProblem(f"what listens at {where} is no Ray head", ADDRESS_HINT)
    hint = f"the host may hang, or a proxy or firewall stands in between; {GONE_HINT}"
    return PoolProblem(f"{where} takes connections and never answers", hint)


def gone_failure(address: str) -> HeadGone:
    """The head of a cluster that was joined does not take connections any more."""
    hint = "nothing is lost; once its head is back (`ray status` there), the same command goes on"
    return HeadGone(f"the Ray cluster at {address} is gone: its head takes no connections", hint)


def slots_failure(slots: int, free: str, *, embedded: bool, any_free: bool) -> PoolProblem:
    """Why none of the slots answered in time. `free`: what Ray has left to hand out."""
    if embedded:
        hint = "this machine may be too busy (see `uptime`): try again when it is quieter, or with fewer --slots"
        return PoolProblem(f"none of {slots} slots came up in time: Ray's workers did not start ({free})", hint)
    if any_free:
        hint = "look at the nodes with `ray status`; every node needs arsched installed, see cluster.yaml"
        return PoolProblem(f"none of {slots} slots answered in time, though Ray has room for some ({free})", hint)
    hint = "other jobs on this Ray cluster hold them: see `ray status`"
    return PoolProblem(f"Ray gave none of {slots} slots a place in time ({free})", hint)


def check_address(address: str) -> None:
    """Raises UsageProblem for what is neither "auto" nor host:port; a dashboard's address is named as that."""
    if address.startswith("ray://"):
        raise UsageProblem(f"{address} is a Ray Client address", "run arsched on the head node, with --address auto")
    host, _, port = address.rpartition(":")
    if address.startswith(("http://", "https://")) or port == DASHBOARD_PORT:
        host = urlsplit(address).hostname or host or "HOST"
        hint = f"the cluster itself mostly listens at {host}:6379; on its head node: --address auto"
        raise UsageProblem(f"{address} is the address of Ray's dashboard, not of the cluster", hint)
    if address != "auto" and not (host and port.isdecimal() and 1024 <= int(port) <= 65535):
        raise UsageProblem(f"{address!r} is no address of a Ray cluster", ADDRESS_HINT)


def first_words(text: str) -> str:
    """The first line with anything on it."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "it gave no reason")


def _line_with(pattern: str, text: str) -> str:
    found = (line.strip() for line in text.splitlines() if re.search(pattern, line))
    return next(found, first_words(text))


def _versions(text: str) -> str:
    """Both sides of Ray's "Version mismatch", which it writes on six lines."""
    if "Version mismatch" not in text:
        return ""
    rays, pythons = re.findall(r"Ray: (\S+)", text), re.findall(r"Python: (\S+)", text)
    if len(rays) < 2 or len(pythons) < 2:
        return ""
    there, here = (f"Ray {ray} on Python {python}" for ray, python in zip(rays[:2], pythons[:2], strict=True))
    return f"the cluster has {there}, this machine has {here}"
