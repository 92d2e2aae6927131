"""The judge and its sandbox: the level asked for or none, no sign of life before it holds, and what a run shows."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.judge import usage
from harness.judge.confine import gpu_nodes, hidden_packages, import_folders
from harness.judge.report import InfraFailure
from harness.judge.usage import UsageWatch
from harness.processes import descendants
from harness.sandbox.levels import why_not
from tests.harness.judging import CANDIDATES, REPOSITORY, Rig

needs_full = pytest.mark.skipif(why_not("full") != "", reason="no full sandbox on this machine")
needs_weak = pytest.mark.skipif(why_not("weak") != "", reason="no weak sandbox on this machine")
LOOK = """
import json, os
from harness.session import current
cache = current().cache
print("seen", sorted(os.listdir(cache.directory)), os.listdir(os.path.dirname(os.environ["ARSCHED_CONTRACT"])))
for path in (cache.val_rows_path, cache.train_rows_path, REPOSITORY + "/.git", REPOSITORY + "/scheduler"):
    print(os.path.exists(path) and os.access(path, os.R_OK) and "open" or "closed")
"""


@needs_full
def test_a_candidate_sees_of_its_cache_what_it_needs_and_of_the_checkout_the_harness(rig: Rig) -> None:
    judged = rig.judge(rig.write(f"REPOSITORY = {str(REPOSITORY)!r}\n{LOOK}"))
    assert judged.result["sandbox"].startswith("full: user, mount, ipc, net")
    assert judged.log.splitlines()[1:5] == ["closed"] * 4, judged.log
    assert "['manifest.json', 'token_bytes.npy', 'token_bytes_upstream.npy', 'tokenizer.json']" in judged.log


@needs_full
@pytest.mark.parametrize("level", ["full", pytest.param("weak", marks=needs_weak), "off"])
def test_an_honest_candidate_gets_the_same_score_at_every_level(rig: Rig, level: str) -> None:
    result = rig.judge(CANDIDATES / "bigram.py", "--sandbox", level).result
    assert (result["status"], result["sandbox"].partition(":")[0]) == ("ok", level), result["reason"]


@needs_full
@pytest.mark.parametrize("level", ["full", pytest.param("weak", marks=needs_weak)])
def test_the_harness_is_found_by_the_path_alone(rig: Rig, level: str) -> None:
    """An editable installation knows it by a finder of its own, which not every interpreter has."""
    source = """
import os
from importlib.machinery import PathFinder
print("found", PathFinder.find_spec("harness", os.environ["PYTHONPATH"].split(os.pathsep)) is not None)
"""
    assert "found True" in rig.judge(rig.write(source), "--sandbox", level).log


def test_a_level_that_cannot_be_had_is_the_labs_fault_and_starts_no_candidate(rig: Rig) -> None:
    judged = rig.judge(rig.write("print('alive')"), "--containment", "subreaper", "--sandbox", "full")
    assert (judged.result["status"], judged.exit_code) == ("infra: sandbox", 1)
    assert "--sandbox weak" in judged.result["reason"]
    assert judged.result["sandbox"] is None
    assert "alive" not in judged.log


ROWS_BY_DESCRIPTOR = """
import os
from harness import session
kept = []
map_rows = session._map_rows
def keeping(rows, epochs, length):
    kept.append(os.dup(rows.fileno()))
    return map_rows(rows, epochs, length)
session._map_rows = keeping
session.current().open_train_rows()
[fd] = kept
path = f"/proc/self/fd/{fd}"
acts = {
    "fchmod": lambda: os.fchmod(fd, 0o644), "chmod": lambda: os.chmod(path, 0o644), "utime": lambda: os.utime(path),
    "utime of it": lambda: os.utime(fd), "xattr": lambda: os.setxattr(fd, "user.note", b"1"),
    "open": lambda: os.open(path, os.O_RDWR),
}
for name, act in acts.items():
    try:
        act()
        print(name, "possible")
    except OSError as error:
        print(name, "refused", error.errno)
"""


@needs_full
def test_training_rows_cannot_be_changed_through_their_descriptors(rig: Rig) -> None:
    """They lead to the judge's own mounts, which are no part of the candidate's view."""
    judged = rig.judge(rig.write(ROWS_BY_DESCRIPTOR))
    assert judged.log.count("refused") == 6, judged.log
    assert "possible" not in judged.log
    weak = rig.judge(rig.write(ROWS_BY_DESCRIPTOR), "--sandbox", "weak", "--containment", "subreaper")
    assert "open refused" in weak.log and "xattr refused" in weak.log and "utime refused" in weak.log


SELF_TEST = """
import os, sys
from harness.sandbox.confinement import Confinement, SandboxError
from harness.sandbox.self_test import self_test
path = sys.argv[1]
try:
    self_test(Confinement("full", os.getppid(), path, (), unreadable=(path,), unwritable=(path,)))
except SandboxError as error:
    print(error)
"""


def test_the_self_test_names_what_is_open_when_nothing_was_restricted(tmp_path: Path) -> None:
    """A sandbox that silently does nothing must not pass for one. In a process of its own: its acts succeed."""
    (tmp_path / "secret").touch()
    path = str(tmp_path / "secret")
    command = [sys.executable, "-c", SELF_TEST, path]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout
    for name in (f"reading {path}", f"writing {path}", "a network connection", "no seccomp filter", "no_new_privs"):
        assert name in found


def test_a_device_leads_to_one_node(tmp_path: Path) -> None:
    for folder, uuid, minor in (("0000:1b:00.0", "GPU-aa", 1), ("0000:4f:00.0", "GPU-bb", 0)):
        (tmp_path / "gpus" / folder).mkdir(parents=True)
        text = f"Model: \t A100\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n"
        (tmp_path / "gpus" / folder / "information").write_text(text)
        (tmp_path / f"nvidia{minor}").touch()
    dev = str(tmp_path)

    def nodes(visible: str) -> list[str]:
        return [os.path.basename(node) for node in gpu_nodes(visible, tmp_path, dev) if node[-1].isdigit()]

    assert nodes("GPU-bb") == ["nvidia0"]
    assert nodes("0") == ["nvidia1"], "the first in PCI order has minor 1"
    with pytest.raises(InfraFailure, match="does not tell which"):
        gpu_nodes("GPU-cc", tmp_path, dev)


@pytest.mark.parametrize(
    ("kind", "root", "hidden"),
    [("packages", "ray,optuna", ("ray", "optuna")), ("packages", " ray , ../x", ("ray",)), ("python", "stdlib", ())],
)
def test_packages_of_the_corpus_are_hidden(kind: str, root: str, hidden: tuple[str, ...]) -> None:
    args = SimpleNamespace(contract=SimpleNamespace(corpus=SimpleNamespace(kind=kind, root=root)))
    assert hidden_packages(args) == hidden  # type: ignore[arg-type]


def test_folders_to_import_from_are_those_of_the_candidate(tmp_path: Path) -> None:
    mine, pip, site = (str(tmp_path / name) for name in ("mine", "pip", "site-packages"))
    path = ["", os.getcwd(), mine, pip, site]
    assert import_folders(path, f"{mine}:{pip}", f"/code:{pip}") == (pip, site)


def test_a_scratch_that_grows_past_its_limit_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_DISK_INTERVAL_S", 0.0)
    monkeypatch.setattr(usage, "MOST_DISK_BYTES", 1 << 20)
    (tmp_path / "deep/er").mkdir(parents=True)
    assert UsageWatch(tmp_path, own_namespace=False).excess() is None
    (tmp_path / "deep/er/file").write_bytes(b"x" * (2 << 20))
    excess = UsageWatch(tmp_path, own_namespace=False).excess()
    assert excess is not None and excess.status == "invalid: disk"


@pytest.mark.slow  # thousands of processes leave other tests no room
@needs_full
def test_too_many_processes_end_the_run(rig: Rig) -> None:
    judged = rig.judge(rig.write("""
import os, time
try:
    for _ in range(6000):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
except OSError as error:
    print("refused", error)
    raise
time.sleep(60)
"""))  # fmt: skip
    assert judged.result["status"] in ("invalid: processes", "crash"), judged.result["reason"]


def test_a_run_of_more_processes_than_are_allowed_has_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = UsageWatch(tmp_path, own_namespace=False)
    waits = [sys.executable, "-S", "-c", "input()"]
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(subprocess.Popen(waits, stdin=subprocess.PIPE)) for _ in range(3)]
        monkeypatch.setattr(usage, "MOST_PROCESSES", len(descendants(os.getpid())))
        assert watch.excess() is None
        monkeypatch.setattr(usage, "MOST_PROCESSES", 2)
        verdict = watch.excess()
        assert verdict is not None and verdict.status == "invalid: processes"
        for child in children:
            child.communicate(b"\n")
