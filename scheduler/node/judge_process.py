"""Starts, watches and ends the outer process of a judge, in an environment of its own. Linux: flock, PDEATHSIG.

Must be called from a thread that lives as long as the judge may: PDEATHSIG follows the thread that forked. Not covered:
containing what a candidate starts, which is the judge's work.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import RunOrder
from scheduler.node.code import CODE_ROOT, python_command
from scheduler.node.machine import SlotSpec
from scheduler.node.spool import ALIVE, JUDGE_LOG, JUDGE_PID, Spool, is_held, read_tail

TERMINATE_GRACE_S = 3.0
KILL_WAIT_S = 10.0
POLL_S = 0.01
# The node's own variables that a judge gets: the rest may be Ray's (RAY_*, niceness, OMP_NUM_THREADS=1, its token) or a
# shell's (cloud keys, tokens of all kinds). The judge sets threads and scrubs again for the candidate.
ALLOWED = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV",
    "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CC", "CXX",
    "CPATH", "LIBRARY_PATH", "TRITON_PTXAS_PATH", "TRITON_LIBCUDA_PATH",  # headers and libcuda that lie elsewhere
    "ARSCHED_CACHE", "XDG_CACHE_HOME", "SYSTEMROOT",
})  # fmt: skip
ALLOWED_PREFIXES = ("LC_",)
RUN_IF_PARENT_LIVES = 'test "$PPID" = "$1" || exit 1; shift; exec "$@"'
# What a fault of a process's own ends it by. Any other signal that ends one was sent: by a person, a batch system, or
# the kernel for want of memory (signal(7)).
OWN_FAULTS = frozenset({
    signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV, signal.SIGSYS,
})  # fmt: skip
_PIPE_READ_BYTES, _PIPE_READS = 4096, 16  # at a time: more than any judge writes
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Commands:
    """Command lines of the harness's programs, as they are on this node."""

    judge: tuple[str, ...] = field(default_factory=partial(python_command, "harness.judge"))
    cache: tuple[str, ...] = field(default_factory=partial(python_command, "harness.cache"))
    sandbox: tuple[str, ...] = field(default_factory=partial(python_command, "harness.sandbox"))


def judge_environment(environ: Mapping[str, str], uuid: str) -> dict[str, str]:
    """Variables for a judge on the GPU of that UUID, or on no GPU for "": a short allow-list of the node's own."""
    kept = {name: value for name, value in environ.items() if name in ALLOWED or name.startswith(ALLOWED_PREFIXES)}
    kept |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": uuid, "PYTHONUNBUFFERED": "1"}
    installed = CODE_ROOT.name in ("site-packages", "dist-packages")  # else a checkout, maybe known to no Python
    if path := [*[str(CODE_ROOT)] * (not installed), *site_folders(environ.get("PYTHONPATH", ""))]:
        kept["PYTHONPATH"] = os.pathsep.join(path)
    return kept


def site_folders(python_path: str) -> list[str]:
    """The absolute folders of a PYTHONPATH that pip filled (`pip install --target`): torch may lie there."""
    folders = [folder for folder in python_path.split(os.pathsep) if os.path.isabs(folder)]
    return [folder for folder in folders if next(Path(folder).glob("*.dist-info"), None) is not None]


def judge_arguments(spool: Spool, spec: SlotSpec, order: RunOrder, lock: Path) -> list[str]:
    """Arguments of `python -m harness.judge` for one order on one slot."""
    attention = [] if order.expect_attention is None else ["--expect-attention", order.expect_attention]
    return [
        "--contract", str(spool.directory / "contract.json"), "--train", str(spool.directory / "train.py"),
        "--seed", str(order.seed), "--out", str(spool.out), "--device", spec.uuid or "cpu",
        "--cpus", ",".join(map(str, spec.cpus)), "--expect-cache", order.cache_digest, "--lock", str(lock),
        "--sandbox", order.sandbox, *attention,
    ]  # fmt: skip


def sent_signal(exit_code: int | None) -> int:
    """Number of the signal by which something else ended a judge; 0 for every other end.

    `exit_code` is negative for a signal, or 128 + its number where that ended the judge's inner process alone.
    """
    number = 0 if exit_code is None else -exit_code if exit_code < 0 else exit_code - 128
    return number if number in signal.valid_signals() and number not in OWN_FAULTS else 0


class StartedJudge:
    """A judge that this process started: its outer process, and the pipe every process of it holds open.

    On the pipe it writes the digest of its result and its nonce: the one thing that a candidate cannot write.
    """

    def __init__(self, process: subprocess.Popen[bytes], digest_fd: int) -> None:
        self._process = process
        self._digest_fd: int | None = digest_fd
        self.digest_line = b""  # what has come through the pipe, cut where it is too long to be a digest

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for a signal; None while the outer process lives."""
        return self._process.poll()

    def is_alive(self) -> bool:
        """Whether any process of it lives: the outer one, or one that keeps the pipe open."""
        self._read()
        return self._process.poll() is None or self._digest_fd is not None

    def end(self, slot_lock: Path) -> bool:
        """Ask, then kill it if it lives; True once it is dead and the slot's lock free."""
        return not self.is_alive() or _end(self._process.send_signal, self.is_alive, slot_lock)

    def _read(self) -> None:
        if self._digest_fd is None:
            return
        with contextlib.suppress(BlockingIOError):
            for _ in range(_PIPE_READS):
                if not (data := os.read(self._digest_fd, _PIPE_READ_BYTES)):
                    os.close(self._digest_fd)
                    self._digest_fd = None
                    return
                self.digest_line = (self.digest_line + data)[:_PIPE_READ_BYTES]


def start_judge(spool: Spool, command: list[str], environment: Mapping[str, str], nonce: str) -> StartedJudge:
    """Start a judge. Returns at once. Raises PoolProblem.

    It holds two locks. The spool's `alive.lock` is inherited as an open descriptor, so whoever finds the spool later
    knows whether that judge still lives. The slot's own lock is taken by the judge and held by its last process, so the
    slot is free when that one has ended. The nonce waits in a pipe for it, to be read before there is a candidate.
    """
    read_fd, write_fd = os.pipe()
    nonce_fd = _filled_pipe(nonce.encode())
    os.set_blocking(read_fd, False)
    try:
        pipes = ("--digest-fd", str(write_fd), "--nonce-fd", str(nonce_fd))
        process = _spawn(spool, [*command, *pipes], environment, (write_fd, nonce_fd))
        with contextlib.suppress(OSError):  # undo Ray's niceness and its first place with the out-of-memory killer
            os.setpriority(os.PRIO_PROCESS, process.pid, 0)
        with contextlib.suppress(OSError):
            Path(f"/proc/{process.pid}/oom_score_adj").write_text("0")
        _note_pid(spool, process)
    except BaseException:
        os.close(read_fd)
        raise
    finally:
        os.close(write_fd)
        os.close(nonce_fd)
    return StartedJudge(process, read_fd)


def _filled_pipe(data: bytes) -> int:
    """The read end of a pipe that holds `data`, at most a page, and that nothing writes to any more."""
    read_fd, write_fd = os.pipe()
    with open(write_fd, "wb", buffering=0) as pipe:
        pipe.write(data)
    return read_fd


def _spawn(
    spool: Spool, command: list[str], environment: Mapping[str, str], pipes: tuple[int, ...]
) -> subprocess.Popen[bytes]:
    alive = log = -1
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it, and children inherit that
    try:
        alive = os.open(spool.directory / ALIVE, os.O_RDWR | _NEW_FILE, 0o600)
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        log = os.open(spool.directory / JUDGE_LOG, os.O_WRONLY | _NEW_FILE, 0o600)
        return subprocess.Popen(
            [*_die_with_parent(), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            cwd=spool.directory, env=dict(environment), pass_fds=(alive, *pipes),
        )  # fmt: skip
    except OSError as problem:
        raise PoolProblem(f"the judge could not be started: {problem}", "check the node's Python and disk") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for fd in (alive, log):  # the judge's copy keeps the lock
            if fd >= 0:
                os.close(fd)


def is_alive(spool: Spool) -> bool:
    """Whether some process of the attempt's judge still holds its alive lock."""
    return is_locked(spool.directory / ALIVE)


def is_locked(path: Path) -> bool:
    """Whether another process holds a lock of its own on that file; a file that is not there is not locked."""
    return is_held(path, fcntl.LOCK_SH)


def lock_holders(path: Path, proc: Path = Path("/proc")) -> tuple[str, ...]:
    """Processes that have a file open, like "4711 (python3)"; those of other users are not seen."""
    try:
        lock = os.stat(path, follow_symlinks=False)
    except OSError:
        return ()
    return tuple(f"{pid} ({name})" for pid, name in sorted(_having_open(lock, proc)))


def _having_open(file: os.stat_result, proc: Path) -> Iterator[tuple[int, str]]:
    for process in proc.glob("[0-9]*"):
        for fd in process.glob("fd/*"):
            with contextlib.suppress(OSError):  # it ended or was closed meanwhile, or is another user's
                if os.path.samestat(file, os.stat(fd)):
                    yield int(process.name), (process / "comm").read_text(errors="replace").strip()
                    break


def end_inherited_judge(spool: Spool, slot_lock: Path) -> bool:
    """Ask, then kill a judge that an earlier supervisor started; True once it is dead and the slot's lock free."""
    return not is_alive(spool) or _end(lambda number: _signal(spool, number), lambda: is_alive(spool), slot_lock)


def _end(send: Callable[[signal.Signals], None], alive: Callable[[], bool], slot_lock: Path) -> bool:
    send(signal.SIGTERM)
    if not _wait(lambda: not alive(), TERMINATE_GRACE_S):
        send(signal.SIGKILL)
        _wait(lambda: not alive(), KILL_WAIT_S)
    return not alive() and _wait(lambda: not is_locked(slot_lock), KILL_WAIT_S)


def _note_pid(spool: Spool, process: subprocess.Popen[bytes]) -> None:
    """A judge that could not be found again must not run."""
    try:
        with open(os.open(spool.directory / JUDGE_PID, os.O_WRONLY | _NEW_FILE, 0o600), "w") as file:
            file.write(str(process.pid))
    except OSError as problem:
        process.kill()
        process.wait()
        raise PoolProblem(f"the spool cannot be written: {problem}", "free some space on the node") from None


def _signal(spool: Spool, number: signal.Signals) -> None:
    """Signal the process whose pid is noted there, if it has the alive lock open: a candidate may have written it."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(read_tail(spool.directory / JUDGE_PID))
        lock = os.stat(spool.directory / ALIVE, follow_symlinks=False)
        if any(os.path.samestat(lock, os.stat(f"/proc/{pid}/fd/{fd}")) for fd in os.listdir(f"/proc/{pid}/fd")):
            os.kill(pid, number)


def _wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _die_with_parent() -> list[str]:
    """Prefix that has the kernel kill the judge with its supervisor, from its first instruction on.

    Asking for that is too late when the supervisor is dead by then: so the shell checks who its parent is, afterwards.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:  # the judge asks for it too, some milliseconds later
        return []
    return [setpriv, "--pdeathsig", "KILL", "--", "/bin/sh", "-c", RUN_IF_PARENT_LIVES, "judge", str(os.getpid())]
