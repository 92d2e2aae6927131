"""One file over HTTP, whole or not at all, from servers and lines as they are.

Covers: going on with Range where a broken transfer stopped (only if the server can say that it is still the same file),
length and sha256, retries with growing pauses as long as there is hope, silence and crawling taken for failure.
Not covered: which files (harness.prepare.hub).
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests
import urllib3

from harness.cache import sha256_of
from harness.files import PARTIAL_SUFFIX

_CHUNK_BYTES = 1 << 16
_NOT_FOR_US = {401: "access denied", 403: "access denied", 404: "not found", 410: "gone", 451: "withheld"}
_SHA256_LENGTH = 64


class DownloadFailed(Exception):
    """Given up on a file; the message says why in a few words."""


class _Broken(Exception):
    """This attempt failed, another may not. `after_s`: pause the server asked for."""

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class _Rejected(_Broken):
    """What arrived is not the file; what was kept of it is gone."""


@dataclass(frozen=True, slots=True)
class Patience:
    """When to give up: `attempts` in a row that brought nothing new, or `rejects` wrong files."""

    attempts: int = 5
    rejects: int = 3
    connect_s: float = 10.0
    silence_s: float = 30.0
    crawl_bytes_per_s: float = 1000.0
    pause_s: float = 1.0
    longest_pause_s: float = 60.0


@dataclass(frozen=True, slots=True)
class _Promise:
    """What the server says about the file: its length, a strong ETag, and its sha256 if it knows."""

    size_bytes: int | None
    etag: str | None
    sha256: str | None


class Download:
    """One file on its way from `url` to `target`.

    `check(path)` names what is wrong with an arrived file, or "". `report(arrived, size, trouble)` is called as bytes
    arrive (trouble "") and before each retry (trouble says why).
    """

    def __init__(
        self,
        url: str,
        target: Path,
        check: Callable[[Path], str],
        report: Callable[[int, int | None, str], None],
        patience: Patience,
        stop: threading.Event,
    ) -> None:
        self._url, self._target, self._check, self._report = url, target, check, report
        self._patience, self._stop = patience, stop
        self._part = target.with_name(target.name + PARTIAL_SUFFIX)
        self._note = target.with_name(target.name + PARTIAL_SUFFIX + ".json")
        self._most_bytes = 0

    def run(self) -> None:
        """Return when `target` is there. Raises DownloadFailed; a full disk raises OSError and leaves nothing."""
        fruitless = rejected = 0
        while not self._stop.is_set():
            try:
                self._attempt()
                return
            except _Broken as broken:
                rejected += isinstance(broken, _Rejected)
                fruitless = 0 if self._came_further() else fruitless + 1
                if fruitless >= self._patience.attempts or rejected >= self._patience.rejects:
                    raise DownloadFailed(str(broken)) from None
                pause_s = self._pause_s(fruitless, broken.after_s)
                self._report(self._arrived_bytes(), None, f"{broken}; trying again in {pause_s:.0f} s")
                self._stop.wait(pause_s)
            except OSError:
                self._discard()
                raise
        raise DownloadFailed("stopped")

    def _pause_s(self, fruitless: int, asked_s: float) -> float:
        grown = self._patience.pause_s * 2 ** max(0, fruitless - 1) * random.uniform(0.8, 1.2)
        return float(min(max(grown, asked_s), self._patience.longest_pause_s))

    def _came_further(self) -> bool:
        arrived = self._arrived_bytes()
        further = arrived > self._most_bytes
        self._most_bytes = max(self._most_bytes, arrived)
        return further

    def _arrived_bytes(self) -> int:
        return self._part.stat().st_size if self._part.is_file() else 0

    def _attempt(self) -> None:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with requests.get(
                self._url,
                headers=self._headers(),
                stream=True,
                timeout=(self._patience.connect_s, self._patience.silence_s),
            ) as response:
                promise = self._open(response)
                self._receive(response, promise)
        except requests.RequestException as error:
            raise _Broken(_in_words(error)) from None
        self._finish(promise)

    def _headers(self) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", "User-Agent": "arsched"}
        if token := os.environ.get("HF_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
        promise, arrived = self._kept_promise(), self._arrived_bytes()
        if arrived and promise.etag:
            headers |= {"Range": f"bytes={arrived}-", "If-Range": promise.etag}
        return headers

    def _kept_promise(self) -> _Promise:
        try:
            return _Promise(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return _Promise(None, None, None)

    def _open(self, response: requests.Response) -> _Promise:
        """Judge the answer's head, and have the part file ready to be appended to."""
        status = response.status_code
        if status in _NOT_FOR_US:
            raise DownloadFailed(f"{_NOT_FOR_US[status]} (HTTP {status})")
        if status == requests.codes.partial_content:
            return self._resumed(response)
        if status == requests.codes.requested_range_not_satisfiable:
            self._discard()
        if status != requests.codes.ok:
            raise _Broken(f"HTTP {status}", _retry_after_s(response))
        self._discard()
        promise = _promise_of(response)
        self._note.write_text(json.dumps(asdict(promise)), encoding="utf-8")
        return promise

    def _resumed(self, response: requests.Response) -> _Promise:
        promise, arrived = self._kept_promise(), self._arrived_bytes()
        if response.headers.get("Content-Range", "").startswith(f"bytes {arrived}-"):
            return promise
        self._discard()
        raise _Broken("the server went on at another place than asked")

    def _receive(self, response: requests.Response, promise: _Promise) -> None:
        arrived, began = self._arrived_bytes(), time.monotonic()
        received = 0
        with self._part.open("ab", buffering=0) as part:
            while chunk := _next_bytes(response):
                if self._stop.is_set():
                    raise _Broken("stopped")
                part.write(chunk)
                received += len(chunk)
                self._report(arrived + received, promise.size_bytes, "")
                self._refuse_crawling(received, time.monotonic() - began)
            os.fsync(part.fileno())

    def _refuse_crawling(self, received: int, elapsed_s: float) -> None:
        slow = received < self._patience.crawl_bytes_per_s * elapsed_s
        if slow and elapsed_s > self._patience.silence_s:
            raise _Broken(f"only {received} bytes in {elapsed_s:.0f} s")

    def _finish(self, promise: _Promise) -> None:
        arrived = self._arrived_bytes()
        if promise.size_bytes is not None and arrived < promise.size_bytes:
            raise _Broken(f"the transfer ended after {arrived} of {promise.size_bytes} bytes")
        if promise.size_bytes is not None and arrived > promise.size_bytes:
            self._reject(f"{arrived} bytes arrived of a file of {promise.size_bytes}")
        if promise.sha256 and sha256_of(self._part) != promise.sha256:
            self._reject("the sha256 of what arrived is not the server's")
        if problem := self._check(self._part):
            self._reject(problem)
        self._part.replace(self._target)
        self._note.unlink(missing_ok=True)

    def _reject(self, reason: str) -> None:
        self._discard()
        raise _Rejected(reason)

    def _discard(self) -> None:
        self._part.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def _next_bytes(response: requests.Response) -> bytes:
    """What has arrived since the last call, b"" at the end. Raises _Broken."""
    try:
        return bytes(response.raw.read1(_CHUNK_BYTES))
    except urllib3.exceptions.TimeoutError:
        raise _Broken("the server fell silent") from None
    except urllib3.exceptions.HTTPError:
        raise _Broken("the connection broke off") from None


def _promise_of(response: requests.Response) -> _Promise:
    """From the headers of the answer and of the redirects that led to it (a hub puts a file's sha256 on the first)."""
    heads = [*(hop.headers for hop in response.history), response.headers]
    linked = [head["X-Linked-ETag"].strip('"') for head in heads if "X-Linked-ETag" in head]
    sha256 = next((tag for tag in linked if len(tag) == _SHA256_LENGTH), None)
    etag = response.headers.get("ETag")
    strong = etag if etag and not etag.startswith("W/") else None
    length: Any = response.headers.get("Content-Length")
    return _Promise(int(length) if length is not None else None, strong, sha256)


def _retry_after_s(response: requests.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0


def _in_words(error: requests.RequestException) -> str:
    """What a person needs of the error: requests wraps urllib3, which wraps what happened."""
    if isinstance(error, requests.Timeout):
        return "the server fell silent"
    cause: Any = error.args[0] if error.args else error
    reason = getattr(cause, "reason", cause)
    if isinstance(reason, urllib3.exceptions.ProtocolError):
        reason = reason.args[-1]
    return re.sub(r"^(<[^>]*>|\w+\([^)]*\)): ", "", str(reason))[:200]
