"""Files that appear whole or not at all, however the writer ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.files import copy_whole, is_shared, whole_file, whole_folder, write_atomic


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "file"
    write_atomic(path, "old")
    return path


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_file_is_replaced_and_never_written_into(path: Path) -> None:
    """Who has the old file open goes on reading all of the old one."""
    os.link(path, path.with_name("second name"))
    write_atomic(path, b"new")
    assert path.read_text() == "new"
    assert path.with_name("second name").read_text() == "old"
    assert names(path.parent) == ["file", "second name"]


@pytest.mark.parametrize("refused", ["replace", "open"])
def test_a_disk_that_refuses_leaves_the_old_file_alone(
    path: Path, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, refused, refuse)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old" and names(path.parent) == ["file"]


def test_a_block_that_fails_leaves_no_file_and_no_folder(path: Path) -> None:
    fresh = path.with_name("fresh")
    with pytest.raises(ZeroDivisionError), whole_file(fresh) as file:
        file.write(b"half")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), whole_folder(fresh) as folder:
        (folder / "one").write_text("half")
        raise ZeroDivisionError
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("by_reference", [True, False])
def test_a_copy_is_whole_and_another_file(path: Path, by_reference: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(read: int, write: int, count: int) -> int:
        if copied := os.lseek(read, 0, os.SEEK_CUR):
            raise OSError(18, "Invalid cross-device link")
        assert copied == 0
        return os.write(write, os.read(read, 1000))

    content = os.urandom(300_000)
    write_atomic(path, content)
    if not by_reference:
        monkeypatch.setattr(os, "copy_file_range", cannot)
    copy_whole(path, path.with_name("copy"))
    assert path.with_name("copy").read_bytes() == content and path.stat().st_nlink == 1
    assert names(path.parent) == ["copy", "file"]


def test_a_folder_appears_with_all_that_is_in_it(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "made") as folder:
        (folder / "one").write_text("1")
        assert not (tmp_path / "made").exists()
    assert names(tmp_path) == ["made"] and names(tmp_path / "made") == ["one"]


MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /shared rw,relatime - nfs4 server:/x rw,vers=4.2
31 30 254:1 / /shared/local rw - xfs /dev/vdb rw
32 22 0:41 / /mnt/with\\040blank rw - lustre x@tcp:/y rw
36 22 0:43 / /mnt/données\\040デ rw - nfs4 server:/y rw
33 22 0:42 / /data rw - fuse.gcsfuse bucket rw
34 22 254:0 / /over rw - nfs server:/z rw
35 22 254:2 / /over rw - ext4 /dev/vdc rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "shared"),
    [
        ("/home/me/.cache/arsched", False),
        ("/shared/arsched", True),
        ("/sharedx", False),
        ("/shared/local/arsched", False),
        ("/mnt/with blank/arsched", True),
        ("/mnt/données デ/arsched", True),
        ("/data", True),
        ("/over/x", False),
    ],
)
def test_a_file_system_that_nodes_share_is_known_by_its_kind(tmp_path: Path, path: str, shared: bool) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS.replace("nonsense\n", ""))
    assert is_shared(Path(path), tmp_path / "mountinfo") == shared


def test_where_nothing_tells_a_folder_is_taken_for_this_nodes_own(tmp_path: Path) -> None:
    assert not is_shared(tmp_path, tmp_path / "none")
    (tmp_path / "mountinfo").write_text("nonsense")
    assert not is_shared(tmp_path, tmp_path / "mountinfo")
