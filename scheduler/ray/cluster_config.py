"""Reads cluster.yaml and finds what Ray itself would only notice half-way through `ray up`, or never.

Ray checks the form (its schema) and stops at typos with a readable message; it accepts a file without SSH login, with
mounts from paths that do not exist, with addresses left as they were shipped. Contacts and runs nothing, needs no Ray.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import shlex
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from scheduler.domain.errors import UsageProblem

KNOWN_KEYS = (
    "cluster_name", "max_workers", "upscaling_speed", "idle_timeout_minutes", "provider", "auth", "docker",
    "head_node_type", "file_mounts", "cluster_synced_files", "file_mounts_sync_continuously", "rsync_exclude",
    "rsync_filter", "metadata", "initialization_commands", "setup_commands", "head_setup_commands",
    "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands", "no_restart",
    "available_node_types",
)  # fmt: skip
RAY_CLUSTER = "RayCluster"  # kind of KubeRay's manifest
CLOUDS = ("aws", "gcp", "azure", "aliyun", "vsphere", "readonly", "kuberay", "spark")
HEAD_ADDRESS = r"""--node-ip-address=$(sed -E 's/.*"head_ip": *"([^"]+)".*/\1/' ~/ray_bootstrap_config.yaml)"""
HEAD_SETUP_KEYS = ("initialization_commands", "setup_commands", "head_setup_commands")
PATH_LINE = (  # begins with a line end: the last line of a .bashrc may lack its own
    "grep -qs '^export PATH={home}{bin}' ~/.bashrc || "
    r"printf '\nexport PATH={home}{bin}:$PATH RAY_AUTH_MODE={mode}\n' >> ~/.bashrc"
)
HOME = re.compile(r"^(~|\$HOME|\$\{HOME\}|/home/[^/]+|/root)/")
STARTUP_FILE = re.compile(r"(>|\btee\b|\bsed\b)[^|;&]*(\.(bashrc|bash_profile|bash_login|profile)\b|/etc/profile)")
EXAMPLE_NETWORK = ipaddress.ip_network("192.0.2.0/24")  # RFC 5737: for documents, never routed
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
SEPARATORS = frozenset(";&|()")
EXPORTS = ("export", "declare")
SHELLS = ("bash", "sh", "dash")


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """What arsched itself reads of a cluster.yaml; `problems` are sentences, empty when `ray up` can be tried."""

    path: Path
    name: str  # of the cluster
    addresses: tuple[str, ...]  # of every node that should be there, the head's first; empty in a cloud: Ray knows
    user: str  # who logs in there
    worker_start_command: str
    is_example: bool  # as shipped, without an address of the user's
    problems: tuple[str, ...]
    rented: int = 0  # nodes that a cloud's or Kubernetes' autoscaler keeps at least, the head among them

    @property
    def head(self) -> str:
        return self.addresses[0] if self.addresses else ""

    @property
    def nodes(self) -> int:
        """How many there should be at least."""
        return len(self.addresses) or self.rented


@dataclass(frozen=True, slots=True)
class Call:
    """A program with its arguments (`words`, quotes removed), and the variables that the line sets for it."""

    words: tuple[str, ...]
    environ: dict[str, str]


def read_cluster_config(path: Path) -> ClusterConfig:
    """Parse and check a cluster.yaml. Raises UsageProblem when it cannot be read at all."""
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))  # a manifest may have several
    except OSError as problem:
        raise UsageProblem(f"{path} cannot be read: {problem.strerror}", "give the path of a cluster.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise UsageProblem(f"{path} is not YAML: {' '.join(str(problem).split())}", "fix that line") from None
    pods = next((one for one in documents if isinstance(one, dict) and one.get("kind") == RAY_CLUSTER), None)
    if pods is not None:  # Kubernetes checks its words itself
        name = str(_mapping(pods, "metadata").get("name") or "")
        return ClusterConfig(path, name, (), "", "", False, (), _least_pods(_mapping(pods, "spec")))
    raw = documents[0] if len(documents) == 1 else None
    if not isinstance(raw, dict):
        raise UsageProblem(f"{path} holds no settings", "start from the cluster.yaml that ships with arsched")
    provider = _mapping(raw, "provider")
    workers = provider.get("worker_ips")
    head, listed = str(provider.get("head_ip") or ""), workers if isinstance(workers, list) else []
    addresses = () if _is_cloud(provider) else (head, *map(str, listed))
    return ClusterConfig(
        path,
        str(raw.get("cluster_name") or ""),
        addresses,
        str(_mapping(raw, "auth").get("ssh_user") or ""),
        str((raw.get("worker_start_ray_commands") or [""])[-1]),
        _is_example(head),
        tuple(_problems(raw, path.parent)),
        _least_rented(raw) if _is_cloud(provider) else 0,
    )


def _least_rented(raw: Mapping[str, Any]) -> int:
    """The head and every node type's min_workers, no more than the cluster's max_workers.

    Source: ray.autoscaler._private.resource_demand_scheduler, `_add_min_workers_nodes`; Ray's own default is none.
    """
    types = _mapping(raw, "available_node_types").values()
    least = sum(_count(one.get("min_workers")) for one in types if isinstance(one, dict))
    most = raw.get("max_workers")
    return 1 + (min(least, _count(most)) if most is not None else least)


def _least_pods(spec: Mapping[str, Any]) -> int:
    """The head and each group's replicas (its minReplicas where none are named), of numOfHosts pods each."""
    groups = [group for group in spec.get("workerGroupSpecs") or () if isinstance(group, dict)]
    pods = (
        _count(group.get("replicas", group.get("minReplicas"))) * max(1, _count(group.get("numOfHosts")))
        for group in groups
    )
    return 1 + sum(pods)


def _count(value: object) -> int:
    return max(0, value) if isinstance(value, int) else 0


def _problems(raw: Mapping[str, Any], folder: Path) -> Iterator[str]:
    for key in raw:
        if key not in KNOWN_KEYS:
            near = difflib.get_close_matches(str(key), KNOWN_KEYS, n=1)
            yield f"unknown key {key!r}" + (f": did you mean {near[0]!r}?" if near else "")
    provider = _mapping(raw, "provider")
    cloud = _is_cloud(provider)
    yield from () if cloud else _address_problems(provider)
    yield from _login_problems(_mapping(raw, "auth"), makes_keys=cloud)
    yield from _mount_problems(_mapping(raw, "file_mounts"), folder)
    head_start = yield from _start_problems(raw, "head_start_ray_commands", " --head")
    if provider.get("worker_ips") or cloud:
        yield from _start_problems(raw, "worker_start_ray_commands", "--address=$RAY_HEAD_IP")
    if head_start is not None:
        yield from _path_problems(raw, head_start)
        if provider.get("worker_ips") and not any(word.startswith("--node-ip-address") for word in head_start.words):
            yield (
                "head_start_ray_commands has no --node-ip-address: a head without a default route calls itself "
                f"127.0.1.1, and no worker finds it; add to `ray start`: {HEAD_ADDRESS}"
            )


def _address_problems(provider: Mapping[str, Any]) -> Iterator[str]:
    if provider.get("type") != "local":
        yield f"provider.type is {provider.get('type')!r}; machines reached by SSH need 'local'"
        return
    if not _is_address(head := str(provider.get("head_ip") or "0.0.0.0")):
        yield (
            f"provider.head_ip {head} is a name: on the head itself it mostly means 127.0.1.1 (/etc/hosts), where no "
            "worker finds it; give the head's address"
        )
    workers = provider.get("worker_ips")
    if not isinstance(workers, list):
        yield "provider.worker_ips must be a list, [] for one node"
        workers = []
    addresses = [provider.get("head_ip"), *workers]
    for address in addresses:
        if not address:
            yield "provider.head_ip is missing"
        elif _is_example(str(address)):
            yield f"{address} is the address of the example: put your machine's there"
    for address in sorted({str(each) for each in addresses if addresses.count(each) > 1}):
        yield f"{address} is listed twice"


def _login_problems(auth: Mapping[str, Any], *, makes_keys: bool) -> Iterator[str]:
    if not auth.get("ssh_user"):
        yield "auth.ssh_user is missing: `ray up` could log in nowhere"
    key = auth.get("ssh_private_key")
    if not key and makes_keys:
        return
    if not key:
        yield "auth.ssh_private_key is missing: the head needs it to set up the workers"
    elif not Path(os.path.expanduser(str(key))).is_file():
        yield f"auth.ssh_private_key {key} does not exist here: make one with ssh-keygen, or name yours"


def _mount_problems(mounts: Mapping[str, Any], folder: Path) -> Iterator[str]:
    for there, here in mounts.items():
        source = Path(os.path.expanduser(str(here)))
        if (folder / source).exists():
            continue
        if source.name == "auth_token":
            yield f"there is no token at {here} yet: make it with `ray get-auth-token --generate`"
        else:
            yield f"file_mounts: {here} (for {there}) does not exist; paths count from where `ray up` is called"


def _start_problems(raw: Mapping[str, Any], key: str, sign: str) -> Generator[str, None, Call | None]:
    """Returns the last call of `ray start` among the commands, None without one."""
    try:
        starts = [call for command in _commands(raw, key) for call in _ray_starts(command, {})]
    except ValueError as problem:
        yield f"{key}: the shell could not read this line ({problem}): close its quotes"
        return None
    start = starts[-1] if starts else None
    if start is None or sign not in f" {' '.join(start.words)}":
        yield f"{key} has no `ray start` with {sign.strip()}"
        return start
    local = not _is_cloud(_mapping(raw, "provider"))
    if local and start.environ.get("RAY_enable_autoscaler_v2", "").lower() not in ("0", "false"):
        yield (
            f"{key} starts Ray without RAY_enable_autoscaler_v2=0: `ray up` turns version 2 of its autoscaler on, "
            "which silently leaves out one worker; write RAY_enable_autoscaler_v2=0 in front of `ray start`"
        )
    if start.environ.get("RAY_worker_niceness") != "0":
        yield f"{key} starts Ray without RAY_worker_niceness=0: runs would be starved on a busy node"
    if "RAY_AUTH_MODE" not in start.environ:
        yield f"{key} does not set RAY_AUTH_MODE (token or disabled): nodes that differ in it cannot join"
    if start.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL") != "minor":
        yield (
            f"{key} starts Ray without RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL=minor: Ray refuses a node whose Python "
            "differs in the last digit, and only its monitor.out says so"
        )
    return start


def _path_problems(raw: Mapping[str, Any], start: Call) -> Iterator[str]:
    """Ray ends a cluster with a bare `ray stop` on the head, in a shell that has read the user's startup files."""
    folder = HOME.sub("", start.words[0].rpartition("/")[0])
    mode = start.environ.get("RAY_AUTH_MODE", "token")
    written = [command for key in HEAD_SETUP_KEYS for command in _commands(raw, key) if STARTUP_FILE.search(command)]
    place = re.escape(folder or "bin")
    on_path = re.compile(rf"\bPATH=\S*{place}|(\bsource|\.)\s\S*{place}/activate")
    mode_set = re.compile(rf"(export|declare -x)\b[^;&|\n]*\bRAY_AUTH_MODE=\W{{0,2}}{re.escape(mode)}\b")
    if not all(any(wanted.search(command) for command in written) for wanted in (on_path, mode_set)):
        folder = folder or "arsched/.venv/bin"
        yield (
            f"no setup command puts {folder} on the head's PATH together with RAY_AUTH_MODE={mode}: `ray down` calls "
            "a bare `ray stop` there, and would end nothing and report success, and `ray status` would be refused; "
            f"add to setup_commands: {PATH_LINE.format(bin=folder, home='' if folder[0] == '/' else '~/', mode=mode)}"
        )


def _commands(raw: Mapping[str, Any], key: str) -> list[str]:
    found = raw.get(key)
    return [str(command) for command in found] if isinstance(found, list) else []


def _is_cloud(provider: Mapping[str, Any]) -> bool:
    """Whether Ray rents the nodes: it knows their addresses, and makes keys and a way between them."""
    return provider.get("type") in CLOUDS


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def _is_example(address: str) -> bool:
    return _is_address(address) and ipaddress.ip_address(address) in EXAMPLE_NETWORK


def _mapping(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}


def _ray_starts(line: str, outer: dict[str, str]) -> Iterator[Call]:
    """Every call of `ray start …` in a line for the shell, in order, whatever folder and launchers precede it.

    Reads lists (`;`, `&&`, `||`, `|`, brackets), assignments, `env`, `export` and `bash -c`; not loops, functions,
    here-documents or redirections, whose words stand among those of a call. `outer`: variables exported before the
    line. Raises ValueError where a quote is left open.
    """
    exported = dict(outer)
    for words in _simple_commands(line):
        if words[:1] and words[0] in EXPORTS:
            exported |= _assigned(words)
        for place, pair in enumerate(pairwise([*words, ""])):
            here = exported | _assigned(words[:place])
            name = pair[0].rpartition("/")[2]
            if (name, pair[1]) == ("ray", "start"):
                yield Call(tuple(words[place:]), here)
            elif name in SHELLS:  # what stands behind its -c (or -lc)
                options = pairwise(words[place:])
                script = next((script for option, script in options if re.fullmatch(r"-[a-z]*c[a-z]*", option)), "")
                yield from _ray_starts(script, here)


def _simple_commands(line: str) -> Iterator[list[str]]:
    for part in line.replace("\\\n", " ").splitlines():
        reader = shlex.shlex(part, posix=True, punctuation_chars="".join(SEPARATORS))
        reader.whitespace_split, reader.commenters = True, ""
        words: list[str] = []
        for word in reader:
            if word.startswith("#"):
                break
            if set(word) <= SEPARATORS:
                yield words
                words = []
            else:
                words.append(word)
        yield words


def _assigned(words: list[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words if ASSIGNMENT.match(word)]
    return {name: value for name, _, value in pairs}
