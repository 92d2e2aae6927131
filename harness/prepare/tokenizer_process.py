"""Training the tokenizer in a process of its own.

The library holds on to the interpreter for as long as it merges, minutes on a large corpus: in this process that would
be silence, and a Ctrl-C that nobody hears. The child gets its order on stdin, answers with JSON lines on stdout, and
never outlives its parent. Not covered: the training itself (harness.prepare.tokenizer_training).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.contract import Contract
from harness.prepare.errors import PrepareError
from harness.prepare.shards import Shard
from harness.tokenizer import Tokenizer

_PR_SET_PDEATHSIG = 1
_PACKAGE_FOLDER = Path(__file__).resolve().parents[2]


def train_apart(contract: Contract, shards: tuple[Shard, ...], report: Callable[[str], None]) -> Tokenizer:
    """As tokenizer_training.train_tokenizer, without holding up this process. Raises PrepareError."""
    order = {"contract": contract.to_json(), "shards": [[shard.name, str(shard.path)] for shard in shards]}
    paths = os.pathsep.join(filter(None, [str(_PACKAGE_FOLDER), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", __name__, str(os.getpid())]
    environment = os.environ | {"PYTHONPATH": paths}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as child:
        try:
            return _hear(child, json.dumps(order).encode(), report)
        finally:
            child.kill()


def _hear(child: subprocess.Popen[bytes], order: bytes, report: Callable[[str], None]) -> Tokenizer:
    assert child.stdin is not None and child.stdout is not None
    with contextlib.suppress(BrokenPipeError), child.stdin:
        child.stdin.write(order)
    for line in child.stdout:
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise PrepareError(said["error"], said["hint"])
        if "tokenizer" in said:
            return Tokenizer.from_json(said["tokenizer"])
        report(said["progress"])
    raise PrepareError(
        f"the tokenizer's training ended without an answer (exit code {child.wait()})",
        "is there enough memory? It is killed when the machine runs out of it",
    )


def main(argv: list[str]) -> None:
    """The child: reads its order, trains, answers."""
    _die_with(int(argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; it ends this process
    order = json.load(sys.stdin)
    from harness.prepare.tokenizer_training import train_tokenizer

    shards = tuple(Shard(name, "train", Path(path)) for name, path in order["shards"])
    try:
        tokenizer = train_tokenizer(Contract.from_json(order["contract"]), shards, lambda text: _say(progress=text))
    except PrepareError as error:
        _say(error=str(error), hint=error.hint)
    except OSError as error:
        _say(error=f"cannot read the corpus: {error}", hint="check the folder and its rights")
    else:
        _say(tokenizer=tokenizer.to_json())


def _say(**message: str) -> None:
    print(json.dumps(message), flush=True)  # noqa: T201


def _die_with(parent: int) -> None:
    """On Linux the kernel ends this process with its parent, however that one ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit("the parent is gone")


if __name__ == "__main__":
    main(sys.argv)
