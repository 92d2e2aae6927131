"""What chaos.py kills in: a lab on a small contract, a Ray head, the driver of a search, all below one folder.

Every process is known by that folder's path in its environment or command line, or by a parent that is known; nothing
else is ever signalled. `Rig` is one machine; chaos_hosts.py has the same over several. Not covered: when and what to
kill, and what to make of it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scheduler.lab import LabPaths, read_live
from tests.harness.small_corpus import write_contract, write_corpus
from tests.ray.ray_head import RayHead, free_port, kill_quietly, start_head

ROOT = Path(__file__).resolve().parents[1]
BIGRAM = ROOT / "tests" / "fixtures" / "candidates" / "bigram.py"
KINDS = ("driver", "queue", "actor", "raylet", "gcs", "judge", "candidate", "agent")
HEAD_KINDS = ("raylet", "gcs")
LEAVES_S = 60.0  # for what a killed parent leaves to be gone
AGENT = """import random, re, time
from pathlib import Path
chance = random.Random()  # or the next search would have the same ideas
time.sleep(chance.uniform(0.5, 3.0))
text = Path("train.py").read_text()
value = f"SMOOTHING = {chance.uniform(0.05, 20.0):.4f}"
Path("train.py").write_text(re.sub(r"^SMOOTHING = .*$", value, text, flags=re.MULTILINE))
Path("IDEA.json").write_text('{"title": "%s", "theme": "smoothing", "hypothesis": "counts are few"}' % value)
"""


def shared_memory() -> list[str]:
    return os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []


def is_shared(path: Path) -> bool:
    with suppress(OSError):
        return os.readlink(path).startswith("/dev/shm/")
    return False


class Victim(Protocol):
    """What can be hit. SIGSTOP makes it rest until SIGCONT."""

    @property
    def label(self) -> str: ...

    def signal(self, number: signal.Signals) -> bool:
        """Whether it was still there."""
        ...


@dataclass(frozen=True, slots=True)
class Process:
    """`started` tells it from a later one with the same pid: clock ticks since the machine's start."""

    pid: int
    parent: int
    started: int
    command: str

    @property
    def label(self) -> str:
        return f"pid {self.pid}"

    def signal(self, number: signal.Signals) -> bool:
        """Whether it was still there."""
        with suppress(OSError):
            descriptor = os.pidfd_open(self.pid)
            try:
                if (now := read_process(self.pid)) is not None and now.started == self.started:
                    signal.pidfd_send_signal(descriptor, number)
                    return True
            finally:
                os.close(descriptor)
        return False


def read_process(pid: int) -> Process | None:
    """None for one that is gone or a zombie."""
    with suppress(OSError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return None if fields[0] == "Z" else Process(pid, int(fields[1]), int(fields[19]), command)
    return None


def pid_at_home(pid: int) -> int:
    """As the process itself knows it: another number in a namespace of its own. 0 when it is gone."""
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().partition("\nNSpid:")[2].splitlines()[0].split()[-1])
    return 0


def make_folder(parent: str | None = None) -> Path:
    return Path(tempfile.mkdtemp(prefix="arsched-chaos-", dir=parent))


class Rig:
    """The folder and what runs in it. Made whole by `begin`; `end` leaves no process, `take_down` no host."""

    kinds = KINDS
    workers: Mapping[str, object] = {}  # hosts but the head's, by name

    def __init__(self, folder: Path, slots: int) -> None:
        self.folder, self.slots, self.root = folder, slots, folder / "lab"
        self.ledger = self.root / ".git" / "arsched" / "ledger.db"
        self.driver: subprocess.Popen[bytes] | None = None
        self.head: RayHead | None = None
        self.address = f"127.0.0.1:{free_port()}"
        self._known: dict[tuple[int, int], bool] = {}  # pid and start -> ours
        self._mark = os.fsencode(folder)
        self._shared_before = set(shared_memory())
        (folder / "cache").mkdir()
        os.environ |= {
            "ARSCHED_CACHE": str(folder / "cache"), "ARSCHED_SPOOL": str(folder / "spool"), "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip
        os.environ.pop("RAY_ADDRESS", None)

    def begin(self) -> None:
        """A prepared cache, a repository with a lab, a head. Raises CalledProcessError with the words on stderr."""
        write_corpus(self.folder)
        contract = write_contract(
            self.folder, name="chaos", budget={"seconds": 1, "clock": "cpu", "grace_s": 1.0, "wall_limit_s": 120},
            limits={"startup_s": 120, "evaluation_s": 120, "teardown_s": 10, "log_mb": 1},
            train_constants={"SMOOTHING": 1.0},
        )  # fmt: skip
        self.root.mkdir()
        source = BIGRAM.read_text().replace("width = ", "SMOOTHING = 1.0\nwidth = ")
        (self.root / "train.py").write_text(
            source.replace("np.ones((width, width))", "np.full((width, width), SMOOTHING)")
        )
        (self.folder / "agent.py").write_text(AGENT)
        for words in (("init", "--quiet", "--initial-branch=main"), ("config", "user.name", "A User"),
                      ("config", "user.email", "user@example.org"), ("add", "--all"),
                      ("commit", "--quiet", "--message", "first")):  # fmt: skip
            subprocess.run(["git", *words], cwd=self.root, check=True)
        self.arsched("prepare", "--contract", str(contract))
        self.arsched("init", "--tag", "chaos", "--contract", str(contract), "--no-wait")
        self.start_head()

    def arsched(self, *words: str) -> None:
        subprocess.run(self.command(*words), cwd=self.root, check=True, stdout=subprocess.DEVNULL)

    def command(self, *words: str) -> list[str]:
        """The line that runs arsched where the lab is."""
        return [sys.executable, "-m", "scheduler", *words]

    def start_head(self) -> None:
        self.head = start_head(self.slots, self.folder / "cache", int(self.address.rpartition(":")[2]))

    def tend_nodes(self) -> None:
        """Start again what is gone of Ray."""
        if not self.is_head_whole():
            self.restart_head()

    def is_head_whole(self) -> bool:
        if self.head is None or self.head.node.process.poll() is not None:
            return False
        kinds = self.by_kind()
        return bool(kinds["raylet"]) and bool(kinds["gcs"])

    def is_whole(self) -> bool:
        """Every node's Ray is up."""
        return self.is_head_whole()

    def restart_head(self) -> None:
        """What `ray stop` and the same `ray start` again do."""
        if self.head is not None:
            self.head.node.end()
        for name in HEAD_KINDS:
            for process in self.by_kind()[name]:
                process.signal(signal.SIGKILL)
        self.start_head()

    def start_driver(self) -> None:
        """The one command that a user types again and again."""
        agent = f"{sys.executable} {self.folder / 'agent.py'}"
        command = self.command(
            "search", "--runs", "6", "--claim-runs", "1", "--proposer", "agent", "--command", agent,
            "--address", self.address,
        )  # fmt: skip
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(command, cwd=self.root, stdout=log, stderr=log, start_new_session=True)

    def has_joined(self) -> bool:
        """Whether the driver of now says what its slots do."""
        live = read_live(LabPaths(self.root).live)
        drivers = [process for name in ("driver", "queue") for process in self.by_kind()[name]]
        return live is not None and live.pid in {pid_at_home(process.pid) for process in drivers}

    def resume(self, victim: Victim) -> None:
        """What rested goes on."""
        victim.signal(signal.SIGCONT)

    def progress(self) -> int:
        """Attempts begun and results recorded, of all runs."""
        with closing(sqlite3.connect(self.ledger, timeout=60)) as ledger:
            return int(
                ledger.execute("SELECT (SELECT count(*) FROM attempt) + (SELECT count(*) FROM result)").fetchone()[0]
            )

    def attempts(self) -> Counter[str]:
        """How many were begun, by host."""
        with closing(sqlite3.connect(self.ledger, timeout=60)) as ledger:
            return Counter(slot.partition("/")[0] for (slot,) in ledger.execute("SELECT slot_id FROM attempt"))

    def processes(self) -> list[Process]:
        """All that is ours and lives, this process left out."""
        everything = {p.pid: p for entry in os.listdir("/proc") if entry.isdigit() and (p := read_process(int(entry)))}
        return [process for process in everything.values() if self._is_ours(process, everything)]

    def victims(self) -> Mapping[str, Sequence[Victim]]:
        """Everything that can be hit, by kind."""
        return self.by_kind()

    def by_kind(self) -> dict[str, list[Process]]:
        ours = self.processes()
        judges = {p.pid for p in ours if "harness.judge" in p.command}
        driver = self._driver_pid(ours)
        agent = str(self.folder / "agent.py")
        return {
            "driver": [p for p in ours if p.pid == driver],
            "queue": [p for p in ours if p.parent == driver and " scheduler search " in p.command],
            "actor": [p for p in ours if p.command.startswith("ray::SlotActor")],
            "raylet": [p for p in ours if re.match(r"\S*/raylet/raylet ", p.command)],
            "gcs": [p for p in ours if re.match(r"\S*/gcs_server ", p.command)],
            "judge": [p for p in ours if p.pid in judges],
            "candidate": [p for p in ours if p.parent in judges and p.pid not in judges],
            "agent": [p for p in ours if agent in p.command and "search" not in p.command],
        }

    def _driver_pid(self, ours: list[Process]) -> int:
        """0 for none."""
        return self.driver.pid if self.driver and self.driver.poll() is None else 0

    def _is_ours(self, process: Process, everything: dict[int, Process]) -> bool:
        """By its own words, or as the child of one that is; once ours, always ours."""
        key = (process.pid, process.started)
        if process.pid == os.getpid():
            return False
        if not self._known.get(key):
            parent = everything.get(process.parent)
            self._known[key] = self._has_mark(process) or (parent is not None and self._is_ours(parent, everything))
        return self._known[key]

    def _has_mark(self, process: Process) -> bool:
        with suppress(OSError):
            return (
                os.fsdecode(self._mark) in process.command
                or self._mark in Path(f"/proc/{process.pid}/environ").read_bytes()
            )
        return False

    def end(self) -> list[str]:
        """End driver and head, wait for the rest to go by itself; what does not is returned in words, and killed."""
        self._end_driver()
        self._end_ray()
        deadline = time.monotonic() + LEAVES_S
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        for process in left:
            process.signal(signal.SIGCONT)
            kill_quietly(process.pid)
        return [f"process {process.pid}: {process.command[:150]}" for process in left]

    def _end_driver(self) -> None:
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()

    def _end_ray(self) -> None:
        if self.head is not None:
            self.head.node.end()

    def spools(self) -> list[Path]:
        """The folders that slots of any host keep their runs in."""
        return [self.folder / "spool"]

    def shared_left(self) -> list[str]:
        """Shared memory that was not there before and that no process has open."""
        used = {os.readlink(fd) for fd in Path("/proc").glob("[0-9]*/fd/*") if is_shared(fd)}
        return [f"/dev/shm/{name}" for name in sorted(set(shared_memory()) - self._shared_before)
                if f"/dev/shm/{name}" not in used]  # fmt: skip

    def notes(self) -> list[str]:
        """What else a report should say."""
        return []

    def take_down(self) -> list[str]:
        """End the hosts, if there are any; in words what is left of them."""
        return []

    def said(self, lines: int = 25) -> str:
        """The last of what the driver printed."""
        with suppress(OSError):
            return "\n".join((self.folder / "driver.log").read_text(errors="replace").splitlines()[-lines:])
        return ""

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
