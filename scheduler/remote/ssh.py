"""The one way to the head: the system's ssh, and every failure of it in words. Knows nothing of labs.

What comes from there is bounded and cleaned. Not so a screen that the head draws on this terminal (`show`).
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import IO, Any

from scheduler.domain.errors import ArschedError, LabProblem
from scheduler.remote.login import Login
from scheduler.remote.wire import MARK, MOST_BYTES, Request, encode, harmless, read_answer

CONNECT_S, ALIVE_S, ALIVE_COUNT = 15, 15, 4  # a link that is dead for a minute is one
LONGEST_ARGUMENT = 100_000  # of a request on a command line; Linux allows 128 KiB
LINE_CHARACTERS, ERRORS_BYTES = 65536, 65536  # of a line handed on at once; kept of what ssh says
LAST_WORDS_S = 10.0  # a program that ssh started may hold its output open
_OPTIONS = (
    *("ControlMaster=no", "ControlPath=none", f"ConnectTimeout={CONNECT_S}", f"ServerAliveInterval={ALIVE_S}"),
    *(f"ServerAliveCountMax={ALIVE_COUNT}", "StrictHostKeyChecking=accept-new", "LogLevel=ERROR"),
    *("ForwardAgent=no", "ForwardX11=no", "PermitLocalCommand=no", "RemoteCommand=none", "ClearAllForwardings=yes"),
)
_FAILED = 255  # of ssh itself
# The first that matches what ssh said counts: what it means, and what to do.
_CAUSES = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key verification failed",
        "{target} shows another host key than it did before",
        "if that machine was set up anew: ssh-keygen -R {address}; if not, find out who answers there",
    ),
    (
        r"UNPROTECTED PRIVATE KEY|bad permissions",
        "ssh refuses the key {key}: others may read it",
        "chmod 600 {key_file}",
    ),
    (
        r"Permission denied|Too many authentication failures|no mutual signature|invalid format|error in libcrypto",
        "{target} refuses the key {key}",
        "see that auth.ssh_user and auth.ssh_private_key are right: {typed}; a key with a passphrase goes into "
        "ssh-agent: {add}",
    ),
    (
        r"Could not resolve hostname|Name or service not known",
        "no machine is known by the name {address}",
        "see provider.head_ip in {path}",
    ),
    (
        r"Connection refused",
        "{address} refuses ssh: no sshd listens there",
        "see provider.head_ip in {path}, and that sshd runs on that machine",
    ),
    (
        r"timed out|No route to host|Network is unreachable|Host is down",
        "{address} cannot be reached",
        "see that it is on, and that this machine is in its network (VPN); provider.head_ip in {path}",
    ),
    (r"Bad configuration option|Bad owner or permissions on", "ssh cannot be used here: {said}", "mend that file"),
)  # fmt: skip
# How lines of ssh itself begin, among those of what it runs.
_OF_SSH = re.compile(
    r"(ssh|kex|client_loop|packet_write|Connection |Connection to |Timeout|Read from|Write failed|Received disconnect|"
    r"Host key|Permission denied|Permissions |\S+@\S+: |Too many auth|Load key|Bad |"
    r"\S+: line \d|@?\s*WARNING: |UNPROTECTED)"
)


def command(login: Login, *, terminal: bool) -> list[str]:
    """The ssh that runs the head's side. `terminal`: a person may be asked for a passphrase, and sees a screen."""
    options = [*_OPTIONS, *(() if terminal or _at_terminal() else ("BatchMode=yes",))]
    # Not -i, whose file must be there by the name as it stands, while ssh opens it with its % expanded.
    named = (f'IdentityFile="{str(login.key).replace("%", "%%")}"', "IdentitiesOnly=yes") if login.key else ()
    there = f"exec {login.program('python')} -P -m scheduler.remote.head"
    words = [word for option in (*options, *named) for word in ("-o", option)]
    return ["ssh", "-tt" if terminal else "-T", *words, "-l", login.user, "--", login.address, there]


def _at_terminal() -> bool:
    return os.isatty(0)


def ask(login: Login, request: Request, data: bytes = b"") -> dict[str, Any]:
    """The head's answer to one question. Raises the head's problem, LabProblem for what is wrong with the way there."""
    process, errors = _start(login, terminal=False), list[bytes]()
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    with _ended(process), process.stdout as source:
        helpers = _threads((_feed, process.stdin, _line(request) + data), (_gather, process.stderr, errors))
        output = source.read(MOST_BYTES + 1)
        if len(output) > MOST_BYTES:
            hint = f"see what its shell prints there: ssh {login.target} true"
            raise LabProblem(f"{login.target} answers with more than {MOST_BYTES >> 20} MiB", hint)
        code = process.wait()
        for helper in helpers:
            helper.join(LAST_WORDS_S)
    found = read_answer(output.decode("utf-8", "replace"))
    if found is None:
        raise failure(login, code, b"".join(errors).decode("utf-8", "replace"))
    return found


def _threads(*works: tuple[Any, ...]) -> list[Thread]:
    threads = [Thread(target=work[0], args=work[1:], daemon=True) for work in works]
    for thread in threads:
        thread.start()
    return threads


def _feed(stdin: IO[bytes], data: bytes) -> None:
    with suppress(BrokenPipeError), stdin:  # then it says why
        stdin.write(data)


def _gather(source: IO[bytes], kept: list[bytes]) -> None:
    """The beginning; the rest is read, so that its writer goes on."""
    with source:
        while part := os.read(source.fileno(), ERRORS_BYTES):
            if sum(map(len, kept)) < ERRORS_BYTES:
                kept.append(part)


def can_show(request: Request) -> bool:
    """Whether it is short enough for a command line."""
    return len(encode(request)) < LONGEST_ARGUMENT


def show(login: Login, request: Request) -> int:
    """Run a verb there with this terminal as its own. Returns its exit code. Raises LabProblem."""
    words = command(login, terminal=True)
    words[-1] += f" {encode(request)}"
    process = _popen(words, None, None)
    with process:
        _, errors = process.communicate()
    if process.returncode == _FAILED or process.returncode < 0:  # or it was killed
        raise failure(login, _FAILED, errors.decode("utf-8", "replace"), begun=True)
    return process.returncode


Take = Callable[[str], None]


def follow(login: Login, request: Request, output: Take, talk: Take) -> int:
    """Run a verb there and hand on its stdout and stderr, line by line, in the order they come. Returns its exit code.

    The head's side sees that this end has gone by its stdin. Raises LabProblem, and OSError of `output` and `talk`;
    KeyboardInterrupt ends the ssh.
    """
    process, said, begun = _start(login, terminal=False), list[str](), list[str]()
    failed: list[Exception] = []

    def take(text: str) -> None:  # a login shell's noise comes before the head's side has begun
        if begun:
            output(text)
        elif text.startswith(MARK):
            begun.append(text)

    def tell(text: str) -> None:
        said[:] = [*said[-20:], text]
        talk(text)

    with _ended(process):
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # then it says why
            process.stdin.write(_line(request))
            process.stdin.flush()
        pumps = _threads(
            *((_pump, process, *pair, failed) for pair in ((process.stdout, take), (process.stderr, tell)))
        )
        code = process.wait()
        with suppress(BrokenPipeError):
            process.stdin.close()
        for pump in pumps:
            pump.join(LAST_WORDS_S)
    if failed:
        raise failed[0]
    code = _FAILED if code < 0 else code  # ssh was killed
    if code in (_FAILED, 127, 126) or not begun:
        raise failure(login, code, "".join(said), begun=bool(begun))
    read_answer(begun[0])
    return code


def _pump(process: subprocess.Popen[bytes], source: IO[bytes], take: Take, failed: list[Exception]) -> None:
    with io.TextIOWrapper(source, "utf-8", "replace", newline="\n") as lines:
        try:
            while line := lines.readline(LINE_CHARACTERS):
                take(harmless(line))
        except (OSError, ValueError) as problem:  # whoever read our stdout has gone, or its disk is full
            failed.append(problem)
            process.terminate()


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _line(request: Request) -> bytes:
    return f"{encode(request)}\n".encode()


def _start(login: Login, *, terminal: bool) -> subprocess.Popen[bytes]:
    return _popen(command(login, terminal=terminal), subprocess.PIPE, subprocess.PIPE)


def _popen(words: list[str], stdin: int | None, stdout: int | None) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(words, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise LabProblem("ssh cannot be run", "install an OpenSSH client (apt install openssh-client)") from None


def failure(login: Login, code: int, errors: str, *, begun: bool = False) -> ArschedError:
    """Why ssh, or the shell on the head, gave no answer. `begun`: a verb was started, whose lines may be there."""
    errors = harmless(errors)
    if begun:  # what a verb said is no word of ssh's
        errors = "\n".join(line for line in errors.splitlines() if _OF_SSH.match(line))
    said = [line.strip() for line in errors.splitlines() if line.strip()]
    key = shlex.quote(str(login.key)) if login.key else ""
    words = {
        "target": login.target, "address": login.address, "path": shlex.quote(str(login.path)),
        "key": login.key or "that ssh offers", "key_file": key or "~/.ssh/id_*",
        "typed": f"ssh -i {key} {login.target}" if key else f"ssh {login.target}", "add": f"ssh-add {key}".rstrip(),
        "said": said[-1].rstrip(".") if said else f"exit code {code}",
    }  # fmt: skip
    if code in (126, 127) or "No module named" in errors:
        what = "arsched is not installed on {target} (no {programs}), or not whole"
        hint = "ray up {path} puts it there; while that is at work, wait for its end"
    elif code == _FAILED:
        known = next((cause for cause in _CAUSES if re.search(cause[0], errors)), None)
        lost = "the connection to {target} was lost" if begun else "no connection to {target}"
        what = f"{lost}: {{said}}" if said or not begun else lost
        _, what, hint = known or ("", what, "the same command again, when the network is back")
        if begun:
            hint = f"what was begun there goes on; {hint}"
    elif "No space left" in errors or "Disk quota" in errors:
        what, hint = "the disk of {target} is full: {said}", "make room there, and run the same command again"
    else:
        what, hint = "{target} gave no answer: {said}", "see what its shell prints there: ssh {target} true"
    return LabProblem(what.format(**words, programs=login.programs), hint.format(**words))
