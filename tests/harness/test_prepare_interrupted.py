"""Preparing that is killed, stopped or out of disk: there is a whole cache or none, and the next call goes on.

The processes here are real (`python -m harness.prepare`), killed, limited and raced; the contract is small.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

from harness.cache import cache_directory
from harness.contract import load_contract
from harness.prepare import build
from harness.prepare.cli import main
from tests.harness.prepare_kit import finish, kill_at, leftovers, start, the_cache
from tests.harness.small_corpus import write_contract, write_corpus
from tests.waiting import wait_until

# Every stage's last act is a rename; the process dies right before or right after it.
DEATHS = [
    *(("shards", "before"), ("tokenizer.json", "after"), ("train-00001", "before"), ("val.u16", "after")),
    *(("rows.u16", "before"), ("manifest.json", "after"), ("small-", "before"), ("small-", "after")),
]


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
