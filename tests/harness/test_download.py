"""Downloads from a server that truncates, stalls, fails and lies: the file arrives whole or not at all."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.prepare.download import Download, DownloadFailed, Patience
from tests.harness.lying_server import (
    LyingServer,
    Misbehaviour,
    ignore_range,
    login_page,
    lying_server,
    other_content,
    slam,
    stall,
    status,
    truncate,
    wrong_place,
)

CONTENT = random.Random(1).randbytes(300_000)
HALF = len(CONTENT) // 2
HASTY = Patience(attempts=4, connect_s=2.0, silence_s=0.3, pause_s=0.01, longest_pause_s=0.05)


@pytest.fixture
def server() -> Iterator[LyingServer]:
    with lying_server({"file": CONTENT}) as lying:
        yield lying


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "store" / "file"


def fetch(server: LyingServer, target: Path, patience: Patience = HASTY, name: str = "file") -> list[str]:
    """Download; returns the troubles that were reported."""
    troubles: list[str] = []

    def report(arrived: int, size: int | None, trouble: str) -> None:
        if trouble:
            troubles.append(trouble)

    def check(path: Path) -> str:
        return "not the right kind" if path.read_bytes().startswith(b"<html>") else ""

    Download(f"{server.url}/data/{name}", target, check, report, patience, threading.Event()).run()
    return troubles


def assert_whole(target: Path) -> None:
    assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(CONTENT).digest()
    assert [path.name for path in target.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        ([], [None]),
        ([truncate(HALF)], [None, f"bytes={HALF}-"]),
        ([truncate(1000), truncate(2000), truncate(3000), truncate(4000), truncate(5000)], None),
        ([stall(HALF)], [None, f"bytes={HALF}-"]),
        ([status(500), status(503), slam], [None] * 4),
        ([truncate(HALF), status(502), slam], [None] + [f"bytes={HALF}-"] * 3),
        ([truncate(HALF), ignore_range()], [None, f"bytes={HALF}-"]),
        ([truncate(HALF), ignore_range(HALF - 5)], None),
        ([truncate(HALF), wrong_place], [None, f"bytes={HALF}-", None]),
        ([truncate(HALF), status(416)], [None, f"bytes={HALF}-", None]),
        ([other_content(CONTENT[::-1])], [None, None]),
        ([other_content(CONTENT + b"more")], [None, None]),
        ([status(429, Retry_After="0")], [None, None]),
        ([login_page], [None, None]),
    ],
    ids=lambda value: None if isinstance(value, str) or value is None else "",
)
def test_the_file_arrives_whole(
    server: LyingServer, target: Path, script: list[Misbehaviour], ranges: list[str | None] | None
) -> None:
    server.script["file"] = list(script)
    troubles = fetch(server, target)
    assert_whole(target)
    assert len(troubles) >= bool(script)
    if ranges is not None:
        assert server.ranges("file") == ranges


def test_a_transfer_goes_on_in_another_process_life(server: LyingServer, target: Path) -> None:
    server.script["file"] = [truncate(HALF)] + [slam] * HASTY.attempts
    with pytest.raises(DownloadFailed):
        fetch(server, target)
    assert not target.exists()
    fetch(server, target)
    assert_whole(target)
    assert server.ranges("file")[-1] == f"bytes={HALF}-"


def test_a_file_that_changed_meanwhile_is_begun_again(server: LyingServer, target: Path) -> None:
    server.files["file"] = b"old" * 100_000
    server.script["file"] = [truncate(HALF)] + [slam] * HASTY.attempts
    with pytest.raises(DownloadFailed):
        fetch(server, target)
    server.files["file"], server.etag = CONTENT, '"two"'
    fetch(server, target)
    assert_whole(target)


@pytest.mark.parametrize("etag", ['W/"weak"', ""])
def test_without_a_strong_etag_nothing_is_gone_on_with(server: LyingServer, target: Path, etag: str) -> None:
    server.etag, server.script["file"] = etag, [truncate(HALF)]
    fetch(server, target)
    assert_whole(target)
    assert server.ranges("file") == [None, None]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([status(404)], "not found"),
        ([status(403)], "access denied"),
        ([status(500)] * 9, "HTTP 500"),
        ([slam] * 9, "closed connection|reset by peer"),
        ([stall(0)] * 9, "fell silent"),
        ([truncate(HALF)] * 9, "broke off"),
        ([other_content(CONTENT[::-1])] * 9, "sha256"),
        ([login_page] * 9, "not the right kind"),
        ([ignore_range(HALF)] * 9, "broke off"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_giving_up_says_why_and_leaves_no_file(
    server: LyingServer, target: Path, script: list[Misbehaviour], words: str
) -> None:
    server.script["file"] = list(script)
    with pytest.raises(DownloadFailed, match=words):
        fetch(server, target)
    assert not target.exists()
    assert len(server.requests) <= 1 + HASTY.attempts


def test_nobody_listening_is_said_in_words(target: Path) -> None:
    with lying_server({}) as gone:
        pass
    with pytest.raises(DownloadFailed, match="refused"):
        fetch(gone, target)


def test_bytes_that_crawl_are_taken_for_failure(server: LyingServer, target: Path) -> None:
    """A line that never falls silent for long and still gets nowhere."""

    def crawl(handler: object, content: bytes) -> None:
        handler.begin(200, len(content), **handler.identity(content))  # type: ignore[attr-defined]
        for first in range(0, 200 * 70_000, 70_000):
            if server.released.wait(0.05):
                return
            handler.wfile.write(content[first : first + 70_000])  # type: ignore[attr-defined]

    server.script["file"] = [crawl]
    impatient = replace(HASTY, crawl_bytes_per_s=1e9, silence_s=0.2)
    assert any("bytes in" in trouble for trouble in fetch(server, target, replace(impatient, silence_s=0.1)))
    assert_whole(target)


def test_a_full_disk_leaves_nothing(server: LyingServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        fetch(server, target)
    assert list(target.parent.iterdir()) == []
