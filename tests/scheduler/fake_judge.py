"""A judge that obeys the real one's command line and files but trains nothing: its train.py is a list of orders.

    score 1.95        write result.json and vouch for it    wait /path    go on once that file exists
    die some words    end without a result                  hang          never end
    stubborn          ignore SIGTERM                        child         start a child that dies with its parent
    forge 0.1         write result.json, vouch for nothing  pipe words    write words and a line end to the pipe
    exit 1            end with that exit code               python code   run that line of Python
    dump              write what it was started with to out/facts.json

Standard library only. Run as a program; `COMMANDS` is how a supervisor gets it.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CACHE_DIGEST = "cafe" * 16
BUDGET = {"seconds": 20.0, "clock": "cpu", "grace_s": 1.0, "wall_limit_s": 240.0}
LIMITS = {"startup_s": 120.0, "evaluation_s": 120.0, "teardown_s": 20.0, "log_mb": 4.0}
CONTRACT_JSON = json.dumps({"name": "tiny", "device": "cpu", "budget": BUDGET, "limits": LIMITS})
FAKE_JUDGE = (sys.executable, "-S", str(Path(__file__).resolve()))
FAKE_CACHE = (*FAKE_JUDGE, "cache")
FAKE_SANDBOX = (*FAKE_JUDGE, "sandbox")
POLL_S = 0.01


def result_text(val_bpb: float, seed: int) -> str:
    return json.dumps({"format": 1, "status": "ok", "reason": "", "val_bpb": val_bpb, "seed": seed})


class FakeJudge:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.out: Path = arguments.out
        self.log = (self.out / "run.log").open("a")
        self.nonce = os.read(arguments.nonce_fd, 256).decode()
        os.close(arguments.nonce_fd)

    def run(self) -> int:
        with self.arguments.lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.report_progress(0)
            for number, line in enumerate(self.arguments.train.read_text().splitlines(), start=1):
                self.report_progress(number)
                verb, _, rest = line.partition(" ")
                getattr(self, f"do_{verb}")(rest)
        return 0

    def report_progress(self, step: int) -> None:
        self.write("progress.json", {"phase": "train", "elapsed_s": 1.5, "budget_s": 20, "step": step, "loss": 2.5})
        self.log.write(f"step {step}\n")
        self.log.flush()

    def write(self, name: str, facts: dict[str, Any] | str) -> None:
        temporary = self.out / f".{name}"
        temporary.write_text(facts if isinstance(facts, str) else json.dumps(facts))
        temporary.replace(self.out / name)

    def finish(self, text: str) -> int:
        """Write result.json and vouch for it, as the real judge does; returns the exit code of its status."""
        text = json.dumps(json.loads(text) | {"nonce": self.nonce})
        self.write("result.json", text)
        self.do_pipe(f"{hashlib.sha256(text.encode()).hexdigest()} {self.nonce}")
        status = json.loads(text)["status"]
        return 0 if status == "ok" or status.startswith("suspect") else 1 if status.startswith("infra") else 3

    def do_score(self, rest: str) -> None:
        self.finish(result_text(float(rest), self.arguments.seed))

    def do_forge(self, rest: str) -> None:
        self.write("result.json", result_text(float(rest), self.arguments.seed))

    def do_pipe(self, rest: str) -> None:
        os.write(self.arguments.digest_fd, rest.encode() + b"\n")

    def do_exit(self, rest: str) -> None:
        sys.exit(int(rest))

    def do_python(self, rest: str) -> None:
        exec(rest, {"out": self.out, "os": os, "Path": Path})

    def do_wait(self, rest: str) -> None:
        while not Path(rest).exists():
            time.sleep(POLL_S)

    def do_die(self, rest: str) -> None:
        sys.stderr.write(rest)
        sys.stderr.flush()
        os._exit(7)

    def do_hang(self, _rest: str) -> None:
        while True:
            signal.pause()

    def do_stubborn(self, _rest: str) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def do_child(self, _rest: str) -> None:
        child = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "sleep", "1000"])
        self.write("child.pid", str(child.pid))

    def do_dump(self, _rest: str) -> None:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        facts = {
            "argv": sys.argv[1:], "environ": dict(os.environ), "nice": os.nice(0), "pid": os.getpid(),
            "sigint_blocked": signal.SIGINT in blocked, "cwd": os.getcwd(),
        }  # fmt: skip
        self.write("facts.json", facts)


def answer_question() -> int:
    """The harness's other programs: every sandbox is to be had, every contract prepared but the one named "bare"."""
    if sys.argv[1] == "sandbox":
        return answer({"full": os.environ.get("LC_NO_SANDBOX", ""), "weak": "", "landlock_abi": 4}, 0)
    contract = json.loads(Path(sys.argv[sys.argv.index("--contract") + 1]).read_text())
    if contract["name"] == "bare":
        return answer({"error": "no cache for contract bare", "hint": "run: arsched prepare --contract bare"}, 1)
    if contract["name"] == "broken":
        sys.stderr.write("Traceback: the harness itself fails")
        return 1
    return answer({"digest": CACHE_DIGEST, "directory": "/nowhere", "contract_digest": "beef" * 16}, 0)


def answer(facts: dict[str, Any], exit_code: int) -> int:
    sys.stdout.write(json.dumps(facts))
    return exit_code


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("--contract", "--train", "--out", "--lock"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--seed", "--digest-fd", "--nonce-fd"):
        parser.add_argument(name, type=int, required=True)
    for name in (
        "--device",
        "--cpus",
        "--expect-cache",
        "--expect-attention",
        "--sandbox",
        "--seed-caches",
        "--keep-caches",
    ):
        parser.add_argument(name)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(answer_question() if sys.argv[1:2] in (["cache"], ["sandbox"]) else FakeJudge(parse()).run())
