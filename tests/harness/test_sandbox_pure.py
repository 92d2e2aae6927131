"""The sandbox's pure parts: a view from facts, the filter's BPF run instruction by instruction, Landlock's masks."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest

from harness.sandbox import landlock, seccomp
from harness.sandbox.confinement import Confinement
from harness.sandbox.layout import ViewLayout, lay_out
from harness.sandbox.view import Exposure, ViewFacts, candidate_view

FACTS = ViewFacts(
    harness="/lab/code/harness",
    executable="/lab/code/.venv/bin/python",
    prefixes=("/lab/code/.venv", "/home/me/python"),
    import_path=("/home/me/python/lib/python3.11", "/lab/code", "/lab/code/.venv/lib/python3.11/site-packages"),
    environment={"PATH": "/usr/bin:/home/me/tools:relative", "CC": "/home/me/gcc/bin/gcc -O2"},
    scratch="/lab/runs/r1/.out.scratch-x",
    out="/lab/runs/r1/out",
    cache_root="/home/me/cache",
    cache_files=("/home/me/cache/c/tokenizer.json",),
    devices=("/dev/nvidia1",),
    hidden_packages=("ray",),
)
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def paths(kind: str) -> set[str]:
    return {one.path for one in candidate_view(FACTS) if one.kind == kind}


def test_a_view_holds_what_python_needs_and_one_gpu() -> None:
    assert {"/lab/code/harness", "/lab/code/.venv/bin/python", "/home/me/python/lib", "/usr", "/proc"} <= paths("read")
    assert {"/home/me/tools", "/home/me/gcc/lib", "/home/me/cache/c/tokenizer.json"} <= paths("read")
    assert {"/dev/nvidia1", "/dev/null"} <= paths("device")
    assert paths("write") == {"/lab/runs/r1/.out.scratch-x", "/proc/self"}


@pytest.mark.parametrize(
    "secret",
    [
        *("/lab", "/lab/code", "/lab/code/.git", "/lab/code/scheduler", "/lab/runs/r1/out", "/home/me/cache", "/root"),
        *("/home/me/cache/c/judge/val.u16", "/etc/shadow", "/home/me/python/pkgs", "/", "/var", "/dev/nvidia0"),
    ],
)
def test_a_view_leaves_out_everything_else(secret: str) -> None:
    shown = [one for one in candidate_view(FACTS) if one.kind not in ("cover", "link")]
    assert not [one for one in shown if secret == one.path or secret.startswith(one.path + "/")]


def test_hidden_packages_and_runs_are_covered_wherever_something_shows_them() -> None:
    covered = paths("cover")
    assert "/lab/code/.venv/lib/python3.11/site-packages/ray" in covered
    assert "/usr/lib/python3*/dist-packages/ray" in covered
    assert {"/home/me/cache", "/lab/runs/r1", "/lab/runs/r1/out", "/lab/code"} <= covered


def test_a_layout_follows_links_drops_what_is_shown_anyway_and_keeps_covers(tmp_path: Path) -> None:
    (tmp_path / "real/bin").mkdir(parents=True)
    (tmp_path / "real/bin/python3").touch()
    (tmp_path / "site/ray").mkdir(parents=True)
    (tmp_path / "site/ray/keep").mkdir()
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/python").symlink_to("../current/bin/python3")
    (tmp_path / "current").symlink_to(tmp_path / "real")
    base = str(tmp_path)
    layout = lay_out([
        Exposure(f"{base}/site/ray/keep", "read"), Exposure(f"{base}/site", "read"), Exposure(f"{base}/site/a", "read"),
        Exposure(f"{base}/site/r*", "cover"), Exposure(f"{base}/venv/python", "read"), Exposure(f"{base}/no", "cover"),
        Exposure(f"{base}/real", "cover"),
    ])  # fmt: skip
    kinds = {one.path.removeprefix(base): one.kind for one in layout.places}
    assert kinds == {"/site": "read", "/site/ray": "cover", "/site/ray/keep": "read", "/real/bin/python3": "read"}
    links = {path.removeprefix(base): target for path, target in layout.links.items()}
    assert links == {"/venv/python": "../current/bin/python3", "/current": f"{base}/real"}


def run_bpf(code: bytes, number: int, arguments: tuple[int, ...] = (), arch: int = ARCHITECTURE["x86_64"]) -> int:
    """The filter's verdict on one call, as seccomp computes it: the errno, 0 for allowed."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=iIQ6Q", number, arch, 0, *(one & (2**64 - 1) for one in padded))
    instructions = list(struct.iter_unpack("HBBI", code))
    at = value = 0
    while True:
        operation, yes, no, k = instructions[at]
        at += 1
        match operation:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, k)
            case 0x15:
                at += yes if value == k else no
            case 0x35:
                at += yes if value >= k else no
            case 0x45:
                at += yes if value & k else no
            case 0x06:
                return 0 if k == 0x7FFF0000 else k & 0xFFFF
            case _:
                raise AssertionError(f"no such instruction: {operation:#x}")


FULL = seccomp.rules(namespaces=True, judge_pid=1, scoped_signals=True)
WEAK = seccomp.rules(namespaces=False, judge_pid=77, scoped_signals=False)
EPERM = errno.EPERM
CASES = [
    ("ptrace", (16, 1), EPERM), ("mount", (), EPERM), ("unshare", (0,), EPERM), ("clone3", (), errno.ENOSYS),
    ("clone", (0x11,), 0), ("clone", (0x003D0F00,), 0), ("clone", (0x10000011,), EPERM), ("clone", (0x20000,), EPERM),
    ("io_uring_setup", (), errno.ENOSYS), ("prlimit64", (0, 7), 0), ("prlimit64", (1, 7), EPERM),
    ("prlimit64", (5 << 32, 7), 0), ("setpriority", (0, 0, 5), 0), ("setpriority", (0, 9, 5), EPERM),
    ("setpriority", (2, 0, 5), EPERM), ("ioprio_set", (1, 0), 0), ("ioprio_set", (1, 4), EPERM),
    ("ioprio_set", (3, 0), EPERM), ("socket", (1, 1), 0), ("socket", (17, 3), EPERM), ("ioctl", (0, 0x5412), EPERM),
    ("ioctl", (0, 0x5401), 0), ("ioctl", (0, (1 << 32) + 0x5412), EPERM), ("personality", (0xFFFFFFFF,), 0),
    ("personality", (8,), EPERM), ("sched_setaffinity", (0,), EPERM), ("keyctl", (), EPERM), ("bpf", (), EPERM),
    ("sched_setscheduler", (0, 3), 0), ("sched_setscheduler", (3, 3), EPERM), ("sched_setscheduler", (0, 0), EPERM),
    ("sched_setscheduler", (0, 1), EPERM), ("sched_setscheduler", (0, 5), 0), ("sched_setattr", (0,), EPERM),
    ("open_by_handle_at", (), EPERM),
]  # fmt: skip


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(("name", "arguments", "error"), CASES)
@pytest.mark.parametrize("rules", [FULL, WEAK], ids=["full", "weak"])
def test_the_filter_decides_each_call(
    machine: str, name: str, arguments: tuple[int, ...], error: int, rules: tuple[seccomp.SyscallRule, ...]
) -> None:
    code, number = seccomp.program(rules, machine), seccomp.numbers(machine)[name]
    assert run_bpf(code, number, arguments, ARCHITECTURE[machine]) == error


@pytest.mark.parametrize(
    ("name", "arguments", "full", "weak"),
    [
        ("socket", (2, 1), 0, EPERM), ("socket", (16, 3), 0, EPERM), ("shmget", (), 0, EPERM), ("chmod", (), 0, 0),
        ("setxattr", (), 0, EPERM), ("utimensat", (), 0, EPERM), ("fchown", (), 0, EPERM), ("mq_open", (), 0, EPERM),
        ("kill", (77, 9), 0, EPERM), ("kill", (-77, 9), 0, EPERM), ("kill", (-1, 9), 0, EPERM), ("kill", (5, 9), 0, 0),
        ("tkill", (77, 9), 0, EPERM), ("tgkill", (77, 78, 9), 0, EPERM), ("pidfd_open", (77,), 0, EPERM),
    ],
)  # fmt: skip
def test_without_namespaces_the_filter_closes_more(name: str, arguments: tuple[int, ...], full: int, weak: int) -> None:
    number = seccomp.numbers("x86_64")[name]
    assert run_bpf(seccomp.program(FULL, "x86_64"), number, arguments) == full
    assert run_bpf(seccomp.program(WEAK, "x86_64"), number, arguments) == weak


def test_other_architectures_have_no_calls_at_all() -> None:
    code = seccomp.program(FULL, "x86_64")
    assert run_bpf(code, 0) == 0
    assert run_bpf(code, 0, arch=0x40000003) == errno.ENOSYS, "32-bit calls have other numbers"
    assert run_bpf(code, 0x40000000) == errno.ENOSYS, "so have x32's"


def test_a_rule_with_a_misspelt_call_is_an_error() -> None:
    with pytest.raises(OSError, match="ptarce"):
        seccomp.program([seccomp.SyscallRule("ptarce")], "x86_64")


@pytest.mark.parametrize(
    ("abi", "files", "network", "scopes", "size"),
    [(2, 14, 0, 0, 8), (3, 15, 0, 0, 8), (4, 15, 3, 0, 16), (5, 16, 3, 0, 16), (6, 16, 3, 3, 24), (9, 16, 3, 3, 24)],
)
def test_landlock_handles_all_that_a_version_knows(abi: int, files: int, network: int, scopes: int, size: int) -> None:
    what = landlock.handled(abi, own_network=False)
    assert (what.files, what.network, what.scopes) == ((1 << files) - 1, network, scopes)
    assert len(what.pack(abi)) == size
    assert landlock.handled(abi, own_network=True).network == 0


def test_without_mounts_a_cover_is_carved_out_of_the_folders_above_it() -> None:
    tree = {"/site": ["ray", "torch", "six.py"]}
    layout = ViewLayout((Exposure("/site", "read"), Exposure("/site/ray", "cover"), Exposure("/s", "write")), {})
    rights = {rule.path: rule.rights for rule in landlock.rules_without_mounts(layout, tree.__getitem__)}
    assert rights["/site"] == landlock.READ_DIR, "names only"
    assert rights["/site/torch"] & rights["/site/six.py"] & landlock.READ_FILE
    assert "/site/ray" not in rights
    assert rights["/s"] & landlock.WRITE_FILE


def test_a_confinement_survives_its_way_to_the_shim() -> None:
    sent = Confinement("full", 1, "/s", candidate_view(FACTS), unreadable=("/a",))
    assert Confinement.from_json(sent.to_json()) == sent
