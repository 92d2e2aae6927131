"""`make test-image`: the steps of deploy/Dockerfile in a fresh Debian, then a lab in it, as its user.

Root, debootstrap and a way to Debian's and pip's archives; without them it says so and ends. No container engine: each
step has the tree as its root (pivot_root) and its own processes. Not covered: layers, an engine's filters, GPUs.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.harness.judging import CANDIDATES, TINY, Rig

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
USER = 1000
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # Docker's own
SHELL = "unshare --mount --pid --ipc --uts --fork --kill-child --propagation private bash -ec"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
ENTER = """\
mount --bind "$TREE" "$TREE"
cd "$TREE"
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmpfs dev/shm
if [ -n "$BROUGHT" ]; then mkdir -p ".$BROUGHT"; mount --bind "$BROUGHT" ".$BROUGHT"; fi
if [ -n "$READ_ONLY" ]; then
  for each in lab home/arsched/.cache; do mount --bind "$each" "$each"; done
  mount -t tmpfs -o mode=1777 tmpfs tmp
  mount -o remount,bind,ro "$TREE" .
fi
pivot_root . mnt
umount -l mnt
exec setpriv --reuid="$AS" --regid="$AS" --clear-groups env -i $SETTINGS sh -c "$COMMAND"
"""


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, its continuation lines joined."""

    name: str
    text: str


def instructions(text: str) -> list[Instruction]:
    """Comments are left out, also between the lines of one instruction, as Docker does."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    lines = re.sub(r"\\\n\s*", "", kept).splitlines()
    return [Instruction(*line.split(None, 1)) for line in lines if line.strip()]


def sources(copy: Instruction) -> list[str]:
    return shlex.split(copy.text)[:-1]


def is_sent(path: str, ignore: str) -> bool:
    """Whether .dockerignore lets a path below the top folder through; for lists of the kind `*`, then `!NAME`."""
    allowed = [line[1:].rstrip("/") for line in ignore.splitlines() if line.startswith("!")]
    return any(path.rstrip("/") == name or path.startswith(f"{name}/") for name in allowed)


@dataclass
class Tree:
    """A root file system that a Dockerfile's instructions change."""

    path: Path
    brought: str = ""  # a folder of wheels, seen inside at the same path
    settings: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    folder: str = "/"
    user: int = 0

    def do(self, instruction: Instruction) -> None:
        name, text = instruction.name, instruction.text
        if name == "WORKDIR":
            self.folder = text
            self.run(f"mkdir -p {text}", folder="/")
        elif name in ("ENV", "ARG"):
            key, _, value = text.partition("=")
            self.settings[key] = value.strip('"')
        elif name == "USER":
            self.user = USER
        elif name == "COPY":
            self.copy(instruction)
        elif name == "RUN":
            self.run(text)
        elif name not in ("FROM", "ENTRYPOINT", "CMD"):
            raise AssertionError(f"{name} is not followed here")

    def copy(self, instruction: Instruction) -> None:
        target = self.path / self.folder.lstrip("/") / shlex.split(instruction.text)[-1]
        for source in sources(instruction):
            if (ROOT / source).is_dir():  # its contents, as Docker does
                skipped = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, target, dirs_exist_ok=True, ignore=skipped)
            else:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, target)

    def run(self, command: str, *, folder: str = "", read_only: bool = False) -> None:
        settings = self.settings | {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        settings["PIP_CERT"] = f"/etc/{CERTIFICATES.name}"
        environ = os.environ | {
            "TREE": str(self.path), "BROUGHT": self.brought, "READ_ONLY": "yes" if read_only else "",
            "AS": str(self.user), "COMMAND": f"cd {folder or self.folder} && {command}",
            "SETTINGS": " ".join(f"{name}={value}" for name, value in settings.items()),
        }  # fmt: skip
        start = time.monotonic()
        done = subprocess.run([*SHELL.split(), ENTER], env=environ, capture_output=True, text=True)
        print(f"{time.monotonic() - start:5.0f} s  {command[:100]}", flush=True)
        assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}"


def fresh_debian(path: Path, base: str) -> None:
    """About what debian:bookworm-slim holds."""
    archive = ("debootstrap", "--variant=minbase", "bookworm", str(path), "http://deb.debian.org/debian")
    subprocess.run(["cp", "-a", base, str(path)] if base else archive, check=True, stdout=subprocess.DEVNULL)
    for name in ("resolv.conf", "hosts", "pip.conf"):
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), path / "etc" / name)
    shutil.copy(CERTIFICATES, path / "etc")  # this machine's, which may know a proxy's


def try_a_lab(tree: Tree, folder: Path) -> None:
    """As `docker run --read-only`: nothing can be written but the lab, the cache and temporary folders."""
    rig = Rig(folder, replace(TINY, corpus=replace(TINY.corpus, root="/nowhere")))  # the same from any folder
    cache = tree.path / "home" / "arsched" / ".cache"
    shutil.copytree(folder / "cache", cache / "arsched")
    for source, name in ((rig.contract_path, "tiny.json"), (CANDIDATES / "bigram.py", "bigram.py")):
        shutil.copy(source, cache / name)
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(cache), str(tree.path / "lab")], check=True)
    for command in (
        "arsched init --tag image --contract ~/.cache/tiny.json --train ~/.cache/bigram.py",
        "arsched leaderboard --json",
        "arsched doctor",
    ):
        tree.run(command, read_only=True)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheels", default="", metavar="DIR", help="a folder that PIP_FIND_LINKS names")
    parser.add_argument("--base", default="", metavar="DIR", help="a tree that debootstrap made before")
    parser.add_argument("--keep", action="store_true", help="leave the tree")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        print("skipped: needs root and debootstrap (on Debian: apt install debootstrap)")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="arsched-image-", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        tree = Tree(folder / "root", options.wheels)
        fresh_debian(tree.path, options.base)
        for instruction in instructions(DOCKERFILE.read_text()):
            tree.do(instruction)
        try_a_lab(tree, folder)
    finally:
        print(f"kept: {folder}") if options.keep else shutil.rmtree(folder, ignore_errors=True)
    print("the image: all is well")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
