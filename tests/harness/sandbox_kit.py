"""Runs a program confined as a candidate is, by whichever user and under whichever handicap, without a judge.

The code of the sandbox is copied to where every user may read it. Does not test anything itself.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ACTS = REPOSITORY / "tests" / "fixtures" / "forbidden_acts.py"
LOCKED_DOWN = {  # how to become someone; each works only as root
    "root": [],
    "user": ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"],
    "root without capabilities": ["setpriv", "--bounding-set=-all", "--inh-caps=-all"],
    "root in a default container": [],
    "user in a default container": ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"],
}
# Docker's default profile refuses these without CAP_SYS_ADMIN.
_CONTAINER_FILTER = """
from harness.sandbox import kernel, seccomp
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install_for([seccomp.SyscallRule("unshare setns mount umount2 pivot_root"),
    seccomp.SyscallRule("clone", argument=0, test="bits", values=(0x7E020000,)), seccomp.SyscallRule("clone3", 38)])
"""
_CONFINE = """
import json, os, sys
from harness.containment import contain
from harness.sandbox import kernel
from harness.sandbox.confinement import Confinement, enter
from harness.sandbox.self_test import self_test
from harness.sandbox.view import ViewFacts, candidate_view
level, where, extra, *command = json.loads(sys.argv[1])
def body(_containment):
    os.set_inheritable(1, True)
    if (pid := os.fork()) == 0:
        facts = ViewFacts(harness=where + "/code/harness", executable=sys.executable, environment=dict(os.environ),
            prefixes=(sys.prefix, sys.base_prefix), scratch=where + "/scratch", out=where + "/out",
            cache_root=where + "/cache", cache_files=(), **{"import_path": []} | extra)
        os.chdir(where + "/scratch")
        confinement = Confinement(level, os.getppid(), where + "/scratch", candidate_view(facts),
            (where + "/cache/secret",), (where + "/code/harness/shim.py",))
        try:
            reached = enter(confinement)
            self_test(confinement)
        except Exception as error:
            print(json.dumps({"error": str(error)}), flush=True)
            os._exit(1)
        sys.stderr.write(reached + "\\n")
        sys.stderr.flush()
        os.execv(command[0], [one.replace("JUDGE", str(os.getppid())) for one in command])
    if level != "off":
        kernel.forbid_dumping()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF
code = contain("namespace", body) if NAMESPACE else body("subreaper")
sys.exit(code)
"""


@dataclass(frozen=True)
class Place:
    """A folder that every user may enter, with the sandbox's code, a scratch, a secret and an interpreter."""

    folder: Path
    python: str

    def run(self, level: str, who: str, *command: str, **extra: object) -> subprocess.CompletedProcess[str]:
        """Run a command confined; JUDGE in it stands for the pid of the process that plays the judge."""
        for name in ("scratch", "out", "cache"):
            (self.folder / name).mkdir(exist_ok=True)
            (self.folder / name).chmod(0o777)
        (self.folder / "cache/secret").write_text("the answer")
        contained = "container" in who
        script = (_CONTAINER_FILTER if contained else "") + f"NAMESPACE = {level != 'weak'}\n" + _CONFINE
        preamble = f"import sys; sys.path.insert(0, {self._code!r})\n"
        order = json.dumps([level, str(self.folder), extra, *command])
        return subprocess.run(
            [*LOCKED_DOWN[who], self.python, "-I", "-c", preamble + script, order],
            capture_output=True,
            text=True,
            timeout=120,
            cwd="/",
        )

    def levels(self, who: str) -> list[str]:
        """The levels that this one reaches here."""
        return [level for level in ("full", "weak") if "error" not in self.reached(level, who)]

    def acts(self, level: str, who: str) -> dict[str, str]:
        """What became of every forbidden act: "ok" or an error's name."""
        (self.folder / "scratch").mkdir(exist_ok=True)
        shutil.copy(ACTS, self.folder / "scratch" / "acts.py")
        frozen = self.folder / "code/harness/shim.py"
        secret = str(self.folder / "cache/secret")
        name, key = f"arsched-test-{os.getpid()}", os.getpid()
        Path(f"/dev/shm/{name}").touch()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"\0{name}")
            listener.listen()
            command = [self.python, "acts.py", "JUDGE", secret, str(frozen), "/dev/kmsg", name, str(key)]
            done = self.run(level, who, *command)
        Path(f"/dev/shm/{name}").unlink()
        subprocess.run(["ipcrm", "-M", str(key)], capture_output=True, check=False)
        assert done.returncode == 0, f"{done.returncode} {done.stdout} {done.stderr}"
        found: dict[str, str] = json.loads(done.stdout)
        return found

    def reached(self, level: str, who: str) -> dict[str, Any]:
        """{"error": why the level was refused}, or what `python -c pass` said."""
        done = self.run(level, who, self.python, "-c", "print('{}')")
        found: dict[str, Any] = json.loads(done.stdout or json.dumps({"error": done.stderr.strip()}))
        return found

    @property
    def _code(self) -> str:
        return str(self.folder / "code")


def make_place(folder: Path) -> Place:
    """Copy the code; skips the test where no interpreter can be read by every user."""
    for above in (folder, *folder.parents):
        if above.stat().st_uid == os.getuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o055)
    code = folder / "code/harness"
    shutil.copytree(REPOSITORY / "harness/sandbox", code / "sandbox")
    for name in ("__init__.py", "containment.py", "shim.py"):
        shutil.copy(REPOSITORY / "harness" / name, code / name)
    (folder / "code/harness/shim.py").chmod(0o666)  # only the sandbox keeps others from it
    code.chmod(0o777)
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        real = Path(os.path.realpath(python))
        if all(above.stat().st_mode & 0o005 for above in (real, *real.parents)) and _is_new(python):
            return Place(folder, python)
    pytest.skip("no Python 3.11 here that every user may run")


def _is_new(python: str) -> bool:
    check = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    return subprocess.run(check, check=False).returncode == 0
