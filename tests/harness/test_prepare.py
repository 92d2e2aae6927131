"""Preparing: the work is done once, and whatever interrupts it, there is a whole cache or none.

The processes here are real (`python -m harness.prepare`), killed, limited and raced; the contract is small.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from harness.cache import Cache, cache_directory, open_cache, verify_cache
from harness.contract import load_contract
from harness.prepare import build
from harness.prepare.cli import main
from harness.prepare.tokenizer import train_tokenizer
from harness.tokenizer import Tokenizer
from tests.harness.small_corpus import write_contract, write_corpus
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the small contract and its corpus, and a cache root of its own."""
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "caches"))
    monkeypatch.setattr(build, "train_apart", train_tokenizer)  # a process less for the calls made in this one
    write_corpus(tmp_path)
    write_contract(tmp_path)
    return tmp_path


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


def test_a_cache_holds_what_its_contract_promises(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--contract", str(home / "small.json"), "--json"]) == 0
    cache = the_cache(home)
    said = json.loads(capsys.readouterr().out)
    assert (said["digest"], said["built"], said["directory"]) == (cache.digest, True, str(cache.directory))
    rows = np.fromfile(cache.train_rows_path, "<u2").reshape(-1, 17)
    epochs = np.fromfile(cache.train_epochs_path, "<i4")
    assert len(rows) == len(epochs) == cache.train_rows == 1250
    assert (cache.val_rows, cache.holdout_rows) == (40, 20)
    bos = Tokenizer.from_directory(cache.directory).get_bos_token_id()
    assert (rows[:, 0] == bos).all() and rows.max() <= bos
    assert epochs[0] == 1 and (np.diff(epochs) >= 0).all()
    assert not [p for p in cache.directory.rglob("*") if p.is_file() and p.stat().st_mode & 0o222]
    assert leftovers(home) == []


def test_a_second_call_does_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--contract", str(home / "small.json"), "--json"]
    assert main(command) == 0
    before = {path: path.stat().st_mtime_ns for path in the_cache(home).directory.rglob("*")}
    capsys.readouterr()
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["built"] is False
    assert {path: path.stat().st_mtime_ns for path in the_cache(home).directory.rglob("*")} == before


def test_the_same_texts_make_the_same_cache(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["--contract", str(home / "small.json")]) == 0
    first = the_cache(home).digest
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "elsewhere"))
    assert main(["--contract", str(home / "small.json")]) == 0
    assert the_cache(home).digest == first


def test_no_text_is_in_two_splits(home: Path) -> None:
    assert main(["--contract", str(home / "small.json")]) == 0
    cache = the_cache(home)
    tokenizer = Tokenizer.from_directory(cache.directory)
    bos = tokenizer.get_bos_token_id()
    ends = []
    for path in (cache.train_rows_path, cache.val_rows_path, cache.directory / "judge" / "holdout.u16"):
        rows = np.fromfile(path, "<u2").reshape(-1, 17)
        texts = [tokenizer.decode(part.tolist()) for row in rows for part in np.split(row, np.flatnonzero(row == bos))]
        ends.append({text for text in texts if len(text) > 30})
    assert all(ends)
    assert not ends[0] & ends[1] and not ends[0] & ends[2] and not ends[1] & ends[2]


def test_a_local_corpus_needs_no_client_of_the_hub(home: Path) -> None:
    program = (
        "import sys; sys.modules['huggingface_hub'] = None; from harness.prepare.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, "--contract", str(home / "small.json")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    the_cache(home)


def test_two_at_once_do_the_work_once(home: Path) -> None:
    both = [start(home, "--json"), start(home, "--json")]
    answers = [finish(process) for process in both]
    assert [code for code, _, _ in answers] == [0, 0]
    assert sorted(json.loads(out)["built"] for _, out, _ in answers) == [False, True]
    the_cache(home)


# Every stage's last act is a rename; the process dies right before or right after it.
DEATHS = [
    *(("shards", "before"), ("tokenizer.json", "after"), ("train-00001", "before"), ("val.u16", "after")),
    *(("rows.u16", "before"), ("manifest.json", "after"), ("small-", "before"), ("small-", "after")),
]


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


@pytest.mark.parametrize(("name", "when"), DEATHS)
def test_killed_at_any_stage_the_next_call_ends_with_a_whole_cache(home: Path, name: str, when: str) -> None:
    kill_at(home, name, when)
    directory = cache_directory(load_contract(str(home / "small.json")))
    assert directory.exists() == (name == "small-" and when == "after")
    assert main(["--contract", str(home / "small.json")]) == 0
    the_cache(home)
    assert leftovers(home) == []


def test_finished_stages_are_not_done_again(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kill_at(home, "val.u16", "before")
    shutil.rmtree(home / "corpus")
    assert main(["--contract", str(home / "small.json")]) == 0
    assert "tokenizer ..." not in capsys.readouterr().err


def test_stages_of_other_versions_are_not_gone_on_from(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_at(home, "val.u16", "before")
    building = next((home / "caches").glob("*.building"))
    (building / "tokenizer.json").write_text("from another version")
    monkeypatch.setattr(build, "versions", lambda _: {"tiktoken": "0.0.1"})
    assert main(["--contract", str(home / "small.json")]) == 0
    the_cache(home)


def training(home: Path) -> subprocess.Popen[str]:
    """A preparation in the middle of its longest stage, the tokenizer's, which is a process of its own."""
    write_corpus(home, count=2_000)
    process = start(home)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("tokenizer"):
            break
    assert wait_until(lambda: children_of(process))
    return process


def children_of(process: subprocess.Popen[str]) -> list[str]:
    """Command lines of tokenizer processes started for `process`."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes().replace(b"\0", b" ").decode().strip())
    return [line for line in lines if line.endswith(f"harness.prepare.tokenizer {process.pid}")]


def assert_goes_on(home: Path) -> None:
    write_corpus(home, count=300)  # the corpus stage is over and is not done again
    assert main(["--contract", str(home / "small.json")]) == 0
    assert the_cache(home).train_rows == 1250
    assert leftovers(home) == []


@pytest.mark.parametrize("presses", [1, 3])
def test_ctrl_c_stops_at_once_and_the_next_call_goes_on(home: Path, presses: int) -> None:
    process = training(home)
    for _ in range(presses):
        process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, "error: stopped" in err) == (130, True)
    assert wait_until(lambda: not children_of(process))
    assert_goes_on(home)


def test_a_killed_preparation_leaves_no_process(home: Path) -> None:
    process = training(home)
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    assert wait_until(lambda: not children_of(process))
    assert_goes_on(home)


@pytest.mark.parametrize("limit_bytes", [2_000, 20_000, 40_000])
def test_a_full_disk_is_one_message_and_nothing_half_left(home: Path, limit_bytes: int) -> None:
    """RLIMIT_FSIZE makes the kernel refuse writes, at another stage for each limit."""
    process = start(
        home, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    )  # fmt: skip
    code, out, err = finish(process)
    assert (code, out) == (1, "")
    assert err.count("error: ") == 1 and "no space left" in err and "ARSCHED_CACHE" in err
    assert leftovers(home) == []
    assert not cache_directory(load_contract(str(home / "small.json"))).exists()
    assert main(["--contract", str(home / "small.json")]) == 0


def test_a_disk_too_small_for_the_rows_is_found_out_before_packing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10_000, 9_000, 1_000))
    assert main(["--contract", str(home / "small.json")]) == 1
    said = capsys.readouterr().err
    assert "the rows need 44.5 kB, 1 kB are free" in said and "packing" not in said


def test_a_cache_root_that_cannot_be_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "caches").write_text("a file")
    assert main(["--contract", str(home / "small.json")]) == 1
    said = capsys.readouterr().err
    assert str(home / "caches") in said and "ARSCHED_CACHE" in said


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "manifest"])
def test_verify_finds_damage_and_prepare_mends_it(home: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--contract", str(home / "small.json")]
    assert main([*command, "--verify"]) == 3
    assert main(command) == 0
    digest = the_cache(home).digest
    assert main([*command, "--verify"]) == 0
    spoil(the_cache(home), damage)
    capsys.readouterr()
    assert main([*command, "--verify"]) == 3
    said = capsys.readouterr().err
    assert "error: " in said and "hint: " in said
    if damage == "flip":  # sizes alone do not show it: the hint says to remove it
        shutil.rmtree(cache_directory(load_contract(str(home / "small.json"))))
    assert main(command) == 0
    assert the_cache(home).digest == digest


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


def test_a_contract_that_differs_in_budget_alone_gets_a_copy_of_the_rows(home: Path) -> None:
    assert main(["--contract", str(home / "small.json")]) == 0
    first = the_cache(home)
    other = write_contract(home / "other", name="small-two", budget__seconds=2, corpus__root=str(home / "corpus"))
    shutil.rmtree(home / "corpus")
    assert main(["--contract", str(other)]) == 0
    twin = open_cache(load_contract(str(other)))
    verify_cache(twin, full=True)
    assert twin.digest == first.digest and twin.contract.budget.seconds == 2
    for name in first.files:
        assert not (twin.directory / name).samefile(first.directory / name), "who changes one changes the other"
    spoil(twin, "flip")
    verify_cache(first, full=True)


def test_a_disk_too_small_for_a_copy_is_found_out(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--contract", str(home / "small.json")]) == 0
    other = write_contract(home / "other", name="small-two", budget__seconds=2, corpus__root=str(home / "corpus"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10_000, 9_000, 1_000))
    assert main(["--contract", str(other)]) == 1
    assert "the rows need 44.5 kB" in capsys.readouterr().err


def test_an_abandoned_build_of_the_same_texts_is_removed(home: Path) -> None:
    kill_at(home, "val.u16", "before")
    abandoned = next((home / "caches").glob("*.building"))
    assert list(abandoned.rglob("*.parquet")) and list(abandoned.rglob("tokens.u16"))
    write_corpus(home / "elsewhere")
    unlike = write_contract(home / "elsewhere", name="unlike")
    assert main(["--contract", str(unlike)]) == 0
    assert abandoned.exists(), "other texts: that build can be gone on with"
    other = write_contract(home / "other", vocab_size=300, corpus__root=str(home / "corpus"))
    with FileLock(abandoned.with_suffix(".lock")):
        assert main(["--contract", str(other)]) == 0
        assert abandoned.exists(), "it is under way"
    assert main(["--contract", str(other)]) == 0
    assert not abandoned.exists()


def test_a_damaged_twin_is_not_inherited(home: Path) -> None:
    assert main(["--contract", str(home / "small.json")]) == 0
    first = the_cache(home)
    spoil(first, "flip")
    other = write_contract(home / "other", name="small-two", budget__seconds=2, corpus__root=str(home / "corpus"))
    assert main(["--contract", str(other)]) == 0
    verify_cache(open_cache(load_contract(str(other))), full=True)
    assert open_cache(load_contract(str(other))).digest == first.digest


def bring(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the cache, as from another node; the corpus is gone and the caches here are empty."""
    assert main(["--contract", str(home / "small.json")]) == 0
    brought = home / "brought"
    shutil.copytree(the_cache(home).directory, brought / "small-123")
    shutil.rmtree(home / "corpus")
    monkeypatch.setenv("ARSCHED_CACHE", str(home / "elsewhere"))
    return brought


@pytest.mark.parametrize("inner", ["", "small-123"])
def test_a_cache_of_another_node_is_taken_over_without_the_texts(
    home: Path, monkeypatch: pytest.MonkeyPatch, inner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    brought = bring(home, monkeypatch)
    made_there = brought / "small-123" / "manifest.json"
    made_there.chmod(0o644)
    manifest = json.loads(made_there.read_text())
    made_there.write_text(json.dumps(manifest | {"versions": {"python": "3.11.99"}}))
    assert main(["--contract", str(home / "small.json"), "--from", str(brought / inner), "--json"]) == 0
    cache = the_cache(home)
    assert cache.digest == manifest["digest"] == json.loads(capsys.readouterr().out)["digest"]
    assert cache.versions == {"python": "3.11.99"}, "what the data was made with, not what is installed here"
    assert not (cache.directory / "train" / "rows.u16").samefile(brought / "small-123" / "train" / "rows.u16")


@pytest.mark.parametrize("damage", ["flip", "cut", "manifest", "outside", "short", "no digest", "a folder"])
def test_what_arrives_damaged_is_not_taken_over(
    home: Path, monkeypatch: pytest.MonkeyPatch, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    brought = bring(home, monkeypatch) / "small-123"
    rows, manifest = brought / "train" / "rows.u16", brought / "manifest.json"
    for path in (rows, manifest):
        path.chmod(0o644)
    fields = json.loads(manifest.read_text())
    if damage == "flip":
        rows.write_bytes(bytes([rows.read_bytes()[0] ^ 1]) + rows.read_bytes()[1:])
    elif damage == "cut":
        rows.write_bytes(rows.read_bytes()[:-2])
    elif damage == "manifest":
        manifest.write_text(json.dumps(fields | {"files": []}))
    elif damage == "no digest":
        del fields["digest"]
        manifest.write_text(json.dumps(fields))
    elif damage == "a folder":
        manifest.write_text(json.dumps(fields | {"files": {"train": {}}}))
    elif damage == "short":
        del fields["files"]["tokenizer.json"]
        manifest.write_text(json.dumps(fields))
    else:
        (home / "secret").write_text("x")
        fields["files"]["../../secret"] = {"bytes": 1, "sha256": "0"}
        manifest.write_text(json.dumps(fields))
    assert main(["--contract", str(home / "small.json"), "--from", str(brought)]) == 1
    said = capsys.readouterr().err
    assert "corpus folder" in said, "then it is made here, from texts that are not there"
    assert ("not what its manifest says" in said) == (damage not in ("outside", "no digest"))
    assert not (home / "elsewhere" / "secret").exists() and not list((home / "elsewhere").glob("*/manifest.json"))


def test_two_nodes_on_one_shared_folder_make_one_cache(home: Path) -> None:
    """Locks on a file system that nodes share; here they are processes."""
    both = [start(home, "--json"), start(home, "--json")]
    said = [json.loads(out) for code, out, _ in map(finish, both) if code == 0]
    assert sorted(one["built"] for one in said) == [False, True] and said[0]["digest"] == said[1]["digest"]
    the_cache(home)


def test_a_contract_with_other_data_shares_nothing(home: Path) -> None:
    assert main(["--contract", str(home / "small.json")]) == 0
    other = write_contract(home / "other", vocab_size=300, corpus__root=str(home / "corpus"))
    assert main(["--contract", str(other)]) == 0
    twin = open_cache(load_contract(str(other)))
    assert twin.digest != the_cache(home).digest and not twin.train_rows_path.samefile(the_cache(home).train_rows_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--contract", "cpuu"], "did you mean 'cpu'"),
        (["--contract", "none.yaml"], "No such file"),
        (["--contract", "cpu", "--from", "."], "bring a copy of a cache"),
        (["--contract", "standard", "--from", "/no/such/folder"], "no such folder"),
        (["--contract", "small", "--from", "/no/such/folder"], "no such folder"),
    ],
)
def test_wrong_usage(home: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 2
    said = capsys.readouterr()
    assert words in said.err and said.out == ""
    assert not (home / "caches").exists()


def test_rows_that_repeat_their_text_are_noted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--contract", str(home / "small.json")]) == 0
    assert "NOTE" not in capsys.readouterr().err
    assert main(["--contract", str(write_contract(home, evaluation_tokens=16_000))]) == 0
    assert "NOTE: the text of these 1000 rows is short" in capsys.readouterr().err


def test_too_little_text_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_corpus(home, count=2)
    assert main(["--contract", str(home / "small.json")]) == 1
    assert "too small" in capsys.readouterr().err
    write_corpus(home, count=12)
    assert main(["--contract", str(write_contract(home, vocab_size=4000))]) == 1
    assert "tokens, not for 4000" in capsys.readouterr().err
