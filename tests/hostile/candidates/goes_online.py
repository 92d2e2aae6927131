"""Fetches weights from elsewhere; the suite listens on the machine's own addresses and on a socket file."""

EXPECTED = "ok"
import socket

for family, kind, address in (
    (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", LISTENING_PORT)),
    (socket.AF_INET, socket.SOCK_STREAM, (LISTENING_HOST, LISTENING_PORT)),
    (socket.AF_UNIX, socket.SOCK_STREAM, LISTENING_PATH),
    (socket.AF_UNIX, socket.SOCK_STREAM, "\0" + LISTENING_NAME),
):
    with attempt(f"{family.name} {address}"), socket.socket(family, kind) as peer:
        peer.settimeout(2)
        peer.connect(address)
with attempt("UDP to another machine"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
    peer.sendto(b"x", ("192.0.2.1", 53))
with attempt("a name"):
    socket.getaddrinfo("example.org", 443)
with attempt("raw packets"), socket.socket(socket.AF_PACKET, socket.SOCK_RAW):
    pass
scored_honestly()
