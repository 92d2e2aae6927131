"""Data known by content: a file of the cache that is not the manifest's is never scored with, nor trained on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.cache import Cache, CacheMismatch
from harness.judge import data
from harness.judge.data import judge_data
from tests.harness.judging import Rig

SCORED_WITH = ("judge/val.u16", "judge/holdout.u16", "token_bytes.npy", "token_bytes_upstream.npy")
TRAINED_ON = ("train/rows.u16", "train/epochs.i32")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    rig = Rig(tmp_path)
    yield rig.cache()


def flip_last_byte(path: Path) -> None:
    """The same size, and the times it had: what a careful candidate would leave behind."""
    before = path.stat()
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", [*SCORED_WITH, *TRAINED_ON])
@pytest.mark.parametrize("seen", [True, False], ids=["seen this boot", "not seen"])
def test_a_changed_byte_is_noticed(cache: Cache, name: str, seen: bool) -> None:
    if seen:
        with judge_data(cache):
            pass
    flip_last_byte(cache.directory / name)
    with pytest.raises(CacheMismatch, match=f"{name} is damaged"), judge_data(cache):
        pass


def test_rows_that_are_read_do_not_change_with_their_file(cache: Cache) -> None:
    with judge_data(cache) as read:
        before = read.val.copy(), read.holdout.copy()
        flip_last_byte(cache.val_rows_path)
        flip_last_byte(cache.holdout_rows_path)
        np.testing.assert_array_equal(read.val, before[0])
        np.testing.assert_array_equal(read.holdout, before[1])


def test_training_rows_are_hashed_once_per_boot(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[object] = []
    digest_of = data.hashlib.file_digest
    monkeypatch.setattr(data.hashlib, "file_digest", lambda *given: hashed.append(given) or digest_of(*given))
    boot_id = tmp_path / "boot_id"
    monkeypatch.setattr(data, "_BOOT_ID", boot_id)
    for boot, due in (("one", 2), ("one", 2), ("two", 4)):
        boot_id.write_text(boot)
        with judge_data(cache) as read:
            assert os.lseek(read.train_rows_fd, 0, os.SEEK_CUR) == 0
        assert len(hashed) == due


def test_a_cache_that_cannot_be_written_to_is_hashed_every_time(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(data, "write_atomic", refuse)
    for _ in range(2):
        with judge_data(cache):
            pass
    flip_last_byte(cache.train_rows_path)
    with pytest.raises(CacheMismatch), judge_data(cache):
        pass
