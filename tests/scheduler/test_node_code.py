"""What the code digest covers, and that bytecode left next to the sources is not run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.node import judge_process
from scheduler.node.code import CODE_ROOT, NODE_PACKAGES, bytecode_folder, code_digest, code_files, python_command
from scheduler.node.judge_process import Commands, judge_environment

EVERY_JUDGE_MODULE = """
import importlib, pkgutil, sys, harness
from harness.contract import load_contract
for found in pkgutil.walk_packages(harness.__path__, "harness."):
    if not found.name.startswith(("harness.upstream", "harness.prepare")) and not found.name.endswith("__main__"):
        importlib.import_module(found.name)
import harness.judge.__main__, harness.cache, harness.capabilities, scheduler.node.supervisor
opened = []
sys.addaudithook(lambda name, given: opened.append(str(given[0])) if name == "open" else None)
for name in ("cpu", "small", "standard", "upstream"):
    load_contract(name)
print(*(m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)), *opened, sep="\\n")
"""


def test_the_code_digest_follows_what_a_node_runs_and_nothing_else(tmp_path: Path) -> None:
    files = {
        "harness/judge/__main__.py": "one",
        "scheduler/node/supervisor.py": "one",
        "scheduler/node/spool.py": "one",
        "scheduler/domain/slot.py": "one",
        "scheduler/queue/loop.py": "one",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    seen = {code_digest.__wrapped__(tmp_path)}
    (tmp_path / "scheduler/queue/loop.py").write_text("two")
    assert code_digest.__wrapped__(tmp_path) in seen
    changed = [name for name in files if "queue" not in name]
    for name in changed:
        (tmp_path / name).write_text(files[name] + "\n")
        seen.add(code_digest.__wrapped__(tmp_path))
    assert len(seen) == 1 + len(changed)


def test_the_code_digest_covers_whatever_a_judge_or_an_actor_loads() -> None:
    """Contracts too, which are no Python; and no file of a node's packages is of a kind that it leaves out."""
    done = subprocess.run([sys.executable, "-c", EVERY_JUDGE_MODULE], capture_output=True, text=True, cwd=CODE_ROOT)
    loaded = {Path(name) for name in done.stdout.splitlines() if name.startswith(str(CODE_ROOT))}
    ours = {path for path in loaded if ".venv" not in path.parts and "__pycache__" not in path.parts}
    assert len(ours) > 50 and any(path.suffix == ".yaml" for path in ours), done.stderr
    assert ours <= set(code_files(CODE_ROOT))


@pytest.mark.parametrize("name", ["harness/judge/extra.so", "harness/contracts/own.yaml", "scheduler/node/data"])
def test_a_file_of_any_kind_is_part_of_the_code(tmp_path: Path, name: str) -> None:
    """A shared library goes before a source of its name."""
    for package in NODE_PACKAGES:
        (tmp_path / package).mkdir(parents=True)
    before = code_digest.__wrapped__(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x")
    assert code_digest.__wrapped__(tmp_path) != before


def poison(source: Path) -> None:
    """Bytecode of another program that Python takes for that source's: the true time of change and size."""
    target = Path(importlib.util.cache_from_source(str(source)))
    target.parent.mkdir(exist_ok=True)
    evil = compile(source.read_text() + "\nPOISONED = True\n", str(source), "exec")
    found = source.stat()
    head = importlib.util.MAGIC_NUMBER + struct.pack("<III", 0, int(found.st_mtime), found.st_size)
    import marshal

    target.write_bytes(head + marshal.dumps(evil))


def test_poisoned_bytecode_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(CODE_ROOT / "harness", copy / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    poison(copy / "harness" / "scoring.py")
    monkeypatch.setattr(judge_process, "CODE_ROOT", copy)
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "cache"))
    environment = judge_environment(os.environ, "")
    asked = "import harness.scoring as s; print(s.__file__, hasattr(s, 'POISONED'))"

    def answer(*options: str) -> str:
        done = subprocess.run([*options, "-c", asked], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert answer(sys.executable, "-P") == f"{copy}/harness/scoring.py True"
    for command in (Commands().judge, Commands().cache, python_command("harness.process_reaper")):
        assert answer(*command[: command.index("-m")]) == f"{copy}/harness/scoring.py False"
    kept = [path.name for path in (tmp_path / "cache" / "bytecode").rglob("scoring*.pyc")]
    assert kept == [f"scoring.{sys.implementation.cache_tag}.pyc"]  # so the next judge starts as fast as before


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    folder = bytecode_folder(tmp_path)
    assert folder.is_dir() and folder.stat().st_mode & 0o777 == 0o700 and bytecode_folder(tmp_path) == folder
    folder.chmod(0o777)
    other = bytecode_folder(tmp_path)
    assert other != folder and not other.exists() and bytecode_folder(tmp_path) != other
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    assert bytecode_folder(tmp_path) != folder


def test_without_a_cache_folder_nothing_is_kept_and_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not bytecode_folder(tmp_path / "file").exists()


def test_bytecode_of_older_code_is_removed(tmp_path: Path) -> None:
    for number in range(6):
        old = tmp_path / "bytecode" / f"{os.geteuid()}-old{number}"
        old.mkdir(parents=True)
        os.utime(old, (number, number))
    (tmp_path / "bytecode" / "another-users").mkdir()
    bytecode_folder(tmp_path)
    left = {path.name.partition("-")[2] for path in (tmp_path / "bytecode").iterdir()}
    assert {"old5", "old4", "old3", "users"} < left and len(left) == 5
