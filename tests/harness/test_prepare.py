"""Preparing: what a whole cache holds, that the work is done once, and what is refused.

The contract is small. Not covered: interruptions (test_prepare_interrupted), damage and copies (test_prepare_copies).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.cache import open_cache
from harness.contract import load_contract
from harness.prepare.cli import main
from harness.tokenizer import Tokenizer
from tests.harness.prepare_kit import ROOT, finish, leftovers, start, the_cache
from tests.harness.small_corpus import write_contract, write_corpus


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
