"""A quarter of an hour on one GPU, spent on the questions in order of worth; no answer is lost to what fails after it.

    python benchmarks/gpu_quarter.py OUT --upstream FILE          # all stages; FILE is upstream's own train.py
    python benchmarks/gpu_quarter.py OUT --only env,smoke --limit-s 200
    python benchmarks/gpu_quarter.py OUT --smoke                  # no GPU: the plumbing, on the cpu contract

env: the machine. smoke: 15 s judged on random rows. tests: pytest -m gpu. prepare: a corpus from the Python sources
below sys.prefix, in the background. ours, upstream: 60 s judged on the same rows. evalcost: the evaluation at the
standard size by every exchange. probes: kernels and loader alone. Needs torch, numpy and this checkout; pyarrow,
tiktoken and rustbpe for prepare (without it, rows are random); pytest for tests. No network.

OUT gets answers.jsonl (a line per answer as soon as it is known), summary.md (measured next to expected) and logs.txt
(the last 64 kB of each stage). Each stage has a deadline and is killed alone, with all it started, when it passes it.
Exit codes: 0 every stage answered, 1 some did not, 2 usage. Not covered: what a stage does (gpu_stages), what is
expected (gpu_expect).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from gpu_expect import summary
from gpu_runs import ANSWERS_NAME, ROOT, SAID_SO, SMOKE_NOTE, Plan, read_answers

from harness.containment import die_with_parent
from harness.files import cache_root
from harness.processes import children, descendants

# name -> (seconds it needs to be worth starting, deadline in seconds), in order of worth. `prepare` runs with others.
STAGES: dict[str, tuple[float, float]] = {
    "env": (10, 60),
    "smoke": (60, 240),
    "tests": (60, 240),
    "prepare": (45, 240),
    "ours": (100, 240),
    "upstream": (110, 330),
    "evalcost": (30, 200),
    "probes": (45, 240),
}
_BACKGROUND = "prepare"
_NEED_ROWS = {"ours", "upstream"}
_LOG_BYTES = 64_000
_TICK_S = 5.0
_PATIENCE_S = 10.0
_PR_SET_CHILD_SUBREAPER = 36


class Interrupted(BaseException):
    """A signal asked for the end."""


@dataclass(frozen=True, slots=True)
class Running:
    """A stage whose process has been started."""

    plan: Plan
    process: subprocess.Popen[bytes]
    pidfd: int

    def overdue(self) -> bool:
        return self.plan.left_s() <= 0


class Quarter:
    """Starts stages, ends them, and writes down what they did not write themselves."""

    def __init__(self, template: Plan, limit_s: float, deadlines: dict[str, float]) -> None:
        self._template = template
        self._limit_s = limit_s
        self._deadlines = deadlines
        self._ends_at = time.monotonic() + limit_s
        self._running: dict[str, Running] = {}
        self._ended: list[str] = []
        self.failed: list[str] = []

    def run(self, asked: list[str]) -> None:
        for name in asked:
            if name == _BACKGROUND:
                continue
            if name != "env" and _BACKGROUND in asked:
                self._start_once(_BACKGROUND)
            if name in _NEED_ROWS:
                self._wait_for(_BACKGROUND)
            self._start_once(name)
            self._wait_for(name)
        if _BACKGROUND in asked:
            self._start_once(_BACKGROUND)
            self._wait_for(_BACKGROUND)

    def stop(self, why: str) -> None:
        """Kill whatever runs, and say so in its answers."""
        for running in list(self._running.values()):
            self._end(running, why)

    def _start_once(self, name: str) -> None:
        if name in self._running or name in self._ended:
            return
        needs_s, deadline_s = STAGES[name]
        left_s = self._ends_at - time.monotonic()
        own_s = self._deadlines.get(name, deadline_s)
        plan = dataclasses.replace(
            self._template, stage=name, deadline_s=min(own_s, max(left_s, 0)), began=time.monotonic()
        )
        if left_s < min(own_s, 1 if plan.smoke else needs_s):
            self._ended.append(name)
            self._note_failure(plan, f"skipped: {left_s:.0f} s of {self._limit_s:g} s are left, it needs {needs_s:g}")
            return
        say(f"{name} ...")
        try:
            process = start(plan)
        except (OSError, subprocess.SubprocessError) as error:
            self._ended.append(name)
            self._note_failure(plan, f"could not be started: {error}")
            return
        self._running[name] = Running(plan, process, os.pidfd_open(process.pid))

    def _wait_for(self, name: str) -> None:
        """Until the stage has ended; others that end or are overdue meanwhile are dealt with, too."""
        while name in self._running:
            nearest_s = min(running.plan.left_s() for running in self._running.values())
            fds = [running.pidfd for running in self._running.values()]
            select.select(fds, [], [], min(max(nearest_s, 0.0), _TICK_S))
            for running in list(self._running.values()):
                if running.process.poll() is not None:
                    self._end(running, "")
                elif running.overdue():
                    self._end(running, f"killed at its deadline of {running.plan.deadline_s:.0f} s")
            self.write_files()

    def _end(self, running: Running, killed: str) -> None:
        plan, process = running.plan, running.process
        if killed:
            kill_tree(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a process stuck in a driver cannot be waited for
            process.wait(_PATIENCE_S)
        code = process.returncode
        self._kill_orphans()
        if code == SAID_SO:
            self.failed.append(plan.stage)
        elif code != 0:
            self._note_failure(plan, f"{killed or how(code)}; its last lines: {last_lines(log_path(plan))}")
        os.close(running.pidfd)
        del self._running[plan.stage]
        self._ended.append(plan.stage)
        say(f"{plan.stage}: {'no answer' if plan.stage in self.failed else 'answered'}")
        self.write_files()

    def _note_failure(self, plan: Plan, text: str) -> None:
        self.failed.append(plan.stage)
        plan.error(text)

    def _kill_orphans(self) -> None:
        """End what a stage left behind: this process is the subreaper, so it is now the parent of that."""
        known = {running.process.pid for running in self._running.values() if running.process.returncode is None}
        deadline = time.monotonic() + _PATIENCE_S
        while (strays := set(children(os.getpid())) - known) and time.monotonic() < deadline:
            for pid in strays:
                kill_tree(pid)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.01)

    def write_files(self) -> None:
        out, smoke = Path(self._template.out), self._template.smoke
        answers = list(read_answers(out))
        write_whole(out / "summary.md", summary(answers, SMOKE_NOTE if smoke else ""))
        logs = [f"## {name}\n\n{log_tail(self._log_of(name))}\n" for name in STAGES if self._log_of(name).exists()]
        write_whole(out / "logs.txt", "\n".join([SMOKE_NOTE] * smoke + logs) + "\n")

    def _log_of(self, name: str) -> Path:
        return log_path(dataclasses.replace(self._template, stage=name))


def start(plan: Plan) -> subprocess.Popen[bytes]:
    """A stage in a session, and so a process group, of its own. Raises OSError, subprocess.SubprocessError."""
    script = str(Path(__file__).with_name("gpu_stages.py"))
    with open(log_path(plan), "wb") as log:
        return subprocess.Popen(
            [sys.executable, script, json.dumps(dataclasses.asdict(plan))],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def how(code: int | None) -> str:
    if code is None:
        return "does not die of SIGKILL and was left behind"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def log_path(plan: Plan) -> Path:
    return plan.path(f"{plan.stage}.log")


def log_tail(path: Path) -> str:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_BYTES))
        return file.read(_LOG_BYTES).decode("utf-8", "replace").replace("\r", "\n")
    return ""


def last_lines(path: Path) -> str:
    lines = [line.strip() for line in log_tail(path).splitlines() if line.strip()]
    return " | ".join(lines[-4:])[-1000:] or "none"


def kill_tree(root: int) -> None:
    """SIGKILL to a process and everything below it, seen in one pass; what forks meanwhile is left an orphan."""
    for pid in (root, *descendants(root)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def main(argv: list[str]) -> int:
    given = parse(argv)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    given.out.mkdir(parents=True, exist_ok=True)
    mend_last_line(given.out / ANSWERS_NAME)
    work = Path(tempfile.mkdtemp(prefix="gpu-quarter-")) if given.work is None else given.work.resolve()
    upstream = str(given.upstream.resolve()) if given.upstream else ""
    quarter = Quarter(
        Plan("", str(given.out.resolve()), str(work), given.smoke, upstream, given.limit_s),
        given.limit_s,
        given.deadline,
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        set_up(work, given.smoke)
        quarter.run(given.only)
    except Interrupted as stopped:
        ignore_signals()
        quarter.stop(f"stopped by {stopped}")
        quarter.failed.append("interrupted")
    finally:
        ignore_signals()
        quarter.stop("stopped by an error of gpu_quarter.py")
        quarter.write_files()
        if given.work is None:
            shutil.rmtree(work, ignore_errors=True)
    say((given.out / "summary.md").read_text(encoding="utf-8"))
    return 1 if quarter.failed else 0


def say(text: str) -> None:
    """Progress for a reader; a closed pipe is no reason to stop."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def set_up(work: Path, smoke: bool) -> None:
    """The work folder and the environment of all stages. Attention kernels that were fetched for this node are used."""
    fetched = cache_root() / "kernels"
    (work / "cache").mkdir(parents=True, exist_ok=True)
    if fetched.is_dir() and not (work / "cache" / "kernels").exists():
        (work / "cache" / "kernels").symlink_to(fetched)
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ |= {
        "ARSCHED_CACHE": str(work / "cache"),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if smoke:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(signal.Signals(number).name)


def ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def mend_last_line(path: Path) -> None:
    """An earlier call that was killed while it wrote may have left half a line; the next one begins afresh."""
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        with open(path, "ab") as file:
            file.write(b"\n")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder for answers.jsonl, summary.md and logs.txt")
    add("--only", type=stage_names, metavar="A,B", help=f"stages (default: all): {', '.join(STAGES)}")
    add("--upstream", type=Path, metavar="FILE", help="upstream's train.py; it is not copied to OUT")
    add("--limit-s", type=float, default=720.0, metavar="N", help="seconds for all stages (default: %(default)g)")
    add("--deadline", type=stage_deadline, action="append", default=[], metavar="STAGE=S", help="another deadline")
    add("--work", type=Path, metavar="DIR", help="keep corpora, runs and caches there (default: temporary)")
    add("--smoke", action="store_true", help="exercise the script on CPU; measures nothing")
    given = parser.parse_args(argv)
    if given.out.exists() and not given.out.is_dir():
        parser.error(f"{given.out} is a file; OUT is a folder")
    if given.upstream is not None and not given.upstream.is_file():
        parser.error(f"--upstream {given.upstream}: no such file")
    if not given.limit_s > 0:
        parser.error(f"--limit-s {given.limit_s:g}: it must be above 0")
    can_run_upstream = given.upstream is not None or given.smoke
    if given.only is None:
        given.only = [name for name in STAGES if name != "upstream" or can_run_upstream]
    elif "upstream" in given.only and not can_run_upstream:
        parser.error("stage upstream needs --upstream FILE: a copy of upstream's train.py")
    if _NEED_ROWS & set(given.only) and _BACKGROUND not in given.only:
        given.only.append(_BACKGROUND)
    given.deadline = dict(given.deadline)
    return given


def stage_names(text: str) -> list[str]:
    wanted = text.split(",")
    if unknown := [name for name in wanted if name not in STAGES]:
        raise argparse.ArgumentTypeError(f"no stage {', '.join(unknown)}; there are {', '.join(STAGES)}")
    return [name for name in STAGES if name in wanted]


def stage_deadline(text: str) -> tuple[str, float]:
    name, _, seconds = text.partition("=")
    try:
        if name in STAGES and float(seconds) > 0:
            return name, float(seconds)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not STAGE=SECONDS, as in smoke=120")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
