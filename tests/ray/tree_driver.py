"""A driver whose actor starts one process tree of each kind, then does to the actor what stdin says. Run as a program.

    python -m tests.ray.tree_driver FOLDER [--detached]

Each tree has $TREE, its kind's file in FOLDER, in its environment; the file has the pid of the actor's worker. Words on
stdin: kill, terminate, del, exit. Prints "planted" when all trees run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import ray

FOREVER = "sleep 100000"
TREE = f"{FOREVER} & wait"
ESCAPED = f"setsid {FOREVER} & setsid sh -c '{FOREVER} & wait' & wait"
DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
UNSHARE = ("unshare", *(("--user", "--map-root-user") if os.geteuid() else ()), "--pid", "--fork", "--kill-child")
CONTAINED = f"""
import os, signal, subprocess
from harness.containment import contain, die_with_parent
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
die_with_parent()
raise SystemExit(contain("auto", lambda how: subprocess.call(["sh", "-c", {ESCAPED!r}])))
"""
KINDS: dict[str, tuple[tuple[str, ...], bool]] = {  # command, and whether in a session of its own
    "direct": (tuple(FOREVER.split()), False),
    "grandchild": (("sh", "-c", TREE), False),
    "session": (tuple(FOREVER.split()), True),
    "session, pdeathsig": ((*DIES_WITH_PARENT, *FOREVER.split()), True),
    "session, pdeathsig, grandchild": ((*DIES_WITH_PARENT, "sh", "-c", TREE), True),
    "namespace": ((*DIES_WITH_PARENT, *UNSHARE, "sh", "-c", ESCAPED), True),
    "arsched": ((*DIES_WITH_PARENT, sys.executable, "-c", CONTAINED), True),
}


class Planter:
    """An actor, whose calls all run in one thread that lives as long as it."""

    def plant(self, folder: str, kinds: dict[str, tuple[tuple[str, ...], bool]], root: str) -> None:
        for kind, (command, own_session) in kinds.items():
            file = Path(folder, kind)
            file.write_text(str(os.getpid()))
            environ = {"PATH": os.environ["PATH"], "TREE": str(file), "PYTHONPATH": root}
            subprocess.Popen(command, env=environ, start_new_session=own_session, stdin=subprocess.DEVNULL)


def main() -> None:
    folder, detached = sys.argv[1], "--detached" in sys.argv
    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level="ERROR", namespace=folder)
    options = {"lifetime": "detached", "name": "planter"} if detached else {}
    planter = ray.remote(Planter).options(num_cpus=0, max_restarts=0, **options).remote()
    root = str(Path(__file__).resolve().parents[2])
    ray.get(planter.plant.remote(folder, KINDS, root), timeout=120)
    sys.stdout.write("planted\n")
    sys.stdout.flush()
    match sys.stdin.readline().strip():
        case "kill":
            ray.kill(planter)
        case "terminate":
            planter.__ray_terminate__.remote()
        case "del":
            del planter
        case "exit":
            return
    signal.pause()


if __name__ == "__main__":
    main()
