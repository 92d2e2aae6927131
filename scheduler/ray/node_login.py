"""How the nodes of a cluster.yaml are reached: their addresses, the user, the key. What of it cannot work.

Reads the key's file; looks up no name and tries no login.
"""

from __future__ import annotations

import binascii
import ipaddress
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

EXAMPLE_NETWORK = ipaddress.ip_network("192.0.2.0/24")  # RFC 5737: for documents, never routed
HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
LONGEST_KEY = 1 << 16
KEY_MAGIC = b"openssh-key-v1\0"


def address_problems(provider: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on head_ip and worker_ips of a `provider` that rents nothing. Names are taken as they are."""
    if provider.get("type") != "local":
        yield f"provider.type is {provider.get('type')!r}; machines reached by SSH need 'local'"
        return
    if not isinstance(provider.get("worker_ips"), list):
        yield "provider.worker_ips must be a list, [] for one node"
    head, workers = provider.get("head_ip"), worker_ips(provider)
    yield from _one_address("provider.head_ip", head, is_head=True, alone=not workers)
    for worker in workers:
        yield from _one_address("provider.worker_ips", worker)
    listed = Counter(str(each).lower() for each in (head, *workers) if each)
    yield from (f"{address} is listed twice" for address, times in sorted(listed.items()) if times > 1)


def _one_address(where: str, given: Any, *, is_head: bool = False, alone: bool = False) -> Iterator[str]:
    """`alone`: no other node has to find it."""
    text, address = str(given or ""), address_of(str(given or ""))
    if not text:
        yield f"{where} is missing" if is_head else f"{where} has an empty entry"
    elif is_example(text):
        yield f"{text} is the address of the example: put your machine's there"
    elif address is not None and address.version == 6:
        yield f"{where} {text} is an IPv6 address: `ray up` finds machines by IPv4 only; give that one"
    elif address is not None and (address.is_unspecified or (address.is_loopback and not alone)):
        yield f"{where} {text} means another machine on every node: give the address that nodes have among themselves"
    elif address is None and (not HOST_NAME.fullmatch(text) or re.fullmatch(r"[0-9.]+", text)):
        yield f"{where} {text!r} is no IPv4 address: give one for each machine, without a user, port or blank"
    elif address is None and is_head:
        yield (
            f"{where} {text} is a name: on the head itself it mostly means 127.0.1.1 (/etc/hosts), where no "
            "worker finds it; give the head's address"
        )


def login_problems(auth: Mapping[str, Any], *, makes_keys: bool, has_workers: bool) -> Iterator[str]:
    """Sentences on `auth`. `makes_keys`: Ray does so itself, in a cloud; `has_workers`: the head logs in, too."""
    if not auth.get("ssh_user"):
        yield "auth.ssh_user is missing: `ray up` could log in nowhere"
    key = auth.get("ssh_private_key")
    if not key and makes_keys:
        return
    if not key:
        yield "auth.ssh_private_key is missing: the head needs it to set up the workers"
    else:
        yield from (f"auth.ssh_private_key {key} {problem}" for problem in _key_problems(str(key), has_workers))


def _key_problems(name: str, has_workers: bool) -> Iterator[str]:
    """Ends of a sentence that begins with the key's name. `has_workers`: the head logs in with it, too."""
    path = Path(os.path.expanduser(name))
    try:
        with path.open("rb") as file:
            content, facts = file.read(LONGEST_KEY), os.fstat(file.fileno())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        yield "does not exist here: make one with ssh-keygen, or name yours"
        return
    except OSError as problem:
        yield f"cannot be read here: {problem.strerror}"
        return
    if "%" in name:
        yield "has a % in its path, which ssh reads otherwise when `ray up` gives it: rename the file"
    if content.startswith((b"ssh-", b"ecdsa-", b"sk-")):
        yield "is a public key: name the private one, without .pub"
    if content.startswith(b"-----BEGIN"):
        if facts.st_uid == os.getuid() and stat.S_IMODE(facts.st_mode) & 0o077:
            yield f"can be read by others, so ssh refuses it: chmod 600 {name}"
        if has_workers and _has_passphrase(content):
            yield "has a passphrase, which the head could not type: give the cluster a key of its own without one"


def _has_passphrase(content: bytes) -> bool:
    """Of a key in PEM, or in OpenSSH's own form (its PROTOCOL.key: magic, length and name of the cipher)."""
    lines = content.splitlines()
    try:
        body = binascii.a2b_base64(b"".join(line for line in lines if not line.startswith(b"-----")))
    except binascii.Error:
        return b"ENCRYPTED" in content
    if not body.startswith(KEY_MAGIC):
        return b"ENCRYPTED" in content
    start = len(KEY_MAGIC) + 4
    length = int.from_bytes(body[len(KEY_MAGIC) : start])
    return body[start : start + length] != b"none"


def worker_ips(provider: Mapping[str, Any]) -> list[Any]:
    """As they are listed, empty and wrong ones among them; none where there is no list."""
    found = provider.get("worker_ips")
    return found if isinstance(found, list) else []


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for a name, or what is no address."""
    with suppress(ValueError):
        return ipaddress.ip_address(text)
    return None


def is_example(address: str) -> bool:
    """Whether it is one that the file was shipped with."""
    return (found := address_of(address)) is not None and found in EXAMPLE_NETWORK
