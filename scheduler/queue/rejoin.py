"""The queue of a cluster is run in a child process, which is started again when the cluster's head comes back.

Without its head Ray hangs for a minute in any of its calls, then ends the process in C++; after a restart it aborts at
once. So the process that a person started stays out of Ray and waits. The ledger is all that passes from one child to
the next. Not for an embedded Ray, which ends with its driver.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from scheduler.domain.errors import ArschedError, HeadGone, PoolProblem
from scheduler.domain.lab import Lab
from scheduler.lab import Live, Workspace, open_workspace, process_space, read_live, write_live
from scheduler.queue.forwarding import FORWARDED, ForwardedSignals
from scheduler.queue.runner import try_take
from scheduler.queue.runtime import PoolHandle, PoolOptions, Runtime, SchedulerLock, StopReason
from scheduler.ray.head import Head, look_for_head

CUT_AFTER_S = {Head.AWAY: 11.0, Head.SILENT: 40.0}  # a child gives up by itself after six seconds without a head
SILENCE_SAID_S = 6.0  # of a head that takes connections and answers none; two looks in a row by then
CUT_ASKED_S = 3.0  # where Ctrl-C waits for a child that may hang
LOOK_S, RETRY_S = 1.0, 5.0
NODES_BACK_S = 600.0  # how long after its head a cluster may need for its nodes
MOST_CRASHES, CRASH_S = 5, 120.0  # in a row, of children that lived shorter than that
STILL_S = 60.0  # first pause between two lines about the same wait
PR_SET_PDEATHSIG = 1
BY_HAND = frozenset((-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, 130))

Outcome = TypeVar("Outcome")


class Word(Enum):
    """What a child said last. NOTHING: it was ended, by Ray or by a signal."""

    RESULT, PROBLEM, GONE, NOTHING = range(4)


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """How a child ended. `code` is as subprocess gives it; `cut`: it was killed here, because its head was away.

    `problem`: its exception. `since_back_s`: since the cluster's head is back, None for the first child.
    """

    word: Word
    code: int = 0
    cut: bool = False
    joined: bool = True
    problem: BaseException | None = None
    since_back_s: float | None = None


def goes_on(end: ChildEnd, crashes: int, *, is_asked_to_end: bool) -> bool:
    """Whether another child shall take over: only what the cluster did to this one is a reason."""
    if is_asked_to_end or not (end.joined or end.since_back_s is not None):
        return False
    match end.word:
        case Word.RESULT:
            return False
        case Word.GONE:
            return True
        case Word.PROBLEM:  # the head is back, its nodes are not yet
            is_early = end.since_back_s is not None and end.since_back_s < NODES_BACK_S
            return is_early and isinstance(end.problem, PoolProblem)
        case Word.NOTHING:
            return end.cut or (end.code not in BY_HAND and crashes < MOST_CRASHES)


def run_rejoining(
    space: Workspace, means: Runtime, work: Callable[[Workspace, Runtime, bool], Outcome],
    ended: Callable[[StopReason], Outcome], say: Callable[[str], None],
) -> Outcome:  # fmt: skip
    """What `work` returns, run in this process where no cluster is joined, else in a child until it is done.

    `work` gets the lab as opened in its process, and whether an earlier child began the same; what it returns and
    raises is pickled. `ended` is asked when the wait for a cluster's head is over before that is back. Raises what
    `work` raises, PoolProblem when a child is killed.
    """
    if means.options.address is None:
        return work(space, means, False)
    with ForwardedSignals() as signals:
        return cast(Outcome, _Rejoining(space, means, work, ended, say, signals).run())


@dataclass(slots=True)
class _Child:
    """A process that runs the queue. `away_since`: of its head, by the monotonic clock."""

    pid: int
    words: Connection
    started_at: float = field(default_factory=time.monotonic)
    joined: bool = False
    cut: bool = False
    last: tuple[Word, Any] = (Word.NOTHING, None)
    away_since: float | None = None
    looked_at: float = 0.0
    is_silence_said: bool = False


class _Rejoining:
    def __init__(
        self, space: Workspace, means: Runtime, work: Callable[[Workspace, Runtime, bool], Any],
        ended: Callable[[StopReason], Any], say: Callable[[str], None], signals: ForwardedSignals,
    ) -> None:  # fmt: skip
        self._space, self._means, self._work, self._ended, self._say = space, means, work, ended, say
        self._signals = signals
        self._address = ""
        self._back_since: float | None = None
        self._crashes = 0
        self._reasons: set[str] = set()
        self._is_gone = False

    def run(self) -> Any:
        while True:
            child = self._start()
            end = self._watch(child)
            _show_cursor()
            if not goes_on(end, self._crashes, is_asked_to_end=self._signals.count > 0):
                self._forget_live()
                return self._result(child, end)
            reason = self._wait(end)
            if reason is not None:
                self._forget_live()
                return self._ended(reason)

    def _start(self) -> _Child:
        words, theirs = multiprocessing.Pipe()
        sys.stderr.flush()
        blocked, parent = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED), os.getpid()
        with warnings.catch_warnings():  # numpy has threads; they hold no lock of ours
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            words.close()
            self._signals.__exit__()
            os.setpgid(0, 0)
            while signal.sigtimedwait(FORWARDED, 0):
                pass  # sent to both while they were one group: the parent passes its own on
            with suppress(OSError):
                theirs.send(None)
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it draws on a terminal whose foreground is its parent
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            self._be_child(theirs, parent)
        theirs.close()
        with suppress(EOFError, OSError):
            words.recv()  # from here on it is a group of its own
        self._signals.child = pid
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return _Child(pid, words)

    def _be_child(self, words: Connection, parent: int) -> NoReturn:
        """Does the work and leaves without Python's own ending, in which Ray would wait for its head."""
        code = 0
        try:
            if os.getppid() == parent:
                said = _do(self._space, self._means, self._work, words, is_again=self._back_since is not None)
                words.send(said)
        except BaseException:
            code = 1
            _note_traceback(self._space.paths.ray_log)
        finally:
            with suppress(Exception):  # nothing is printed on stdout here
                sys.stderr.flush()
            os._exit(code)

    def _watch(self, child: _Child) -> ChildEnd:
        """Until it has ended; it is killed when its head is away and it does not notice."""
        try:
            while self._listen(child):
                self._look(child)
        except BaseException:
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            raise
        _, status = os.waitpid(child.pid, 0)
        self._signals.child = None
        child.words.close()
        word, said = child.last
        lived_s = time.monotonic() - child.started_at
        is_crash = word is Word.NOTHING and not child.cut
        self._crashes = self._crashes + 1 if is_crash and lived_s < CRASH_S else 0
        since_back_s = None if self._back_since is None else time.monotonic() - self._back_since
        code = os.waitstatus_to_exitcode(status)
        problem = said if isinstance(said, BaseException) and word is not Word.RESULT else None
        return ChildEnd(word, code, child.cut, child.joined, problem, since_back_s)

    def _listen(self, child: _Child) -> bool:
        """Whether it lives on. Takes what it says in the next second."""
        if not select.select([child.words], [], [], LOOK_S)[0]:
            return True
        try:
            said = child.words.recv()
        except (EOFError, OSError):
            return False
        if isinstance(said, str):
            child.joined, self._address = True, said
        else:
            child.last = said
        return True

    def _look(self, child: _Child) -> None:
        now = time.monotonic()
        if not self._address or now - child.looked_at < LOOK_S or child.last[0] is not Word.NOTHING:
            return
        head = look_for_head(self._address)
        child.looked_at = time.monotonic()
        if head is Head.THERE:
            child.away_since = None
            if child.is_silence_said:
                child.is_silence_said = False
                _say_there(child, "the cluster's head answers again; nothing is lost, going on")
            return
        child.away_since = now if child.away_since is None else child.away_since
        away_s = child.looked_at - child.away_since
        if away_s >= (CUT_ASKED_S if self._signals.count else CUT_AFTER_S[head]):
            child.cut = True
            os.kill(child.pid, signal.SIGKILL)
        elif head is Head.SILENT and away_s >= SILENCE_SAID_S and not child.is_silence_said:
            child.is_silence_said = True
            _say_there(
                child,
                f"note: the cluster's head at {self._address} takes connections and does not answer; nothing is lost, "
                f"what runs goes on. After {CUT_AFTER_S[head]:.0f} s it counts as gone, and the queue waits for it",
            )

    def _result(self, child: _Child, end: ChildEnd) -> Any:
        word, said = child.last
        if word is Word.RESULT:
            return said
        if end.problem is not None:
            raise end.problem
        if self._signals.count or end.code == 130:
            return self._ended(StopReason.INTERRUPTED)
        how = f"by signal {-end.code}" if end.code < 0 else f"with exit code {end.code}"
        message = f"the process that ran the queue was ended {how}"
        raise PoolProblem(message, "nothing is lost; the same command goes on. What Ray said is in .arsched/ray.log")

    def _explain(self, end: ChildEnd) -> None:
        if end.word is Word.PROBLEM and isinstance(end.problem, PoolProblem):
            if end.problem.message not in self._reasons:
                self._reasons.add(end.problem.message)
                self._say(f"note: not yet: {end.problem.message}")
            return
        self._back_since = None
        if look_for_head(self._address) is Head.THERE:
            self._is_gone = False
            how = f" (Ray ended its driver, code {end.code})" if end.code else ""
            self._say(f"note: the cluster's head at {self._address} was restarted{how}; nothing is lost, going on")
            return
        self._is_gone = True
        self._say(
            f"note: the cluster's head at {self._address} is gone; nothing is lost: the queue goes on by itself when "
            "it is back (`ray up cluster.yaml`, or `ray start` there); Ctrl-C ends the wait"
        )

    def _wait(self, end: ChildEnd) -> StopReason | None:
        """Until the head answers; then None, else why the wait is over. The queue's lock is held if it can be had.

        From before anything is said, and the live file stays for the next child: `arsched stop` finds this process.
        """
        begun_at, pause_s, lock = time.monotonic(), STILL_S, SchedulerLock(self._space.paths.scheduler_lock)
        said_at, first_s = begun_at, RETRY_S if end.word is Word.PROBLEM else 0.0
        try:
            reason = self._hold(lock)
            if reason is None:
                self._explain(end)
            while reason is None:
                waited_s = time.monotonic() - begun_at
                if waited_s >= first_s and look_for_head(self._address) is Head.THERE:
                    self._greet(waited_s)
                    return None
                if time.monotonic() - said_at >= pause_s:
                    said_at, pause_s = time.monotonic(), 2 * pause_s
                    self._say(f"still waiting for the cluster's head at {self._address} ({waited_s:.0f} s)")
                time.sleep(LOOK_S / 4)
                reason = self._hold(lock)
            return reason
        finally:
            lock.release()

    def _forget_live(self) -> None:
        """Where it is of this command, and of no other that runs the queue by now."""
        live = read_live(self._space.paths.live)
        if live is not None and live.pid == self._means.pid:
            with suppress(OSError):
                self._space.paths.live.unlink(missing_ok=True)

    def _hold(self, lock: SchedulerLock) -> StopReason | None:
        if self._signals.count:
            return StopReason.INTERRUPTED
        if not try_take(self._space, lock):
            return None
        if self._space.paths.stop.exists():
            self._space.paths.stop.unlink(missing_ok=True)
            return StopReason.STOPPED
        queued = len(self._space.ledger.runs.queued(self._space.tag))
        live = Live(self._means.wall(), self._means.pid, self._space.tag, "", queued, False, ())
        live = replace(live, note="waiting for the cluster's head", where=process_space())
        write_live(self._space.paths.live, live)
        return None

    def _greet(self, waited_s: float) -> None:
        if self._back_since is None and self._is_gone:
            self._say(f"the cluster's head answers after {waited_s:.0f} s; going on")
        self._back_since = self._back_since or time.monotonic()


def _do(
    space: Workspace, means: Runtime, work: Callable[[Workspace, Runtime, bool], Any], words: Connection, *,
    is_again: bool,
) -> tuple[Word, Any]:  # fmt: skip
    """What the child says last. Of Ray's own exceptions it says nothing: they count as its end by Ray."""

    def connect(lab: Lab, options: PoolOptions, log: Callable[[str], None]) -> PoolHandle:
        handle = means.connect(lab, options, (lambda line: None) if is_again else log)
        words.send(handle.address)
        threading.Thread(target=_repeat, args=(words, log), daemon=True).start()
        return handle

    try:
        with open_workspace(space.tag, space.repo.root) as mine:
            return Word.RESULT, work(mine, replace(means, connect=connect), is_again)
    except HeadGone as problem:
        return Word.GONE, problem
    except ArschedError as problem:
        return Word.PROBLEM, problem
    except KeyboardInterrupt:
        return Word.PROBLEM, KeyboardInterrupt()
    except Exception as problem:
        if type(problem).__module__.partition(".")[0] == "ray":
            raise
        if os.environ.get("ARSCHED_DEBUG"):
            traceback.print_exc()
        return Word.PROBLEM, _sendable(problem)


def _say_there(child: _Child, text: str) -> None:
    """On the child's screen, which is being drawn: a line from here would be drawn over."""
    with suppress(OSError):  # it has just ended
        child.words.send(text)


def _repeat(words: Connection, say: Callable[[str], None]) -> None:
    """Say what the parent has noticed. A thread's, because Ray hangs in the main one meanwhile."""
    with suppress(EOFError, OSError):
        while True:
            say(words.recv())


def _sendable(problem: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(problem))  # our own, and in this process
    except Exception:
        return RuntimeError(f"{type(problem).__name__}: {problem}")
    return problem


def _note_traceback(path: Path) -> None:
    """Ray's exceptions are for its log: what a person needs to know of this end is said by the parent."""
    try:
        with path.open("a") as log:
            traceback.print_exc(file=log)
    except OSError:
        traceback.print_exc()


def _show_cursor() -> None:
    """A killed child has not put it back."""
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")
