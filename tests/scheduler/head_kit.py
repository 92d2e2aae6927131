"""A laptop and a head on one machine: `ssh` on the PATH runs the head's side here, in another home. No sshd, no Ray.

The head's arsched is the real command on two slots whose judge scores the constants of train.py.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import yaml

from harness.contract import load_contract
from scheduler.policy.constants import rewrite_constants
from tests.harness.judging import Rig

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "10.99.0.11"
PROGRAM = "-m tests.scheduler.arsched_on_a_landscape"
# `fail` is what ssh says instead of connecting.
SSH = """#!/bin/sh
printf '%s\\n' "$*" >> {state}/calls
[ -f {state}/fail ] && cat {state}/fail >&2 && exit 255
for last; do :; done
# As sshd does: in a session of its own, which the end of this ssh does not end.
exec 3<&0
env -i HOME={home} PATH="$PATH" PYTHONPATH={root} {environ} setsid sh -c "$last" <&3 3<&- &
wait $!
"""


class Bench:
    """`laptop` is a repository with train.py; `home` the home of the head's user; `state` what the ssh does and did."""

    def __init__(self, folder: Path, name: str = "my lab") -> None:
        (folder / "rig").mkdir()
        self.folder, self.rig = folder, Rig(folder / "rig")
        self.rig.use(load_contract("cpu"))
        self.home, self.laptop, self.state = folder / "head home", folder / name, folder / "state"
        self.programs = self.home / "arsched" / ".venv" / "bin"
        for place in (self.laptop, self.state, self.programs, folder / "bin", folder / "laptop home"):
            place.mkdir(parents=True)
        self._write_programs()
        self._write_repository()
        path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
        home = str(folder / "laptop home")
        self.environ = {**self.rig.environment, "PATH": path, "HOME": home, "PYTHONPATH": str(ROOT)}
        self.environ.pop("RAY_ADDRESS", None)

    def _write_programs(self) -> None:
        words = {key: self.rig.environment[key] for key in ("ARSCHED_CACHE",) if key in self.rig.environment}
        words |= {"ARSCHED_SPOOL": str(self.folder / "spool")}
        environ = " ".join(f"{key}='{value}'" for key, value in words.items())
        ssh = SSH.format(state=f"'{self.state}'", home=f"'{self.home}'", root=ROOT, environ=environ)
        program(self.folder / "bin" / "ssh", ssh)
        program(self.programs / "python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        self.head_runs(f'exec "{sys.executable}" {PROGRAM} "$@"')

    def head_runs(self, script: str) -> None:
        """Have the head's `arsched` be this script."""
        program(self.programs / "arsched", f"#!/bin/sh\n{script}\n")

    def _write_repository(self) -> None:
        shutil.copy(ROOT / "train.py", self.laptop / "train.py")
        (self.laptop / ".gitignore").write_text("/candidates/\n")
        self.key = self.folder / "key"
        self.key.write_text("a key\n")
        self.write_cluster(head_ip=ADDRESS)
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "a")
        self.git("config", "user.email", "a@b.c")
        self.git("add", "--all")
        self.git("commit", "-qm", "start")

    def write_cluster(self, **provider: str) -> Path:
        raw = yaml.safe_load((ROOT / "cluster.yaml").read_text())
        raw["provider"] |= provider
        raw["auth"]["ssh_private_key"] = str(self.key)
        path = self.laptop / "cluster.yaml"
        path.write_text(yaml.safe_dump(raw))
        return path

    @property
    def root(self) -> Path:
        """The repository at the head."""
        (found,) = (self.home / "labs").iterdir()
        return found

    def git(self, *words: str, folder: Path | None = None) -> str:
        done = subprocess.run(["git", *words], cwd=folder or self.laptop, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def start(self, *words: str, cluster: str = "cluster.yaml", **more: str) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "scheduler", "--cluster", cluster, *words]
        return subprocess.Popen(
            line, cwd=self.laptop, env=self.environ | more, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def arsched(self, *words: str, code: int = 0, **more: str) -> tuple[str, str]:
        """stdout and stderr of a command on the laptop."""
        process = self.start(*words, **more)
        out, err = process.communicate(timeout=240)
        assert process.returncode == code and "Traceback" not in err, f"{process.returncode}\n{out}\n{err}"
        return out, err

    def candidate(self, name: str, **constants: float) -> Path:
        """A Python file that changes constants of the laptop's train.py."""
        path = self.laptop / "candidates" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(rewrite_constants((self.laptop / "train.py").read_text(), constants))
        return path

    def end(self) -> None:
        """End what a failed test has left at work: all that runs in a folder of this bench."""
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(self.folder):
                    os.kill(int(entry.name), signal.SIGKILL)

    def calls(self) -> list[str]:
        return (self.state / "calls").read_text().splitlines()


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
