"""How to reach the head that a cluster.yaml names: address, user, key, and where arsched lies there.

Reads the file only. What else is wrong with it, `arsched doctor` says.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scheduler.domain.errors import UsageProblem
from scheduler.ray.cluster_config import read_cluster_config

PROGRAMS = "~/arsched/.venv/bin"  # where the cluster.yaml that ships puts them
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:%-]*[A-Za-z0-9])?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@\\-]*\$?")
_FOLDER = re.compile(r"(\S*/)ray\s+start\b")
_NO_KEY = re.compile(r"[\x00-\x1f\x7f\"\\]|\$\{")  # what ssh's reader of options cannot be given
_FOR_ARSCHED = re.compile(r"(RAY_AUTH_MODE|ARSCHED_[A-Z_]+)=(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Login:
    """`programs` is the folder of arsched and its Python on the head, with a leading ~ for the home there.

    `environ` are variables that Ray is started with there and arsched needs as well, with ~ and $HOME as they
    stand. `key` None: as ssh chooses.
    """

    path: Path
    address: str
    user: str
    key: Path | None
    programs: str = PROGRAMS
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def target(self) -> str:
        return f"{self.user}@{self.address}"

    @property
    def ref_name(self) -> str:
        """USER@HEAD as a part of a ref's name: two users of one head have two labs."""
        name = re.sub(r"[^A-Za-z0-9.@_-]", "-", self.target)
        return re.sub(r"\.{2,}|\.lock$|^\.|\.$", "-", name)

    def program(self, name: str) -> str:
        """As a shell on the head reads it."""
        home, _, rest = self.programs.partition("/") if self.programs.startswith("~/") else ("", "", "")
        return f"{home}/{shlex.quote(f'{rest}/{name}')}" if home else shlex.quote(f"{self.programs}/{name}")


def read_login(path: Path) -> Login:
    """Raises UsageProblem where the file names no head that could be reached."""
    config = read_cluster_config(path)
    documents = yaml.safe_load_all(path.read_text(encoding="utf-8"))  # a manifest of Kubernetes may have several
    raw: Any = next((one for one in documents if isinstance(one, dict)), {})
    provider, auth = (raw.get(key) if isinstance(raw.get(key), dict) else {} for key in ("provider", "auth"))
    if config.is_example:
        what = f"{path} still has the example's address {config.head}, where no machine is"
        raise UsageProblem(what, "put your head's address, user and key into it (the lines marked <--)")
    if not config.head:
        what = f"{path} has no provider.head_ip (its provider is {provider.get('type')!r})"
        raise UsageProblem(what, f"make a copy with `type: local` and `head_ip:` as `ray get-head-ip {path}` prints it")
    user = str(auth.get("ssh_user") or "")
    for name, value, form in (("provider.head_ip", config.head, _HOST), ("auth.ssh_user", user, _USER)):
        if not form.fullmatch(value):
            what = f"{path}: {name} is {value!r}, which ssh could not use" if value else f"{path} has no {name}"
            raise UsageProblem(what, f"write {name} as you would type it for ssh")
    commands = raw.get("head_start_ray_commands")
    start = " ".join(map(str, commands)) if isinstance(commands, list) else ""
    folder = _FOLDER.search(start)
    programs = folder[1].rstrip("/").replace("$HOME", "~").replace("${HOME}", "~") if folder else PROGRAMS
    return Login(path, config.head, user, _key(path, auth), programs, _environ(start))


def _environ(start: str) -> dict[str, str]:
    """Variables that are set in shell commands; a ~ or $HOME in one is the head's, and is read there."""
    lexer = shlex.shlex(start, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError:  # a quote that does not end
        words = start.split()
    return {found[1]: found[2] for word in words if (found := _FOR_ARSCHED.fullmatch(word))}


def _key(path: Path, auth: dict[str, Any]) -> Path | None:
    if not auth.get("ssh_private_key"):
        return None
    key = Path(os.path.expanduser(str(auth["ssh_private_key"]))).absolute()
    if _NO_KEY.search(str(key)):
        what = f"{path}: ssh cannot be given the key {str(key)!r}: quotes, backslashes, control characters or ${{"
        raise UsageProblem(what, "give the key's file another name")
    if not key.is_file():
        what = f"{path}: the key {auth['ssh_private_key']} does not exist here"
        raise UsageProblem(what, "make one with ssh-keygen, or name yours at auth.ssh_private_key")
    return key


def refuse_other_cluster(login: Login, address: str | None) -> None:
    """Raises UsageProblem where --address or RAY_ADDRESS names another cluster than the file does."""
    for name, value in (("--address", address), ("RAY_ADDRESS", os.environ.get("RAY_ADDRESS"))):
        host = re.sub(r"^\w+://|:\d+$", "", value or "").strip("[]")
        if host and host not in ("auto", login.address):
            what = f"{name} is {value}, and --cluster {login.path} means the cluster of {login.address}"
            hint = "leave --address out" if name == "--address" else "unset RAY_ADDRESS"
            raise UsageProblem(what, f"{hint}; or run the command without --cluster")
