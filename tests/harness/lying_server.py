"""A real HTTP server on loopback that plays the hub, and serves files the way bad servers and bad lines do.

Each GET takes the next misbehaviour of the script for its path, each HEAD that of `heads`; when the script is used up,
it behaves. HEAD has size and etag; a GET is answered at once, or redirected to `storage`, another host's name.
"""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Misbehaviour = Callable[["_Handler", bytes], None]


@dataclass
class LyingServer:
    """`files` by name (the last part of the path); `script`, `heads` by name.

    `requests`: GETs as they came, (name, Range); `tokens`: the authorization of each request, by the host asked.
    """

    files: dict[str, bytes]
    url: str = ""
    script: dict[str, list[Misbehaviour]] = field(default_factory=dict)
    heads: dict[str, list[Misbehaviour]] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    tokens: list[tuple[str, str | None]] = field(default_factory=list)
    storage: str = ""
    etag: str = '"one"'
    with_sha256: bool = True
    released: threading.Event = field(default_factory=threading.Event)

    def ranges(self, name: str) -> list[str | None]:
        return [asked for asked_name, asked in self.requests if asked_name == name]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lying: LyingServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        if self.lying.storage and not self.path.startswith("/storage/"):
            self.serve(
                name, [lambda handler, _: handler.begin(302, 0, Location=f"{self.lying.storage}/storage/{name}")]
            )
            return
        self.lying.requests.append((name, self.headers.get("Range")))
        self.serve(name, self.lying.script.get(name, []))

    def do_HEAD(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        self.serve(name, self.lying.heads.get(name, []))

    def serve(self, name: str, script: list[Misbehaviour]) -> None:
        self.lying.tokens.append((self.headers["Host"].partition(":")[0], self.headers.get("Authorization")))
        content = self.lying.files.get(name)
        if content is None:
            status(404, X_Error_Code="EntryNotFound")(self, b"")
        else:
            (script.pop(0) if script else behave)(self, content)
        self.close_connection = True

    def write(self, content: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(content)

    def begin(self, code: int, length: int, **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def identity(self, content: bytes) -> dict[str, str]:
        known = {"ETag": self.lying.etag}
        if self.lying.with_sha256:
            known["X_Linked_ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        return known

    def asked_from(self) -> int:
        """First byte the client wants."""
        asked = self.headers.get("Range")
        return int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0


def behave(handler: _Handler, content: bytes) -> None:
    send_part(handler, content, len(content))


def send_part(handler: _Handler, content: bytes, up_to: int) -> None:
    first = handler.asked_from()
    headers = handler.identity(content)
    if first:
        headers["Content_Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
    handler.begin(206 if first else 200, len(content) - first, **headers)
    handler.write(content[first : max(first, up_to)])


def truncate(up_to: int) -> Misbehaviour:
    """Promise everything, close after byte `up_to`."""
    return lambda handler, content: send_part(handler, content, up_to)


def stall(up_to: int) -> Misbehaviour:
    """Promise everything, say nothing more after byte `up_to` until the test is over."""

    def misbehave(handler: _Handler, content: bytes) -> None:
        send_part(handler, content, up_to)
        handler.wfile.flush()
        handler.lying.released.wait(30)

    return misbehave


def status(code: int, **headers: str) -> Misbehaviour:
    return lambda handler, _: handler.begin(code, 0, **headers)


def ignore_range(up_to: int | None = None) -> Misbehaviour:
    """Serve from the first byte whatever was asked."""

    def misbehave(handler: _Handler, content: bytes) -> None:
        handler.begin(200, len(content), **handler.identity(content))
        handler.write(content[:up_to])

    return misbehave


def wrong_place(handler: _Handler, content: bytes) -> None:
    """Go on ten bytes before the place that was asked for."""
    first = max(0, handler.asked_from() - 10)
    headers = handler.identity(content) | {"Content_Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
    handler.begin(206, len(content) - first, **headers)
    handler.write(content[first:])


def other_content(other: bytes) -> Misbehaviour:
    """Serve other bytes under the promise made for the right ones."""

    def misbehave(handler: _Handler, content: bytes) -> None:
        handler.begin(200, len(other), **handler.identity(content))
        handler.write(other)

    return misbehave


def login_page(handler: _Handler, _: bytes) -> None:
    """What a captive portal answers to everything."""
    page = b"<html>please log in</html>"
    handler.begin(200, len(page), Content_Type="text/html")
    handler.write(page)


def slam(handler: _Handler, _: bytes) -> None:
    """Close the connection without a word."""
    handler.connection.close()


@contextmanager
def lying_server(files: dict[str, bytes]) -> Iterator[LyingServer]:
    """Serve `files` on a free port of loopback until the block ends."""
    lying = LyingServer(files)
    handler = type("Handler", (_Handler,), {"lying": lying})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        lying.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield lying
        finally:
            lying.released.set()
            server.shutdown()
            thread.join()
