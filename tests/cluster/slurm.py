"""`make test-slurm`: deploy/slurm/arsched.sbatch under a real Slurm, each of its nodes in namespaces of this machine.

Root and Debian's slurmctld, slurmd, slurm-client, munge; without them it says so and ends. Six candidates on two nodes;
jobs asked to end, cancelled, at their time limit, and another that goes on. No GPU, no accounting, no cgroups.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.harness.judging import TINY, Rig, with_budget
from tests.waiting import wait_until
from tests.walk.lab import COUNTING, GOOD, UsersLab

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = ROOT / "deploy" / "slurm" / "arsched.sbatch"
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "unshare")
NETWORK = "10.77.0"
PATIENCE_S = 900.0
INSIDE = "ARSCHED_SLURM_INSIDE"
NAMESPACES = "unshare --mount --pid --uts --ipc --fork --kill-child --mount-proc"
SLURM_CONF = """\
ClusterName=try
SlurmctldHost=login({network}.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SlurmdTimeout=300
MessageTimeout=60
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE_INIT = """\
set -e
hostname {name}
mount --bind {folder}/hosts-{name} /etc/hosts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
set +e
slurmd -D -N {name} -f {folder}/slurm.conf &
slurmd=$!
while kill -0 $slurmd 2>/dev/null; do wait -n || sleep 1; done  # an init reaps whoever is left to it
"""


class Slurm:
    """A controller and its nodes, in the namespaces of this process; all of it ends with this process."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder = folder
        self.names = [f"node{number}" for number in range(1, nodes + 1)]
        self.environ = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._write()
        self._connect()
        self._start_all()

    def run(self, *command: str, cwd: Path | None = None, **environ: str) -> str:
        done = subprocess.run(
            command, cwd=cwd, env={**self.environ, **environ}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        said = self.run("scontrol", "show", "job", number)
        return dict(word.partition("=")[::2] for word in said.split() if "=" in word)

    def wait_for_end(self, number: str) -> dict[str, str]:
        over = lambda: (job := self.job(number))["JobState"] not in ("PENDING", "RUNNING", "COMPLETING") and job  # noqa: E731
        return self.wait(over, f"the end of job {number}")  # type: ignore[no-any-return]

    def _write(self) -> None:
        lines = "\n".join(
            f"NodeName={name} NodeAddr={self._address(name)} CPUs={os.cpu_count()} State=UNKNOWN" for name in self.names
        )
        text = SLURM_CONF.format(folder=self.folder, nodes=lines, network=NETWORK)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # its start needs no cgroup mounted
        for name in ("state", *(f"spool-{name}" for name in self.names)):
            (self.folder / name).mkdir()
        self._munge("key-file").write_bytes(os.urandom(128))
        self._munge("key-file").chmod(0o400)
        for name in self.names:  # as Debian writes it: a node's own name is on the loopback
            (self.folder / f"hosts-{name}").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")

    def _connect(self) -> None:
        address = f"addr add {NETWORK}.1/24 dev br0"
        for line in ("link set lo up", "link add br0 type bridge", address, "link set br0 up"):
            self.run("ip", *line.split())
        for name in self.names:
            self.run("ip", "netns", "add", name)
            self.run("ip", *f"link add v-{name} type veth peer name eth0 netns {name}".split())
            self.run("ip", *f"link set v-{name} master br0 up".split())
            self.run("ip", "-n", name, *f"addr add {self._address(name)}/24 dev eth0".split())
            self.run("ip", "-n", name, "link", "set", "eth0", "up")
            self.run("ip", "-n", name, *f"route add default via {NETWORK}.1".split())

    def _start_all(self) -> None:
        files = (f"--{kind}={self._munge(kind)}" for kind in ("key-file", "socket", "seed-file", "pid-file"))
        self._start("munged", "munged", "--foreground", "--force", *files)
        self.wait(self._munge("socket").exists, "munged's socket")
        self._start("slurmctld", "slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))
        for name in self.names:
            init = NODE_INIT.format(name=name, folder=self.folder)
            self._start(name, "ip", "netns", "exec", name, *NAMESPACES.split(), "bash", "-c", init)
        idle = lambda: self._state().count("idle") == len(self.names)  # noqa: E731
        self.wait(idle, "idle nodes")

    def _state(self) -> str:
        done = subprocess.run(["sinfo", "-hNo", "%T"], env=self.environ, capture_output=True, text=True, timeout=120)
        return done.stdout

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("wb") as log:
            daemon = subprocess.Popen(command, stdout=log, stderr=log, env=self.environ, start_new_session=True)
        self._daemons[name] = daemon

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Raises AssertionError when it does not come true in time, or a daemon ends meanwhile."""

        def come_true() -> Any:
            for name, daemon in self._daemons.items():
                assert daemon.poll() is None, f"{name} ended: {(self.folder / f'{name}.out').read_text()[-2000:]}"
            return condition()

        return wait_until(come_true, what, PATIENCE_S)

    def _munge(self, kind: str) -> Path:
        return self.folder / f"munge.{kind}"

    def _address(self, name: str) -> str:
        return f"{NETWORK}.{10 + int(name.removeprefix('node'))}"


def shims(folder: Path) -> Path:
    """What `make install` leaves, by this Python: a checkout's .venv/bin with `ray`, `arsched` and `python`."""
    place = folder / "checkout" / ".venv" / "bin"
    place.mkdir(parents=True)
    for name, module in {"ray": "-m ray.scripts.scripts", "arsched": "-m scheduler.cli.main", "python": ""}.items():
        (place / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (place / name).chmod(0o755)
    return folder / "checkout"


def sbatch(slurm: Slurm, lab: UsersLab, nodes: int, *arguments: str, time_: Sequence[str] = ("--time=30",)) -> str:
    """The number of a job that has been handed in, as a user would from the lab; `time_`: sbatch's options for it."""
    environ = lab.environ | {"HOME": str(slurm.folder / "home"), "ARSCHED": str(slurm.folder / "checkout")}
    environ.pop("ARSCHED_SPOOL", None)
    options = ("--parsable", f"--nodes={nodes}", "--gpus-per-node=0", *time_)
    return slurm.run("sbatch", *options, str(SCRIPT), *arguments, cwd=lab.root, **environ)


def output(lab: UsersLab, job: str) -> str:
    path = lab.root / f"arsched-{job}.out"
    return path.read_text(errors="replace") if path.exists() else ""


def nodes_of(lab: UsersLab) -> set[str]:
    """Where the lab's runs were."""
    with sqlite3.connect(lab.root / ".git" / "arsched" / "ledger.db") as ledger:
        return {str(slot).partition("/")[0] for (slot,) in ledger.execute("SELECT slot_id FROM attempt")}


def try_six_candidates(slurm: Slurm, lab: UsersLab) -> None:
    start = time.monotonic()
    paths = [lab.candidate(f"c{number}", f"{GOOD}\nN = {number}\n") for number in range(6)]
    job = sbatch(slurm, lab, len(slurm.names), "submit", *paths)
    ended = slurm.wait_for_end(job)
    assert ended["JobState"] == "COMPLETED", (ended, output(lab, job))
    results = lab.results()
    assert len(results) >= 9 and set(results.values()) == {1}, results
    assert nodes_of(lab) == set(slurm.names)
    seconds = time.monotonic() - start
    print(f"six candidates on {len(slurm.names)} nodes: {len(results)} runs, {seconds:.0f} s", flush=True)


def queue(lab: UsersLab, name: str, count: int) -> None:
    for number in range(count):
        said = lab.arsched("submit", "--no-wait", lab.candidate(f"{name}{number}", f"{COUNTING}\n{name} = {number}\n"))
        assert said.code == 0, said.err


def first_result(slurm: Slurm, lab: UsersLab, *arguments: str) -> tuple[str, int]:
    """A job that is at work, and how many results there were before it."""
    before = len(lab.results())
    job = sbatch(slurm, lab, 1, *arguments)
    slurm.wait(lambda: len(lab.results()) > before, "a first result")
    return job, before


def try_being_asked_to_end(slurm: Slurm, lab: UsersLab) -> None:
    """By hand; and `status` on the job's first node meanwhile."""
    queue(lab, "asked", 10)
    job, before = first_result(slurm, lab)
    arsched = str(slurm.folder / "checkout" / ".venv" / "bin" / "arsched")
    asked = ("srun", f"--jobid={job}", "--overlap", "--nodes=1", "--ntasks=1", arsched, "status", "--json")
    assert '"tag"' in slurm.run(*asked, cwd=lab.root)
    slurm.run("scancel", "--signal=USR1", "--batch", job)
    ended = slurm.wait_for_end(job)
    assert ended["JobState"] == "COMPLETED" and "asked to end" in output(lab, job), (ended, output(lab, job))
    count = len(lab.results()) - before
    assert count < 10, "it was over before it was asked to end"
    print(f"asked to end: {count} of 10 runs finished", flush=True)


def try_being_cancelled(slurm: Slurm, lab: UsersLab) -> None:
    """Without a warning: Slurm kills what it tracks, which without cgroups leaves Ray behind."""
    job, before = first_result(slurm, lab)
    slurm.run("scancel", job)
    assert slurm.wait_for_end(job)["JobState"] == "CANCELLED"
    print(f"cancelled: {len(lab.results()) - before} runs finished", flush=True)


def try_the_time_limit(slurm: Slurm, lab: UsersLab) -> None:
    """Slurm's own signal may come up to a minute early, here while Ray still starts."""
    queue(lab, "limited", 20)
    before = len(lab.results())
    job = sbatch(slurm, lab, 1, time_=("--time=5", "--signal=B:USR1@230"))
    ended = slurm.wait_for_end(job)
    assert ended["JobState"] == "COMPLETED", (ended, output(lab, job))
    print(f"at the time limit: {len(lab.results()) - before} runs finished", flush=True)


def try_going_on(slurm: Slurm, lab: UsersLab) -> None:
    """One more sbatch makes the rest: every candidate has a result, and no run two."""
    job = sbatch(slurm, lab, len(slurm.names))
    assert slurm.wait_for_end(job)["JobState"] == "COMPLETED", output(lab, job)
    assert len(lab.results()) >= 30 and set(lab.results().values()) == {1}
    with sqlite3.connect(lab.root / ".git" / "arsched" / "ledger.db") as ledger:
        (waiting,) = ledger.execute("SELECT COUNT(*) FROM run WHERE state IN ('queued', 'running')").fetchone()
    assert waiting == 0
    assert shutil.which("pgrep") is None or subprocess.run(["pgrep", "raylet"], stdout=subprocess.DEVNULL).returncode


@contextlib.contextmanager
def scratch(keep: bool) -> Iterator[Path]:
    """Not below /tmp, which every node has of its own."""
    folder = Path(tempfile.mkdtemp(prefix="arsched-slurm-", dir="/var/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True) if not keep else print(f"kept: {folder}")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="leave the scratch folder, with all logs")
    options = parser.parse_args(arguments)
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        lacking = f"{', '.join(missing)} not installed" if missing else "not root"
        print(f"skipped: {lacking}; on Debian, as root: apt install slurmctld slurmd slurm-client munge iproute2")
        return 0
    if INSIDE not in os.environ:
        shell = (*NAMESPACES.split(), "--net", "--propagation=private", sys.executable, "-m", "tests.cluster.slurm")
        os.environ[INSIDE] = "1"
        os.execvp(shell[0], [*shell, *arguments])
    subprocess.run(["hostname", "login"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    with scratch(options.keep) as folder:
        (folder / "home").mkdir()
        shims(folder)
        slurm = Slurm(folder, options.nodes)
        lab = UsersLab(Rig(folder, with_budget(TINY, seconds=1.0)))
        said = lab.arsched("init", "--tag", "search", "--contract", str(lab.rig.contract_path), "--no-wait")
        assert said.code == 0, said.err
        for each in (try_six_candidates, try_being_asked_to_end, try_being_cancelled, try_the_time_limit, try_going_on):
            each(slurm, lab)
    print("Slurm: all is well")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
