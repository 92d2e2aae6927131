"""Hub corpora end to end: from a server on loopback, from a folder brought by hand, from upstream's own cache."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.cache import open_cache, verify_cache
from harness.contract import Corpus, load_contract
from harness.prepare import build, hub
from harness.prepare.cli import main
from harness.prepare.hub import RetryPolicy
from harness.prepare.tokenizer import train_tokenizer
from tests.harness.lying_server import LyingServer, Misbehaviour, login_page, lying_server, slam, status, truncate
from tests.harness.small_corpus import HUB, write_contract, write_hub_shards

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["shard_00000.parquet", "shard_00001.parquet", "shard_00007.parquet", "shard_00009.parquet"]


@pytest.fixture
def contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A hub contract in a home of its own, with hasty downloads."""
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "caches"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(build, "train_apart", train_tokenizer)  # a process less
    hasty = RetryPolicy(attempts=2, connect_s=2.0, silence_s=0.5, pause_s=0.01, longest_pause_s=0.02)
    monkeypatch.setattr(hub, "POLICY", hasty)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)  # read at the library's import
    return str(write_contract(tmp_path, corpus=HUB))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LyingServer]:
    with lying_server(write_hub_shards(tmp_path / "origin")) as lying:
        monkeypatch.setenv("HF_ENDPOINT", lying.url)
        yield lying


def digest_of(contract: str) -> str:
    cache = open_cache(load_contract(contract))
    verify_cache(cache, full=True)
    return cache.digest


def asked(server: LyingServer) -> list[str]:
    return sorted({name for name, _ in server.requests})


def test_what_is_downloaded_is_what_was_brought_by_hand(
    contract: str, server: LyingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = {NAMES[0]: [truncate(3000), status(503)], NAMES[3]: [login_page]}
    assert main(["--contract", contract]) == 0
    downloaded = digest_of(contract)
    requests = len(server.requests)
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "elsewhere"))
    assert main(["--contract", contract, "--from", str(tmp_path / "origin")]) == 0
    assert digest_of(contract) == downloaded
    assert len(server.requests) == requests


def test_offline_is_said_once_with_what_to_bring(
    contract: str, server: LyingServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script = {name: [slam] * 9 for name in NAMES}
    assert main(["--contract", contract]) == 1
    said = capsys.readouterr().err
    assert said.count("error: ") == 1 and "cannot download" in said and "--from" in said
    assert [name for name in NAMES if name not in said.partition("hint: ")[2]] == []
    assert main(["--contract", contract, "--from", str(tmp_path / "origin")]) == 0


def test_what_one_call_got_the_next_one_does_not_ask_for(contract: str, server: LyingServer) -> None:
    server.script = {NAMES[3]: [status(404)]}
    assert main(["--contract", contract]) == 1
    server.requests.clear()
    assert main(["--contract", contract]) == 0
    assert NAMES[3] in asked(server) and len(asked(server)) < len(NAMES)


def test_a_shard_in_the_store_is_never_fetched_again(contract: str, server: LyingServer, tmp_path: Path) -> None:
    """Caches outlive versions: the store's folder and its names stay as they are."""
    store = tmp_path / "caches" / "shards" / "owner--texts"
    shutil.copytree(tmp_path / "origin", store)
    (store / NAMES[1]).unlink()
    assert main(["--contract", contract]) == 0
    assert asked(server) == [NAMES[1]]
    assert sorted(path.name for path in store.iterdir()) == [".lock", *NAMES[:2]]


def test_the_scored_shards_are_removed_from_the_store_and_noted_elsewhere(
    contract: str, server: LyingServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--contract", contract]) == 0
    store = tmp_path / "caches" / "shards" / "owner--texts"
    assert sorted(path.name for path in store.iterdir()) == [".lock", *NAMES[:2]]
    assert "NOTE" not in capsys.readouterr().err
    shutil.copy(tmp_path / "origin" / NAMES[2], store)  # as an earlier version left it
    assert main(["--contract", contract, "--from", str(tmp_path / "origin")]) == 0
    assert sorted(path.name for path in store.iterdir()) == [".lock", *NAMES[:2]]
    said = capsys.readouterr().err
    assert f"NOTE: the text that runs are scored on stays readable in {tmp_path / 'origin'}" in said
    assert (tmp_path / "origin" / NAMES[2]).is_file(), "a person's own file"


def test_two_contracts_of_one_store_do_not_take_each_others_shards(
    contract: str, server: LyingServer, tmp_path: Path
) -> None:
    other = str(write_contract(tmp_path / "other", name="other", corpus=HUB, vocab_size=300))
    command = [sys.executable, "-m", "harness.prepare", "--contract"]
    both = [subprocess.Popen([*command, one], cwd=ROOT, stderr=subprocess.PIPE) for one in (contract, other)]
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in both]
    assert [code for _, code in ended] == [0, 0], ended
    assert digest_of(contract) != digest_of(other)


@pytest.mark.parametrize(("answer", "words"), [(status(404), "not found"), (status(403), "HF_TOKEN")])
def test_what_the_hub_refuses_is_said_with_its_reason(
    contract: str, server: LyingServer, answer: Misbehaviour, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.heads = {name: [answer] for name in NAMES}
    assert main(["--contract", contract]) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("error: ") == 1 and "--from" in said


def test_the_hubs_offline_switch_is_named(
    contract: str, server: LyingServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["--contract", contract]) == 1
    said = capsys.readouterr().err
    assert "HF_HUB_OFFLINE is set" in said and "--from" in said and server.tokens == []


def test_an_endpoint_without_its_scheme_is_named_at_once(
    contract: str, server: LyingServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "hf-mirror.example")
    monkeypatch.setenv("HF_ENDPOINT", "hf-mirror.example")
    assert main(["--contract", contract]) == 1
    said = capsys.readouterr().err
    assert "set HF_ENDPOINT=https://hf-mirror.example" in said and "trying again" not in said


def test_a_disk_that_fills_up_while_downloading(
    contract: str,
    server: LyingServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One transfer meets the full disk, the others leave off in the middle: no part of a file stays."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    server.script = {name: [truncate(1000)] * 9 for name in NAMES[1:]}
    monkeypatch.setattr("harness.prepare.hub.os", SimpleNamespace(fsync=full, environ=os.environ))
    assert main(["--contract", contract]) == 1
    said = capsys.readouterr().err
    assert said.count("error: ") == 1 and "no space left" in said
    assert server.requests
    assert {path.name for path in (tmp_path / "caches" / "shards").rglob("*") if path.is_file()} == {".lock"}


def test_upstreams_own_folder_is_used_and_only_the_rest_is_fetched(
    server: LyingServer, tmp_path: Path, contract: str, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream = Corpus(**{**HUB, "root": "karpathy/climbmix-400b-shuffle"})  # type: ignore[arg-type]
    folder = tmp_path / "home" / ".cache" / "autoresearch" / "data"
    shutil.copytree(tmp_path / "origin", folder)
    (folder / NAMES[2]).unlink()
    (folder / NAMES[1]).write_bytes(b"PAR1 cut off in the middle")
    theirs = write_contract(tmp_path / "theirs", corpus={**HUB, "root": upstream.root})
    assert main(["--contract", str(theirs)]) == 0
    assert asked(server) == [NAMES[1], NAMES[2]]
    assert f"passing over {(folder / NAMES[1])}" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == sorted(set(NAMES) - {NAMES[2]})


def test_the_manifest_says_what_the_cache_was_made_of(contract: str, server: LyingServer) -> None:
    assert main(["--contract", contract]) == 0
    manifest = json.loads((open_cache(load_contract(contract)).directory / "manifest.json").read_text())
    assert [(shard["name"], shard["split"]) for shard in manifest["corpus"]["shards"]] == [
        (NAMES[0], "train"),
        (NAMES[1], "train"),
        (NAMES[3], "val"),
        (NAMES[2], "holdout"),
    ]
    assert {"tiktoken", "rustbpe", "packer"} <= manifest["versions"].keys()


def test_documents_that_are_not_text_are_refused(
    contract: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_hub_shards(tmp_path / "origin")
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "origin" / NAMES[1])
    assert main(["--contract", contract, "--from", str(tmp_path / "origin")]) == 1
    assert "documents that are not text" in capsys.readouterr().err
