"""Caches that are damaged, and caches that are copied: of a contract with the same data, or brought from a node."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.cache import cache_directory, open_cache, verify_cache
from harness.contract import load_contract
from harness.prepare.cli import main
from tests.harness.prepare_kit import spoil, the_cache
from tests.harness.small_corpus import write_contract


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
