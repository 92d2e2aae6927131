"""Forbidden acts tried for real, as root, as a user and with handicaps; and that a machine that refuses says so."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.sandbox import landlock
from harness.sandbox.levels import levels_here
from tests.harness.sandbox_kit import Place, make_place

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="becoming other users takes root"),
    pytest.mark.skipif(landlock.version() < 6, reason="needs Landlock 6 (Linux 6.12)"),
    pytest.mark.skipif(platform.system() != "Linux", reason="Linux"),
]

HIDDEN, READ_ONLY = {"ENOENT"}, {"EROFS"}
DENIED, REFUSED = {"EACCES"}, {"EPERM"}
NO_NETWORK = {"ENETUNREACH"}
# act -> errors under full, errors under weak
FORBIDDEN: dict[str, tuple[set[str], set[str]]] = {
    "read a secret": (HIDDEN, DENIED),
    "write a frozen file": (READ_ONLY, DENIED),
    "make a file next to it": (READ_ONLY | DENIED, DENIED),
    "touch a frozen file": (READ_ONLY, REFUSED),
    "label a frozen file": (READ_ONLY, REFUSED),
    "open another device": (HIDDEN, DENIED),
    "make a device": (REFUSED, REFUSED),
    "read the judge's memory": (DENIED, DENIED),
    "read the judge's environment": (DENIED, DENIED),
    "follow the judge's descriptors": (DENIED, DENIED),
    "write the judge's oom_score_adj": (READ_ONLY | DENIED, DENIED),
    "write a kernel setting": (READ_ONLY | DENIED, DENIED),
    "signal the judge": (REFUSED, REFUSED),
    "trace the judge": (REFUSED, REFUSED),
    "limit the judge": (REFUSED, REFUSED),
    "slow the judge": (REFUSED, REFUSED),
    "pin the judge": (REFUSED, REFUSED),
    "leave its core": (REFUSED, REFUSED),
    "mount": (REFUSED, REFUSED),
    "make a user namespace": (REFUSED, REFUSED),
    "chroot": (REFUSED, REFUSED),
    "set the clock": (REFUSED, REFUSED),
    "connect by TCP": (NO_NETWORK, REFUSED),
    "send by UDP": (NO_NETWORK, REFUSED),
    "reach an abstract socket": ({"ECONNREFUSED"}, REFUSED),
    "use a raw socket": (REFUSED, REFUSED),
    "keep a key": (REFUSED, REFUSED),
    "use io_uring": ({"ENOSYS"}, {"ENOSYS"}),
    "use bpf": (REFUSED, REFUSED),
    "use userfaultfd": (REFUSED, REFUSED),
    "feed a terminal": (REFUSED, REFUSED),
    "gain root by a setuid program": ({"EXIT"}, {"EXIT"}),
}
# What one of the levels leaves possible; the file in /dev/shm and the segment outlive only a run without namespaces.
FULL_ALONE = {"see the shared /dev/shm": HIDDEN}
WEAK_ALONE = {"keep System V memory": REFUSED}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.mark.parametrize("who", ["root", "user"])
def test_a_full_sandbox_refuses_each_act(place: Place, who: str) -> None:
    if "full" not in place.levels(who):
        pytest.skip("no namespaces here")
    found = place.acts("full", who)
    expected = {act: full for act, (full, _) in FORBIDDEN.items()} | FULL_ALONE
    assert {act: found[act] for act in expected if found[act] not in expected[act]} == {}


@pytest.mark.parametrize(
    "who", ["root", "user", "root without capabilities", "root in a default container", "user in a default container"]
)
def test_a_weak_sandbox_refuses_each_act(place: Place, who: str) -> None:
    found = place.acts("weak", who)
    expected = {act: weak for act, (_, weak) in FORBIDDEN.items()} | WEAK_ALONE
    assert {act: found[act] for act in expected if found[act] not in expected[act]} == {}


def test_without_a_sandbox_these_acts_would_have_another_outcome(place: Place) -> None:
    """Else the two tests above could not fail."""
    found = place.acts("off", "root")
    same = {act for act, (full, weak) in FORBIDDEN.items() if found[act] in full or found[act] in weak}
    assert same <= {"use a raw socket", "use bpf"}, "what this machine itself refuses"


@pytest.mark.parametrize(
    "who", ["root without capabilities", "root in a default container", "user in a default container"]
)
def test_where_namespaces_are_refused_full_is_refused_and_weak_is_not_taken_for_it(place: Place, who: str) -> None:
    assert "namespaces" in place.reached("full", who)["error"]
    assert place.reached("weak", who) == {}


def test_the_probe_says_what_a_run_would_find() -> None:
    found = levels_here()
    assert found["weak"] == ""
    assert found["landlock_abi"] == landlock.version()
    assert isinstance(found["full"], str)


def test_localhost_works_in_a_network_namespace_of_its_own(place: Place) -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    assert place.run("full", "user", place.python, "-c", code).returncode == 0


def test_system_v_memory_is_gone_with_the_sandbox(place: Place) -> None:
    before = Path("/proc/sysvipc/shm").read_text()
    assert place.acts("full", "root")["keep System V memory"] == "ok"
    assert Path("/proc/sysvipc/shm").read_text() == before


def test_only_the_gpu_of_the_run_has_its_node(place: Place) -> None:
    """Nodes of another kind stand for a GPU's: /dev/zero is given anyway, /dev/kmsg only when it is named."""
    look = "import os; print(os.path.exists('/dev/kmsg'), os.listdir('/dev'))"
    assert place.run("full", "root", place.python, "-c", look).stdout.startswith("False")
    given = place.run("full", "root", place.python, "-c", look, devices=["/dev/kmsg", "/dev/nvidia0"])
    assert given.stdout.startswith("True"), given.stderr
    assert "nvidia0" not in given.stdout


@pytest.mark.parametrize("level", ["full", "weak"])
def test_a_hidden_package_can_be_found_but_not_read(place: Place, level: str) -> None:
    for name in ("secretive", "ordinary"):
        folder = place.folder / "site-packages" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text("word = 'text'\n")
    site = str(place.folder / "site-packages")
    code = f"""if True:
        import sys; sys.path.insert(0, {site!r})
        import ordinary
        try:
            print(open({site!r} + "/secretive/__init__.py").read())
        except OSError as error:
            print("refused", error.errno)
    """
    done = place.run(level, "root", place.python, "-c", code, import_path=[site], hidden_packages=["secretive"])
    assert done.stdout.startswith("refused"), done.stdout + done.stderr
