"""Starts, watches and ends the outer process of a judge. Linux first: flock, PDEATHSIG by setpriv.

A judge holds two locks. `alive.lock` of its spool is inherited as an open descriptor, so whoever finds the spool later
knows whether that judge still lives. The slot's own lock is taken by the judge and held by its last process, so the
slot is free when that one is. Containing what a candidate starts is the judge's work, not done here.

Must be called from a thread that lives as long as the judge may: PDEATHSIG follows the thread that forked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from scheduler.adapters.slot_layout import SlotSpec
from scheduler.adapters.spool import Spool
from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import RunOrder

TERMINATE_GRACE_S = 3.0
KILL_WAIT_S = 10.0
POLL_S = 0.01
RUN_IF_PARENT_LIVES = 'test "$PPID" = "$1" || exit 1; shift; exec "$@"'


@dataclass(frozen=True, slots=True)
class Commands:
    """Command lines of the referee's two programs; tests put their own here."""

    judge: tuple[str, ...] = (sys.executable, "-m", "harness.judge")
    cache: tuple[str, ...] = (sys.executable, "-m", "harness.cache")


def judge_arguments(spool: Spool, spec: SlotSpec, order: RunOrder, lock: Path) -> list[str]:
    """Arguments of `python -m harness.judge` for one order on one slot."""
    arguments = [
        "--contract", str(spool.contract_path), "--train", str(spool.train_path), "--seed", str(order.seed),
        "--out", str(spool.out), "--device", spec.uuid or "cpu", "--cpus", ",".join(map(str, spec.cpus)),
        "--expect-cache", order.cache_digest, "--lock", str(lock),
    ]  # fmt: skip
    if order.expect_attention is not None:
        arguments += ["--expect-attention", order.expect_attention]
    return arguments


def start_judge(spool: Spool, command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a judge with the spool's alive lock in its hands. Returns at once. Raises PoolProblem."""
    alive = os.open(spool.alive_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with spool.judge_log_path.open("wb") as log, _sigint_unblocked():
            process = subprocess.Popen(
                [*_die_with_parent(), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=spool.directory, env=dict(environment), pass_fds=(alive,),
            )  # fmt: skip
    except OSError as problem:
        raise PoolProblem(f"the judge could not be started: {problem}", "check the node's Python and disk") from None
    finally:
        os.close(alive)  # the judge's copy keeps the lock
    _be_an_ordinary_process(process.pid)
    _note_pid(spool, process)
    return process


def is_alive(spool: Spool) -> bool:
    """Whether some process of the attempt's judge still holds its alive lock."""
    return is_locked(spool.alive_path)


def is_locked(path: Path) -> bool:
    """Whether another process holds a lock on that file; a file that is not there is not locked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def end_judge(spool: Spool, process: subprocess.Popen[bytes] | None, slot_lock: Path) -> bool:
    """Ask, then kill a living judge; True once it is dead and the slot's lock free. `process`: None after a restart."""
    _signal(spool, signal.SIGTERM)
    if not _wait_gone(spool, process, TERMINATE_GRACE_S):
        _signal(spool, signal.SIGKILL)
        _wait_gone(spool, process, KILL_WAIT_S)
    return not is_alive(spool) and _wait(lambda: not is_locked(slot_lock), KILL_WAIT_S)


def await_exit(process: subprocess.Popen[bytes]) -> int | None:
    """Exit code of a process that is about to be gone; None if it is not."""
    try:
        return process.wait(KILL_WAIT_S)
    except subprocess.TimeoutExpired:
        return None


def _note_pid(spool: Spool, process: subprocess.Popen[bytes]) -> None:
    """A judge that could not be found again must not run."""
    try:
        spool.pid_path.write_text(str(process.pid))
    except OSError as problem:
        process.kill()
        process.wait()
        raise PoolProblem(f"the spool cannot be written: {problem}", "free some space on the node") from None


def _signal(spool: Spool, number: signal.Signals) -> None:
    """Signal the judge's outer process. Its pid cannot be another's: the alive lock is held while it lives."""
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(spool.pid_path.read_text()), number)


def _wait_gone(spool: Spool, process: subprocess.Popen[bytes] | None, timeout_s: float) -> bool:
    return _wait(lambda: (process is None or process.poll() is not None) and not is_alive(spool), timeout_s)


def _wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _die_with_parent() -> list[str]:
    """Prefix that has the kernel kill the judge with its supervisor, from its first instruction on.

    Asking for that is too late when the supervisor is dead by then: so the shell looks who its parent is, afterwards.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:  # the judge asks for it too, some milliseconds later
        return []
    return [setpriv, "--pdeathsig", "KILL", "--", "/bin/sh", "-c", RUN_IF_PARENT_LIVES, "judge", str(os.getpid())]


@contextlib.contextmanager
def _sigint_unblocked() -> Iterator[None]:
    """Ray blocks SIGINT in its processes and children inherit the mask."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_an_ordinary_process(pid: int) -> None:
    """Undo Ray's niceness and its first place with the out-of-memory killer, where the kernel lets us."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 0)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("0")
