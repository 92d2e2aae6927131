"""Finding a cache: a whole one is described in one JSON line, anything else is refused with what to run."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import cache as caches
from harness.cache import Cache, CacheError, CacheMismatch, CacheMissing, open_cache, verify_cache
from harness.contract import Contract, load_contract
from harness.files import cache_root, home_folder, settle_folders
from harness.prepare.cli import main as prepare
from tests.harness.small_corpus import write_contract, write_corpus


@pytest.fixture
def contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contract:
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "caches"))
    write_corpus(tmp_path)
    return load_contract(str(write_contract(tmp_path)))


@pytest.fixture
def cache(contract: Contract, tmp_path: Path) -> Cache:
    assert prepare(["--contract", str(tmp_path / "small.json")]) == 0
    return open_cache(contract)


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path.chmod(0o644)
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def test_the_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for name in ("ARSCHED_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_root() == Path("/home/someone/.cache/arsched")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_root() == Path("/caches/arsched")
    monkeypatch.setenv("ARSCHED_CACHE", "~/own")
    assert cache_root() == Path("/home/someone/own")


def test_folders_that_programs_are_started_with_do_not_move_with_theirs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.chdir(tmp_path)
    environ = {"ARSCHED_CACHE": "caches", "ARSCHED_SPOOL": "~/spool", "XDG_CACHE_HOME": "x"}
    settle_folders(environ)
    assert environ == {
        "ARSCHED_CACHE": str(tmp_path / "caches"), "ARSCHED_SPOOL": "/home/someone/spool", "XDG_CACHE_HOME": "x",
    }  # fmt: skip
    settle_folders(empty := {"ARSCHED_CACHE": ""})
    assert empty == {"ARSCHED_CACHE": ""}


def test_relative_folders_of_the_environment_are_ignored() -> None:
    """The XDG specification says so; and a cache that moves with the current folder is prepared again and again."""
    known = Path(pwd.getpwuid(os.getuid()).pw_dir, ".cache", "arsched")
    assert cache_root({"HOME": "/h", "XDG_CACHE_HOME": "caches"}) == Path("/h/.cache/arsched")
    assert cache_root({"HOME": "h", "XDG_CACHE_HOME": "../c"}) == known
    assert cache_root({}) == known


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user id without a name; where its cache goes."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("harness.files.HOMELESS", tmp_path)
    return tmp_path / f"arsched-{os.geteuid()}"


def test_without_a_home_the_cache_is_in_a_folder_of_this_users_alone(homeless: Path) -> None:
    assert home_folder({}) is None
    assert cache_root({}) == cache_root({}) == homeless
    assert homeless.stat().st_mode & 0o777 == 0o700
    assert cache_root({"ARSCHED_CACHE": "/own"}) == Path("/own")


@pytest.mark.parametrize("made", ["link", "file", "open"])
def test_without_a_home_what_others_may_have_made_there_is_refused(homeless: Path, tmp_path: Path, made: str) -> None:
    if made == "link":
        (tmp_path / "theirs").mkdir()
        homeless.symlink_to(tmp_path / "theirs")
    elif made == "file":
        homeless.write_text("")
    else:
        homeless.mkdir()
        homeless.chmod(0o777)
    with pytest.raises(PermissionError):
        cache_root({})


def test_a_contract_never_prepared_says_what_to_run(contract: Contract) -> None:
    with pytest.raises(CacheMissing, match="not prepared") as caught:
        open_cache(contract)
    assert "arsched prepare --contract" in caught.value.hint


def test_one_line_of_json(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert caches.main(["--contract", str(tmp_path / "small.json"), "--full"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["digest"] == cache.digest and said["contract_digest"] == cache.contract.digest
    assert (said["train_rows"], said["val_rows"], said["holdout_rows"]) == (1250, 40, 20)
    os.truncate(make_writable(cache.val_rows_path), 4)
    assert caches.main(["--contract", str(tmp_path / "small.json")]) == 1
    said = json.loads(capsys.readouterr().out)
    assert "val.u16 has 4 bytes" in said["error"] and "prepare" in said["hint"]
    assert caches.main(["--contract", "no-such"]) == 1
    assert json.loads(capsys.readouterr().out)["hint"]


def make_writable(path: Path) -> Path:
    path.chmod(0o644)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("files"),
        lambda manifest: manifest.pop("rows"),
        lambda manifest: manifest.update(format=99),
        lambda manifest: manifest.update(contract_digest="0" * 64),
        lambda manifest: manifest["files"]["train/rows.u16"].update(bytes=1),
        lambda manifest: manifest["files"].update({"train/more.u16": {"bytes": 1, "sha256": ""}}),
        lambda manifest: manifest["rows"].update(train="many"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(cache: Cache, change: Callable[[dict[str, Any]], None]) -> None:
    rewrite(cache.directory / "manifest.json", change)
    with pytest.raises(CacheMismatch):
        open_cache(cache.contract)


@pytest.mark.parametrize("name", ["tokenizer.json", "token_bytes.npy", "train/rows.u16", "judge/holdout.u16"])
def test_every_file_counts(cache: Cache, name: str) -> None:
    path = make_writable(cache.directory / name)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    verify_cache(cache, full=False)
    with pytest.raises(CacheMismatch, match="damaged"):
        verify_cache(cache, full=True)
    path.unlink()
    with pytest.raises(CacheError):
        open_cache(cache.contract)


def test_the_digest_names_the_data_not_the_contract(cache: Cache) -> None:
    before = cache.digest
    rewrite(cache.directory / "manifest.json", lambda m: m["versions"].update(python="9.9"))
    assert open_cache(cache.contract).digest == before
    rewrite(cache.directory / "manifest.json", lambda m: m["files"]["train/rows.u16"].update(sha256="0" * 64))
    assert open_cache(cache.contract).digest != before


def test_a_candidate_kept_out_of_the_judges_room_can_open_its_cache(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Path.stat

    def denied(path: Path, **options: Any) -> os.stat_result:
        if path.parent.name == room:
            raise PermissionError(13, "Permission denied")
        return honest(path, **options)

    monkeypatch.setattr(Path, "stat", denied)
    room = "judge"
    assert open_cache(cache.contract).digest == cache.digest
    room = "train"
    with pytest.raises(CacheMismatch, match="may not be read"):
        open_cache(cache.contract)


def test_a_kernel_counts_only_on_a_gpu_and_only_when_whole(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = caches.kernel_directory()
    kernel.mkdir(parents=True)
    gpu = tmp_path / "gpu"
    write_contract(gpu, device="cuda", corpus__root=str(tmp_path / "corpus"))
    monkeypatch.setattr("harness.prepare.build.fetch_kernel", lambda progress, brought: False)
    assert prepare(["--contract", str(gpu / "small.json")]) == 0
    assert open_cache(load_contract(str(gpu / "small.json"))).kernel_dir is None
    (kernel / "kernel.json").write_text("{}")
    assert open_cache(load_contract(str(gpu / "small.json"))).kernel_dir == kernel
    assert open_cache(cache.contract).kernel_dir is None
