"""Downloads from a hub that truncates, stalls, fails and lies: the file arrives whole or not at all."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.prepare import hub
from harness.prepare.hub import Download, DownloadFailed, RetryPolicy
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


def parquet(seed: int) -> bytes:
    """A shard of texts that do not compress, about 300 kB."""
    out = io.BytesIO()
    pq.write_table(pa.table({"text": [random.Random(seed).randbytes(150_000).hex()]}), out, compression="zstd")
    return out.getvalue()


CONTENT = parquet(1)
HALF = len(CONTENT) // 2
HASTY = RetryPolicy(attempts=4, connect_s=2.0, silence_s=0.3, pause_s=0.01, longest_pause_s=0.05)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LyingServer]:
    monkeypatch.setattr(hub, "POLICY", HASTY)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)  # read at the library's import
    with lying_server({"file": CONTENT}) as lying:
        yield lying


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "store" / "file"


def fetch(server: LyingServer, target: Path, name: str = "file") -> list[str]:
    """Download; returns the troubles that were reported."""
    troubles: list[str] = []

    def report(arrived: int, trouble: str) -> None:
        if trouble:
            troubles.append(trouble)

    Download(f"{server.url}/data/{name}", target, report, threading.Event()).run()
    return troubles


def assert_whole(target: Path) -> None:
    assert target.read_bytes() == CONTENT
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


@pytest.mark.parametrize("misbehaviour", [status(503), status(429, Retry_After="0"), slam, login_page])
def test_trouble_while_asking_for_size_and_sha256_is_overcome(
    server: LyingServer, target: Path, misbehaviour: Misbehaviour
) -> None:
    server.heads["file"] = [misbehaviour, misbehaviour]
    fetch(server, target)
    assert_whole(target)


def test_a_token_is_for_the_hub_and_not_for_its_storage(
    server: LyingServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.storage = server.url.replace("127.0.0.1", "localhost")
    fetch(server, target)
    assert_whole(target)
    assert set(server.tokens) == {("127.0.0.1", "Bearer hf_secret"), ("localhost", None)}


def test_a_transfer_goes_on_in_another_process_life(server: LyingServer, target: Path) -> None:
    server.script["file"] = [truncate(HALF)] + [slam] * HASTY.attempts
    with pytest.raises(DownloadFailed):
        fetch(server, target)
    assert not target.exists()
    fetch(server, target)
    assert_whole(target)
    assert server.ranges("file")[-1] == f"bytes={HALF}-"


def test_a_file_that_changed_meanwhile_is_begun_again(server: LyingServer, target: Path) -> None:
    server.files["file"] = parquet(2)
    server.script["file"] = [truncate(HALF)] + [slam] * HASTY.attempts
    with pytest.raises(DownloadFailed):
        fetch(server, target)
    server.files["file"], server.etag = CONTENT, '"two"'
    fetch(server, target)
    assert_whole(target)


@pytest.mark.parametrize("etag", ['"strong"', 'W/"weak"', ""])
def test_without_a_sha256_nothing_is_gone_on_with(server: LyingServer, target: Path, etag: str) -> None:
    """A mixture of two files could not be noticed: a mirror may serve another revision."""
    server.etag, server.with_sha256, server.script["file"] = etag, False, [truncate(HALF)]
    fetch(server, target)
    assert_whole(target)
    assert server.ranges("file") == [None, None]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([status(404)], "not found"),
        ([status(403)], "access denied"),
        ([status(500)] * 9, "HTTP 500"),
        ([slam] * 9, "disconnected|reset by peer"),
        ([stall(0)] * 9, "timed out"),
        ([truncate(HALF)] * 9, "closed connection"),
        ([other_content(CONTENT[::-1])] * 9, "sha256"),
        ([login_page] * 9, "26 bytes arrived of"),
        ([ignore_range(HALF)] * 9, "closed connection"),
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


def test_a_portal_that_answers_everything_with_its_page_is_no_hub(server: LyingServer, target: Path) -> None:
    server.heads["file"], server.script["file"] = [login_page] * 9, [login_page] * 9
    with pytest.raises(DownloadFailed, match="not a parquet file"):
        fetch(server, target)
    assert list(target.parent.iterdir()) == []


def test_a_server_that_does_not_listen_is_named_in_words(server: LyingServer, target: Path) -> None:
    with lying_server({}) as gone:
        pass
    with pytest.raises(DownloadFailed, match="refused"):
        fetch(gone, target)


def test_the_hubs_offline_switch_is_obeyed(server: LyingServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadFailed, match="HF_HUB_OFFLINE is set"):
        fetch(server, target)
    assert server.tokens == []


def test_bytes_that_crawl_are_taken_for_failure(
    server: LyingServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that never falls silent for long and still gets nowhere."""

    def crawl(handler: object, content: bytes) -> None:
        handler.begin(200, len(content), **handler.identity(content))  # type: ignore[attr-defined]
        for first in range(0, len(content), 1000):
            if server.released.wait(0.05):
                return
            handler.wfile.write(content[first : first + 1000])  # type: ignore[attr-defined]

    server.script["file"] = [crawl]
    monkeypatch.setattr(hub, "POLICY", replace(HASTY, crawl_bytes_per_s=1e6, silence_s=0.2))
    assert any("bytes in" in trouble for trouble in fetch(server, target))
    assert_whole(target)
