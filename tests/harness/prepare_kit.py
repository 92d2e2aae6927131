"""Preparing a small contract in tests: a cache root of its own, real processes, deaths at a chosen rename, damage."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.cache import Cache, cache_directory, open_cache, verify_cache
from harness.contract import load_contract
from harness.prepare import build
from harness.prepare.cli import main
from harness.prepare.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]


def start(home: Path, *options: str, **popen: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness.prepare", "--contract", str(home / "small.json"), *options]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "ARSCHED_CACHE": str(home / "caches")}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **popen,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def the_cache(home: Path) -> Cache:
    cache = open_cache(load_contract(str(home / "small.json")))
    verify_cache(cache, full=True)
    return cache


def leftovers(home: Path) -> list[str]:
    """Everything under the cache root that is neither a cache nor a lock."""
    cache = cache_directory(load_contract(str(home / "small.json")))
    found = [p for p in (home / "caches").rglob("*") if p.is_file() and cache not in p.parents]
    return [str(path.relative_to(home / "caches")) for path in found if path.suffix != ".lock"]


def dying(folder: Path, name: str, when: str) -> None:
    """Prepare, and die by SIGKILL at the rename to `name…`."""

    def deadly(honest: Callable[[Path, Path], object]) -> Callable[[Path, Path], None]:
        def rename(self: Path, target: Path) -> None:
            at = target.name.startswith(name)
            if at and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            honest(self, target)
            if at:
                os.kill(os.getpid(), signal.SIGKILL)

        return rename

    Path.rename, Path.replace = deadly(Path.rename), deadly(Path.replace)  # type: ignore
    os.environ["ARSCHED_CACHE"] = str(folder / "caches")
    build.train_apart = train_tokenizer
    main(["--contract", str(folder / "small.json")])


def kill_at(home: Path, name: str, when: str) -> None:
    """Forked from a process that has everything imported and no thread started."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    process = processes.Process(target=dying, args=(home, name, when))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def spoil(cache: Cache, damage: str) -> None:
    path = cache.directory / "manifest.json" if damage == "manifest" else cache.val_rows_path
    path.chmod(0o644)
    if damage == "delete":
        path.unlink()
    elif damage == "flip":
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
    else:
        os.truncate(path, 100)
