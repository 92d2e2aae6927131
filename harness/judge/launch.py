"""Starting train.py: its private folders, its environment, and the process with its pipe, socket and shim.

The folders are made afresh next to the output folder; of the judge's environment only an allow-list passes. Nothing
here decides what of the machine it sees: harness.judge.confine does.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import site
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.cache import FA3_REPOSITORY, LOCAL_KERNELS_ENV, SANDBOX_ENV, Cache
from harness.contract import Contract
from harness.gpu_record import EXPECT_ENV
from harness.judge.arguments import JudgeArgs
from harness.judge.clock import PhaseTimeline
from harness.judge.compile_caches import INDUCTOR, TRITON
from harness.judge.confine import confinement_of
from harness.judge.cpu_time import open_cpu_clock
from harness.judge.output import opened, remove_hostile_tree
from harness.judge.report import InfraFailure, last_lines
from harness.judge.usage import UsageWatch
from harness.processes import Reaped, kill_descendants
from harness.protocol import JUDGE_FD_ENV, socket_pair
from harness.sandbox.kernel import set_scheduling
from harness.session import CONTRACT_ENV, SEED_ENV

_HARNESS = Path(__file__).resolve().parent.parent
_TURN_S = 0.01
_READY_WITHIN_S = 30.0  # the shim's own start and its mounts: a tenth of a second, more on a loaded machine
_TOKEN = r"[a-z0-9_]{8}"  # what mkdtemp appends
_PASSED_ON = (
    *("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CC", "CXX"),
    *("CPATH", "LIBRARY_PATH", "TRITON_PTXAS_PATH", "TRITON_LIBCUDA_PATH"),
)
_THREAD_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Scratch:
    """Everything a candidate may write to: its working directory, home, temporary files, compile caches.

    Not inside the output folder: the judge's files have no name that leads up from the candidate's.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work, self.home, self.temporary, self.caches = (root / name for name in ("work", "home", "tmp", "cache"))
        self.contract_path = root / "contract.json"

    @classmethod
    def make(cls, out: Path, contract: Contract, train_py: bytes) -> Scratch:
        """Fresh folders on the disk of `out`, which the caller has claimed; leftovers of a killed judge go first."""
        place, prefix = out.parent, f".{out.name}.scratch-"
        same_disk = place.stat().st_dev == out.stat().st_dev  # `out` may be a mounted volume
        if not (same_disk and os.access(place, os.R_OK | os.W_OK | os.X_OK)):
            place = out
        for name in os.listdir(place):
            if re.fullmatch(re.escape(prefix) + _TOKEN, name):
                cls(place / name).remove()
        scratch = cls(Path(tempfile.mkdtemp(prefix=prefix, dir=place)))
        for folder in (scratch.work, scratch.home, scratch.temporary, scratch.caches):
            folder.mkdir(parents=True)
        scratch.contract_path.write_text(contract.to_json(), encoding="utf-8")
        (scratch.work / "train.py").write_bytes(train_py)
        return scratch

    def remove(self) -> None:
        """Delete everything, folders a candidate has locked included; what cannot be deleted is left there."""
        with contextlib.suppress(OSError), opened(self.root.parent, os.O_DIRECTORY) as above:
            remove_hostile_tree(self.root.name, above)


def candidate_environment(args: JudgeArgs, cache: Cache, scratch: Scratch, judge_fd: int) -> dict[str, str]:
    """Everything in the candidate's environment; nothing else of the judge's passes."""
    upstream = [str(_HARNESS / "upstream")] if args.contract.compat == "upstream" else []
    values = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    values |= {
        "HOME": str(scratch.home),
        "TMPDIR": str(scratch.temporary),
        "XDG_CACHE_HOME": str(scratch.caches),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch.caches / INDUCTOR),
        "TRITON_CACHE_DIR": str(scratch.caches / TRITON),
        "HF_HOME": str(scratch.caches / "huggingface"),
        "MPLCONFIGDIR": str(scratch.caches / "matplotlib"),
        "PYTHONPATH": os.pathsep.join([*upstream, str(_HARNESS.parent), *_pip_target_folders()]),
        "PYTHONUNBUFFERED": "1",  # the last lines before a kill are the ones that matter
        "PYTHONDONTWRITEBYTECODE": "1",  # the harness's own folder is not the candidate's to write to
        "PYTHONHASHSEED": "0",
        "ARSCHED_CACHE": str(cache.directory.parent.resolve()),
        CONTRACT_ENV: str(scratch.contract_path),
        SEED_ENV: str(args.seed),
        JUDGE_FD_ENV: str(judge_fd),
        SANDBOX_ENV: args.sandbox,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": args.visible_devices,
    }
    values |= dict.fromkeys(_THREAD_COUNTS, str(args.contract.threads))
    if site.ENABLE_USER_SITE:  # `pip install --user` puts packages below the home folder, and a candidate has another
        values["PYTHONUSERBASE"] = site.getuserbase()
    if args.expect_attention is not None:
        values[EXPECT_ENV] = args.expect_attention
    if cache.kernel_dir is not None:
        values[LOCAL_KERNELS_ENV] = f"{FA3_REPOSITORY}={cache.kernel_dir}"
    return values


def _pip_target_folders() -> list[str]:
    """Folders of PYTHONPATH that pip filled (`pip install --target`): torch may lie there."""
    folders = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(folder)]
    return [folder for folder in folders if next(Path(folder).glob("*.dist-info"), None) is not None]


class CandidateProcess:
    """A train.py that has been started; every child of the judge is it or descends from it."""

    def __init__(
        self, process: subprocess.Popen[bytes], log_fd: int, sock: socket.socket, *, own_namespace: bool
    ) -> None:
        # From here on time is the candidate's, also while the judge still imports torch.
        self.timeline = PhaseTimeline()
        self.pid = process.pid
        self.pidfd = os.pidfd_open(process.pid)
        self.log_fd = log_fd
        self.socket = sock
        self.cpu = open_cpu_clock(process.pid, own_namespace=own_namespace)
        self.ended: Reaped | None = None  # None while it lives
        self.usage: UsageWatch | None = None
        self._process = process
        self._own_namespace = own_namespace

    def on_reaped(self, reaped: Reaped) -> None:
        """Book a process the judge has waited for: train.py itself, or an orphan it left behind."""
        self.cpu.add_reaped(reaped.cpu_s)
        if reaped.pid == self.pid:
            self.ended = reaped
            self._process.returncode = reaped.exit_code  # the judge waits for every child itself; Popen need not

    def end(self) -> bool:
        """Kill it and all it spawned; False when something would not die."""
        return kill_descendants(self.on_reaped, own_namespace=self._own_namespace)

    def close(self) -> None:
        """Stop counting; nothing of it is alive, and nothing is asked of it any more."""
        self.cpu.close()
        os.close(self.pidfd)


def launch(
    args: JudgeArgs, cache: Cache, scratch: Scratch, lock_fd: int | None, *, own_namespace: bool
) -> tuple[CandidateProcess, str]:
    """Start train.py through the shim, in a session of its own, with an open end of the judge's socket.

    Returns it with what it is confined by. Raises InfraFailure, with nothing left alive, where that failed. The lock
    goes along only where no PID namespace ends everything: whoever has the descriptor can let go of the lock.
    """
    with contextlib.ExitStack() as failing:  # what is closed unless the candidate began
        ours, theirs = socket_pair()
        handshake, shim_end = socket.socketpair()
        log_read, log_write = os.pipe()
        failing.callback(ours.close)
        failing.callback(os.close, log_read)
        with handshake:
            with theirs, shim_end:
                environment = candidate_environment(args, cache, scratch, theirs.fileno())
                passed = (theirs.fileno(), shim_end.fileno(), *(() if lock_fd is None or own_namespace else (lock_fd,)))
                try:
                    confinement = confinement_of(args, cache, scratch.root, environment)
                    process = _start_shim(args, scratch, environment, passed, log_write)
                finally:
                    os.close(log_write)
            failing.callback(_end, process)
            reached = _await_confined(handshake, confinement.to_json(), log_read)
            # Before the go-ahead: what is attached to the process or counted from here on misses nothing of train.py.
            candidate = CandidateProcess(process, log_read, ours, own_namespace=own_namespace)
            if args.contract.budget.clock == "work":
                let_judge_read(process.pid)
            candidate.usage = UsageWatch(scratch.root, own_namespace=own_namespace)
            handshake.sendall(b"g")
        failing.pop_all()
    return candidate, reached


def let_judge_read(pid: int) -> None:
    """Keep a candidate from cutting in on the judge's readings of their core, which would find the caches it filled.

    It may not when it wakes, and neither of the two when the other's turn is over in less than a reading takes.
    """
    os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(OSError):  # refused by a container: readings it cut in two are taken again
        set_scheduling(pid, os.SCHED_BATCH, _TURN_S)
        set_scheduling(0, os.SCHED_OTHER, _TURN_S)


def _start_shim(
    args: JudgeArgs, scratch: Scratch, environment: dict[str, str], passed: tuple[int, ...], log_write: int
) -> subprocess.Popen[bytes]:
    cpus = ",".join(map(str, args.cpus)) or "-"
    shim = [sys.executable, "-I", "-S", "-B", str(_HARNESS / "shim.py"), str(os.getpid()), cpus, str(passed[1])]
    return subprocess.Popen(
        [*shim, sys.executable, "train.py"],
        cwd=scratch.work,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log_write,
        stderr=log_write,
        pass_fds=passed,
        start_new_session=True,  # a Ctrl-C at the terminal is for the judge to act on
    )


def _await_confined(handshake: socket.socket, confinement: str, log_read: int) -> str:
    """What the shim reached, in words. Raises InfraFailure."""
    handshake.settimeout(_READY_WITHIN_S)
    hint = "(a laxer sandbox: --sandbox weak for one run, arsched init --sandbox weak for a lab)"
    try:
        handshake.sendall(confinement.encode() + b"\n")
        report = json.loads(handshake.makefile("r", encoding="utf-8").readline())
        reached, error = str(report["reached"]), str(report["error"])
    except TimeoutError:
        raise InfraFailure("sandbox", f"the shim was not ready within {_READY_WITHIN_S:g} s") from None
    except (OSError, ValueError, KeyError, TypeError):
        os.set_blocking(log_read, False)
        with contextlib.suppress(BlockingIOError):
            printed = last_lines(os.read(log_read, 65536).decode("utf-8", "replace"))
            raise InfraFailure("sandbox", f"the shim died before train.py began: {printed}") from None
        raise InfraFailure("sandbox", "the shim died before train.py began") from None
    if error:
        raise InfraFailure("sandbox", f"{error} {hint}")
    return reached


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
