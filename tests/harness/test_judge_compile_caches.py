"""Compile caches are copied, whole or not at all, and never carry what a candidate planted to where it points."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from harness.judge import compile_caches
from harness.judge.compile_caches import keep_caches, seed_caches
from tests.harness.judging import CANDIDATES, Judged, Rig
from tests.waiting import wait_until

PREAMBLE = """
import json, os
from pathlib import Path
inductor, triton = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]), Path(os.environ["TRITON_CACHE_DIR"])
"""
COMPILES = """
kernel = triton / "KERNEL"
for folder in (inductor / "fx" / "ab", kernel):
    folder.mkdir(parents=True)
(inductor / "fx" / "ab" / "graph").write_bytes(b"graph")
for name in ("k.json", "k.cubin"):
    (kernel / name).write_text(name)
(kernel / "__grp__k.json").write_text(json.dumps({"child_paths": {n: str(kernel / n) for n in ("k.json", "k.cubin")}}))
"""
LOOKS = """
found = sorted(str(path.relative_to(triton.parent)) for path in triton.parent.rglob("*") if path.is_file())
print("FOUND", json.dumps(found))
"""
SCORED = (CANDIDATES / "bigram.py").read_text()


def scored(rig: Rig, *steps: str) -> Path:
    """A candidate that does these steps with `inductor` and `triton` before it trains to a score."""
    return rig.write("\n".join((PREAMBLE, *steps, SCORED)))


def kept(rig: Rig, *steps: str) -> tuple[Judged, Path]:
    """What a scored run left as its caches after these steps, and the run."""
    seed = rig.folder / "seeds" / "k1"
    judged = rig.judge(scored(rig, *steps), "--keep-caches", str(seed))
    assert judged.result["status"] == "ok", judged.result["reason"]
    return judged, seed


def left(folder: Path, *steps: str) -> Path:
    """The caches of a run whose candidate took these steps with `inductor` and `triton`."""
    caches = folder / "caches"
    caches.mkdir()
    exec("\n".join(steps), {"inductor": caches / "inductor", "triton": caches / "triton", "json": json, "os": os})
    return caches


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def found(judged: Judged) -> list[str]:
    [line] = [line for line in judged.log.splitlines() if line.startswith("FOUND")]
    return list(json.loads(line.removeprefix("FOUND ")))


ALL = ["inductor/fx/ab/graph", "triton/KERNEL/__grp__k.json", "triton/KERNEL/k.cubin", "triton/KERNEL/k.json"]


def test_what_one_run_compiled_is_there_for_the_next_as_its_own_copy(rig: Rig) -> None:
    """Under the paths of the run that is on: Triton notes absolute ones, and as they stand it would compile anew."""
    first, seed = kept(rig, COMPILES)
    assert first.result["compile_cache"] == "cold"
    assert files_below(seed) == ALL
    assert all(stat.S_IMODE((seed / name).stat().st_mode) == 0o400 for name in ALL)
    asks = """
paths = json.loads((triton / "KERNEL" / "__grp__k.json").read_text())["child_paths"]
assert paths == {name: str(triton / "KERNEL" / name) for name in ("k.json", "k.cubin")}, paths
assert all(Path(path).read_text() == name for name, path in paths.items())
"""
    spoils = 'for path in triton.parent.rglob("*"):\n    if path.is_file(): path.write_text("spoilt")'
    second = rig.judge(scored(rig, LOOKS, asks, spoils), "--seed-caches", str(seed))
    assert second.result["status"] == "ok" and second.result["compile_cache"] == "seeded"
    assert found(second) == ALL
    assert (seed / "inductor" / "fx" / "ab" / "graph").read_bytes() == b"graph"
    assert list(seed.parent.iterdir()) == [seed]


@pytest.mark.parametrize("note", ["{", "[]", '{"child_paths": 3}', "[" * 100_000, '{"child_paths": {"gone": "/x"}}'])
def test_a_broken_note_of_tritons_goes_and_the_rest_stays(tmp_path: Path, note: str) -> None:
    kernel = tmp_path / "seed" / "triton" / "KERNEL"
    kernel.mkdir(parents=True)
    (kernel / "__grp__k.json").write_text(note)
    (kernel / "k.so").touch()
    (tmp_path / "caches").mkdir()
    assert seed_caches(tmp_path / "seed", tmp_path / "caches")
    assert files_below(tmp_path / "caches") == ["triton/KERNEL/k.so"]


def test_a_missing_seed_is_a_cold_start_without_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not seed_caches(tmp_path / "none", left(tmp_path))
    assert capsys.readouterr().err == ""


def test_a_seed_that_is_no_folder_is_a_cold_start_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (seed := tmp_path / "seed").write_text("no folder")
    assert not seed_caches(seed, left(tmp_path))
    error = capsys.readouterr().err
    assert "cold compile caches" in error and str(seed) in error


def test_links_pipes_and_devices_of_a_seed_are_left_behind(tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    (seed / "inductor" / "a").mkdir(parents=True)
    (seed / "inductor" / "a" / "good").write_text("good")
    (seed / "inductor" / "a" / "good").chmod(0o4755)
    (secret := tmp_path / "secret").write_text("secret")
    (seed / "inductor" / "file").symlink_to(secret)
    (seed / "inductor" / "folder").symlink_to(tmp_path)
    (seed / "triton").symlink_to(tmp_path)
    (seed / "other").mkdir()
    (seed / "other" / "file").touch()
    os.mkfifo(seed / "inductor" / "pipe")
    if os.geteuid() == 0:
        os.mknod(seed / "inductor" / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    caches = left(tmp_path)
    assert seed_caches(seed, caches)
    assert files_below(caches) == ["inductor/a/good"]
    assert (caches / "inductor" / "a" / "good").stat().st_mode & 0o7777 == 0o600


def test_a_seed_that_disappears_during_the_copy_is_a_cold_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / "seed" / "inductor").mkdir(parents=True, exist_ok=True)
        (tmp_path / "seed" / "inductor" / name).touch()
    (tmp_path / "caches").mkdir()
    copy_file = compile_caches._Copier._copy_file

    def then_remove(self: compile_caches._Copier, source: int, target: Path) -> None:
        copy_file(self, source, target)
        for path in (tmp_path / "seed" / "inductor").iterdir():
            path.unlink()

    monkeypatch.setattr(compile_caches._Copier, "_copy_file", then_remove)
    assert not seed_caches(tmp_path / "seed", tmp_path / "caches")
    assert list((tmp_path / "caches").iterdir()) == []


@pytest.mark.parametrize("limit", ["LARGEST_BYTES", "MOST_ENTRIES", "DEEPEST"])
def test_a_seed_over_a_limit_is_a_cold_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], limit: str
) -> None:
    folder = tmp_path / "seed" / "inductor" / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "file").write_text("four")
    (tmp_path / "caches").mkdir()
    for value, fits in ((4, True), (2, False)):
        monkeypatch.setattr(compile_caches, limit, value)
        assert seed_caches(tmp_path / "seed", tmp_path / "caches") is fits
    assert list((tmp_path / "caches").iterdir()) == []
    assert "cold compile caches" in capsys.readouterr().err


HOSTILE = {
    "links": """
(inductor / "file").symlink_to("/etc/passwd")
(inductor / "folder").symlink_to("/etc")
(triton / "up").symlink_to("..")
""",
    "pipes": 'os.mkfifo(inductor / "pipe")\nos.mkfifo(triton / "pipe")',
    "locked folders": """
for folder in (inductor / "locked", triton / "locked"):
    folder.mkdir()
    folder.chmod(0)
""",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_candidate_plants_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    seed = tmp_path / "seeds" / "k1"
    keep_caches(left(tmp_path, COMPILES, HOSTILE[name]), seed)
    assert files_below(seed) == ALL
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "plant",
    [
        'with (inductor / "huge").open("wb") as file: file.truncate(3 << 30)',
        'deep = triton / "/".join("d" * 20)\ndeep.mkdir(parents=True)',
        "import shutil\nshutil.rmtree(triton.parent)\ntriton.parent.symlink_to('/etc')",
    ],
    ids=["huge", "deep", "elsewhere"],
)
def test_too_much_is_kept_not_at_all_and_costs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plant: str
) -> None:
    seed = tmp_path / "seeds" / "k1"
    keep_caches(left(tmp_path, COMPILES, plant), seed)
    assert list(seed.parent.iterdir()) == []
    assert "the compile caches are not kept" in capsys.readouterr().err


@pytest.mark.parametrize("plant", ["", "import shutil\nshutil.rmtree(inductor)\ninductor.symlink_to('/etc')"])
def test_folders_of_caches_that_are_none_leave_nothing(tmp_path: Path, plant: str) -> None:
    seed = tmp_path / "seeds" / "k1"
    keep_caches(left(tmp_path, "for folder in (inductor, triton): folder.mkdir()", plant), seed)
    assert list(seed.parent.iterdir()) == []


def test_a_run_without_a_score_leaves_nothing(rig: Rig) -> None:
    seed = rig.folder / "seeds" / "k1"
    judged = rig.judge(rig.write(f"{PREAMBLE}{COMPILES}\nraise SystemExit(1)"), "--keep-caches", str(seed))
    assert judged.result["status"] == "crash"
    assert not seed.parent.exists()


def test_kept_caches_are_never_replaced(tmp_path: Path) -> None:
    seed, caches = tmp_path / "seeds" / "k1", left(tmp_path, COMPILES)
    keep_caches(caches, seed)
    before = seed.stat()
    (caches / "inductor" / "more").touch()
    keep_caches(caches, seed)
    assert seed.stat() == before and files_below(seed) == ALL


def test_a_place_that_cannot_be_written_costs_the_run_nothing(rig: Rig) -> None:
    blocked = rig.write("a file") / "k1"
    judged = rig.judge(scored(rig, COMPILES), "--keep-caches", str(blocked))
    assert judged.result["status"] == "ok" and "are not kept" in judged.stderr


def test_a_judge_killed_in_the_middle_of_keeping_leaves_no_half_of_it(rig: Rig) -> None:
    seed = rig.folder / "seeds" / "k1"
    stops_midway = """
import signal, sys
from harness.containment import FORWARDED_SIGNALS
signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED_SIGNALS)
from harness.judge import compile_caches
compile_caches._flush = lambda folder: signal.pause()
from harness.judge.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
    [python, _, _, *arguments], out = rig.command(scored(rig, COMPILES), "--keep-caches", str(seed))
    process = subprocess.Popen([python, "-c", stops_midway, *arguments], env=rig.environment)
    wait_until(lambda: seed.parent.exists() and files_below(seed.parent) != [], "the copy to begin")
    wait_until(lambda: len(files_below(seed.parent)) == len(ALL), "the copy to be nearly whole")
    assert not seed.exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not seed.exists() and not (out / "result.json").exists()
    kept(rig, COMPILES)
    assert files_below(seed) == ALL


def test_of_two_runs_that_end_at_once_one_leaves_its_caches_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both_copied = threading.Barrier(2, timeout=60)
    monkeypatch.setattr(compile_caches, "_flush", lambda folder: both_copied.wait())
    target = tmp_path / "seeds" / "k1"
    threads = []
    for name in ("a", "b"):
        for part in ("inductor", "triton"):
            (tmp_path / name / part).mkdir(parents=True)
            (tmp_path / name / part / "file").write_text(name)
        threads.append(threading.Thread(target=keep_caches, args=(tmp_path / name, target)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert list(target.parent.iterdir()) == [target]
    assert (target / "inductor" / "file").read_text() == (target / "triton" / "file").read_text()
    assert capsys.readouterr().err == ""
