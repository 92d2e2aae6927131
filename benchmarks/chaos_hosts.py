"""The rig of chaos.py over several hosts: namespaces of this machine, made by tests/cluster/hosts.sh (root).

h1 has the lab, the driver and the head of Ray; h2 and on are workers, each with an address, a /tmp, a /dev/shm and a
spool of its own. They share the prepared cache, as on a shared file system. Ray is started, and started again, by the
lines of cluster.yaml. Two more kinds can be hit: `worker`, the raylet of a worker, and `link`, its cable at the switch.
Not covered: a host's power, a head that is cut off, ssh.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from benchmarks.chaos_rig import KINDS, ROOT, Process, Rig, Victim, make_folder, read_process
from tests.cluster.terminal import SCRIPT, hosts
from tests.ray.ray_head import descendants, kill_quietly

HOST_KINDS = (*KINDS, "worker", "link")
MOST_HOSTS = 9
VISIBLE = "/var/tmp"
HIDDEN = ("/tmp", "/home", "/run", "/srv", "/mnt", "/dev/shm")  # a host has its own there
NETWORK, FIRST_NUMBER, PORT = "10.99.0", 10, 6379
NAMESPACES = ("net", "mnt", "pid", "uts", "ipc")
START_S = 120
AGAIN_AFTER_S = 5.0  # between two tries to start Ray on a worker
DOWN_S = 30.0
OBJECT_STORE_BYTES = 100 * 2**20


def hosts_problem() -> str:
    """Why this machine makes no hosts, and what to do, in a sentence; "" when it does."""
    said = hosts("can", quiet=True)
    return said.text.strip() if said.code else hidden_problem((ROOT, Path(sys.prefix), Path(sys.base_prefix)))


def hidden_problem(needed: Sequence[Path]) -> str:
    """Why a host would not see this checkout or its Python, in a sentence; "" when it does."""
    for path in needed:
        for folder in HIDDEN:
            if path.is_relative_to(folder):
                return f"{path} is not there on the hosts, which have a {folder} of their own: clone arsched to /opt"
    return ""


def ray_lines(kind: str) -> str:
    """`ray stop` and `ray start` for a "head" or a "worker", as cluster.yaml has them, with this Python's Ray.

    Raises ValueError when that file has changed in what is replaced here.
    """
    lines = " && ".join(yaml.safe_load((ROOT / "cluster.yaml").read_text())[f"{kind}_start_ray_commands"])
    changes = [(r"~/arsched/\.venv/bin/ray", str(Path(sys.executable).with_name("ray")))]
    if kind == "head":  # its address and the autoscaler's file are what `ray up` would have left on the host
        changes.append((r"--node-ip-address=\$\(.*\) --autoscaling-config=\S+", "--node-ip-address=$RAY_HEAD_IP"))
    for pattern, text in changes:
        lines, count = re.subn(pattern, text, lines)
        if not count:
            raise ValueError(f"cluster.yaml has no {pattern} in its {kind}_start_ray_commands")
    return lines


@dataclass
class Link:
    """The cable of a worker, which can only rest. `cuts`: seconds of each that is over."""

    host: str
    environ: Mapping[str, str]
    cut_at: float | None = None
    cuts: list[float] = field(default_factory=list)

    @property
    def label(self) -> str:
        return self.host

    def signal(self, number: signal.Signals) -> bool:
        """SIGSTOP cuts, SIGCONT mends."""
        hosts("cut" if number is signal.SIGSTOP else "mend", self.host, environ=dict(self.environ))
        if self.cut_at is not None:
            self.cuts.append(time.monotonic() - self.cut_at)
        self.cut_at = time.monotonic() if number is signal.SIGSTOP else None
        return True


@dataclass
class Worker:
    """What is known of a worker's Ray. `stale`: it belongs to a head that is gone, or did not come up whole."""

    link: Link
    starting: subprocess.Popen[bytes] | None = None
    begun_at: float = float("-inf")
    stale: bool = False
    starts: int = 0

    def is_starting(self) -> bool:
        if self.starting is None:
            return False
        if (code := self.starting.poll()) is not None:
            self.stale, self.starting = self.stale or code != 0, None
        return self.starting is not None


class HostsRig(Rig):
    """The same over hosts h1 to hN, which are up from `begin` to `take_down`."""

    kinds = HOST_KINDS

    def __init__(self, count: int, slots: int) -> None:
        super().__init__(make_folder(VISIBLE), slots)
        self.names = [f"h{number}" for number in range(1, count + 1)]
        self.address = f"{self._ip('h1')}:{PORT}"
        players = " ".join(f"{name}:{FIRST_NUMBER + number}" for number, name in enumerate(self.names, 1))
        base = self.folder / "hosts"
        self.environ = {"ARSCHED_HOSTS": str(base), "WHEELS": str(base / "wheels"), "PLAYERS": players}
        os.environ |= self.environ
        self.workers: dict[str, Worker] = {name: Worker(Link(name, self.environ)) for name in self.names[1:]}
        self._own: set[tuple[int, int]] = set()  # pid and start of what the hosts themselves are made of
        self._namespaces: dict[str, str] = {}  # as /proc names them -> whose

    def begin(self) -> None:
        """As for one machine, with the hosts before it. Raises SystemExit when they do not come up."""
        hosts("up", environ=self.environ)
        for name in ("switch", *(f"{name}/pid" for name in self.names)):
            pid = int((self.folder / "hosts" / name).read_text())
            self._own |= {(p.pid, p.started) for p in self._makings(pid)}
            for kind in NAMESPACES if "/" in name else NAMESPACES[:1]:
                self._namespaces[os.readlink(f"/proc/{pid}/ns/{kind}")] = name.partition("/")[0]
        for name in self.names:
            self._spool(name).mkdir(parents=True)
        super().begin()

    def on(self, host: str, *words: str) -> list[str]:
        """The line that runs a command on a host, as root, where the lab is."""
        known = [f"ARSCHED_SPOOL={self._spool(host)}", f"RAY_HEAD_IP={self._ip('h1')}"]
        return ["bash", str(SCRIPT), "root", host, "env", "-u", "TMPDIR", "-C", str(self.root), *known, *words]

    def command(self, *words: str) -> list[str]:
        return self.on("h1", *super().command(*words))

    def start_head(self) -> None:
        """Ray on every host, as `ray up` does it. Raises RuntimeError with the last words of the head's."""
        begun = self._start_ray("h1")
        if begun.wait():
            raise RuntimeError(f"the head's Ray did not start:\n{self._ray_log('h1').read_text()[-2000:]}")
        for worker in self.workers.values():
            worker.stale = True

    def is_head_whole(self) -> bool:
        kinds = self.by_kind()
        return bool(kinds["raylet"]) and bool(kinds["gcs"])

    def restart_head(self) -> None:
        self.start_head()

    def tend_nodes(self) -> None:
        """The head's Ray, then, not waited for, that of each worker that can be reached."""
        super().tend_nodes()
        raylets = {self._host_of(process) for process in self.by_kind()["worker"]}
        for name, worker in self.workers.items():
            whole = worker.is_starting() or (name in raylets and not worker.stale)
            if whole or worker.link.cut_at is not None or time.monotonic() - worker.begun_at < AGAIN_AFTER_S:
                continue
            worker.starting, worker.begun_at = self._start_ray(name), time.monotonic()
            worker.stale, worker.starts = False, worker.starts + 1

    def is_whole(self) -> bool:
        raylets = {self._host_of(process) for process in self.by_kind()["worker"]}
        waiting = any(w.is_starting() or w.stale or w.link.cut_at is not None for w in self.workers.values())
        return self.is_head_whole() and raylets == self.workers.keys() and not waiting

    def resume(self, victim: Victim) -> None:
        """nsenter stops with its child, and would not see the child's end."""
        super().resume(victim)
        if isinstance(victim, Process) and self.driver is not None and victim.parent == self.driver.pid:
            self.driver.send_signal(signal.SIGCONT)

    def victims(self) -> Mapping[str, Sequence[Victim]]:
        links = [worker.link for worker in self.workers.values() if worker.link.cut_at is None]
        return {**self.by_kind(), "link": links}

    def by_kind(self) -> dict[str, list[Process]]:
        found = super().by_kind()
        raylets = {process: self._host_of(process) for process in found["raylet"]}
        return {**found, "raylet": [p for p, host in raylets.items() if host == "h1"],
                "worker": [p for p, host in raylets.items() if host in self.workers]}  # fmt: skip

    def attempts(self) -> Counter[str]:
        """A node may be called "h2-3fd2a0" while Ray's former one there is not yet missed."""
        found: Counter[str] = Counter()
        for name, count in super().attempts().items():
            found[name.partition("-")[0]] += count
        return found

    def processes(self) -> list[Process]:
        return [process for process in super().processes() if (process.pid, process.started) not in self._own]

    def spools(self) -> list[Path]:
        return [self._spool(name) for name in self.names]

    def shared_left(self) -> list[str]:
        left = super().shared_left()
        for name in self.names:
            with suppress(OSError, ValueError):
                pid = int((self.folder / "hosts" / name / "pid").read_text())
                left += [f"{name}:/dev/shm/{file}" for file in sorted(os.listdir(f"/proc/{pid}/root/dev/shm"))]
        return left

    def notes(self) -> list[str]:
        cuts = sorted(seconds for worker in self.workers.values() for seconds in worker.link.cuts)
        starts = ", ".join(f"{name} {max(0, worker.starts - 1)}" for name, worker in self.workers.items())
        attempts = ", ".join(f"{name} {count}" for name, count in sorted(self.attempts().items()))
        return [f"cuts {len(cuts)}, seconds: {' '.join(f'{seconds:.0f}' for seconds in cuts) or 'none'}",
                f"Ray on a worker started again: {starts}",
                f"attempts by host: {attempts}"]  # fmt: skip

    def take_down(self) -> list[str]:
        """End the hosts; in words what the kernel still has of them."""
        hosts("down", quiet=True, environ=self.environ)
        deadline = time.monotonic() + DOWN_S
        while (left := [*self._namespaces_left(), *self._mounts_left()]) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left

    def _driver_pid(self, ours: list[Process]) -> int:
        """The child of nsenter."""
        outer = super()._driver_pid(ours)
        return next((process.pid for process in ours if outer and process.parent == outer), 0)

    def _end_driver(self) -> None:
        if self.driver is not None and self.driver.poll() is None:
            for pid in descendants(self.driver.pid):
                kill_quietly(pid)
            self.driver.send_signal(signal.SIGCONT)
        super()._end_driver()

    def _end_ray(self) -> None:
        """`ray stop` on every host, after what was about to start there."""
        for worker in self.workers.values():
            if worker.starting is not None:
                worker.starting.wait()
        if not self.processes():
            return
        stop = [str(Path(sys.executable).with_name("ray")), "stop"]
        for ending in [self._run(name, stop) for name in self.names]:
            ending.wait()

    def _start_ray(self, host: str) -> subprocess.Popen[bytes]:
        """As typed there; ends by itself."""
        kind = "head" if host == "h1" else "worker"
        line = f"{ray_lines(kind)} --num-cpus={self.slots} --num-gpus=0 --object-store-memory={OBJECT_STORE_BYTES}"
        cores = sorted(os.sched_getaffinity(0))  # hosts count them from the first, and would all take that one
        first = self.names.index(host) * self.slots
        own = {cores[(first + number) % len(cores)] for number in range(self.slots)}
        pinned = ["taskset", "--cpu-list", ",".join(map(str, sorted(own)))] if len(own) == self.slots else []
        return self._run(host, ["timeout", "--kill-after=5", str(START_S), *pinned, "bash", "-c", line])

    def _run(self, host: str, words: list[str]) -> subprocess.Popen[bytes]:
        with self._ray_log(host).open("ab") as log:
            return subprocess.Popen(
                self.on(host, *words), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _ray_log(self, host: str) -> Path:
        return self.folder / f"ray-{host}.log"

    def _spool(self, host: str) -> Path:
        return self.folder / "spool" / host

    def _ip(self, host: str) -> str:
        return f"{NETWORK}.{FIRST_NUMBER + int(host[1:])}"

    def _host_of(self, process: Process) -> str:
        with suppress(OSError):
            return self._namespaces.get(os.readlink(f"/proc/{process.pid}/ns/net"), "")
        return ""

    def _makings(self, pid: int) -> Iterator[Process]:
        """A host's first process, the `unshare` above it and the sshd below it."""
        here = read_process(pid)
        if here is None:
            return
        yield here
        for entry in filter(str.isdigit, os.listdir("/proc")):
            other = read_process(int(entry))
            if other is not None and (
                other.pid == here.parent != 1 or (other.parent == pid and "sshd" in other.command)
            ):
                yield other

    def _namespaces_left(self) -> list[str]:
        found = {}
        for path in Path("/proc").glob("[0-9]*/ns/*"):
            with suppress(OSError):
                if (name := os.readlink(path)) in self._namespaces:
                    found[name] = f"{name} of {self._namespaces[name]} in process {path.parts[2]}"
        return sorted(found.values())

    def _mounts_left(self) -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [f"a mount: {line.split()[4]}" for line in lines if str(self.folder) in line]
