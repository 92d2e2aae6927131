"""Reads cluster.yaml and finds what Ray itself would only notice half-way through `ray up`, or never.

Ray checks the form (its schema) and stops at typos with a readable message; it accepts a file without SSH login, with
mounts from paths that do not exist, with addresses left as they were shipped. Contacts and runs nothing, needs no Ray.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scheduler.domain.errors import UsageProblem
from scheduler.domain.text import count
from scheduler.ray.node_login import address_of, address_problems, is_example, login_problems, worker_ips
from scheduler.ray.start_lines import StartCall, ray_starts

KNOWN_KEYS = (
    "cluster_name", "max_workers", "upscaling_speed", "idle_timeout_minutes", "provider", "auth", "docker",
    "head_node_type", "file_mounts", "cluster_synced_files", "file_mounts_sync_continuously", "rsync_exclude",
    "rsync_filter", "metadata", "initialization_commands", "setup_commands", "head_setup_commands",
    "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands", "no_restart",
    "available_node_types",
)  # fmt: skip
RAY_CLUSTER = "RayCluster"  # kind of KubeRay's manifest
LOCAL_KEYS = ("min_workers",)  # Ray takes it out of a local cluster's file before it looks at the form
MAPPINGS = ("provider", "auth", "file_mounts")
CLOUDS = ("aws", "gcp", "azure", "aliyun", "vsphere", "readonly", "kuberay", "spark")
HEAD_ADDRESS = r"""--node-ip-address=$(sed -E 's/.*"head_ip": *"([^"]+)".*/\1/' ~/ray_bootstrap_config.yaml)"""
HEAD_SETUP_KEYS = ("initialization_commands", "setup_commands", "head_setup_commands")
HEAD_START, WORKER_START = "head_start_ray_commands", "worker_start_ray_commands"
COMMAND_KEYS = (*HEAD_SETUP_KEYS, "worker_setup_commands", HEAD_START, WORKER_START)
PATH_LINE = (  # begins with a line end: the last line of a .bashrc may lack its own
    "grep -qs '^export PATH={home}{bin}' ~/.bashrc || "
    r"printf '\nexport PATH={home}{bin}:$PATH RAY_AUTH_MODE={mode}\n' >> ~/.bashrc"
)
HOME = re.compile(r"^(~|\$HOME|\$\{HOME\}|/home/[^/]+|/root)/")
STARTUP_FILE = re.compile(r"(>|\btee\b|\bsed\b)[^|;&]*(\.(bashrc|bash_profile|bash_login|profile)\b|/etc/profile)")
HEAD_VARIABLE = re.compile(r"\$(RAY_HEAD_IP\b|\{RAY_HEAD_IP\})")
RAYS_PORT = "6379"
TOKEN = ".ray/auth_token"


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """What arsched itself reads of a cluster.yaml; `problems` are sentences, empty when `ray up` can be tried."""

    path: Path
    name: str  # of the cluster
    addresses: tuple[str, ...]  # of every node that should be there, each once, the head's first; empty in a cloud
    user: str  # who logs in there
    worker_start_command: str
    is_example: bool  # as shipped, without the address of a head
    problems: tuple[str, ...]
    rented: int = 0  # nodes that a cloud or Kubernetes keeps at least, with the head

    @property
    def head(self) -> str:
        return self.addresses[0] if self.addresses else ""

    @property
    def nodes(self) -> int:
        """How many there should be at least."""
        return len(self.addresses) or self.rented

    @property
    def is_untouched(self) -> bool:
        """Whether no address in it is the user's."""
        return bool(self.addresses) and all(map(is_example, self.addresses))


def read_cluster_config(path: Path) -> ClusterConfig:
    """Parse and check a cluster.yaml. Raises UsageProblem when it cannot be read at all."""
    try:
        documents, doubled = _parse(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise UsageProblem(f"{path} cannot be read: {problem.strerror}", "give the path of a cluster.yaml") from None
    except (yaml.YAMLError, ValueError, RecursionError) as problem:  # ValueError: not UTF-8, or a date like 2026-13-01
        raise UsageProblem(f"{path} is not YAML: {' '.join(str(problem).split())}", "fix that line") from None
    pods = next((one for one in documents if isinstance(one, dict) and one.get("kind") == RAY_CLUSTER), None)
    if pods is not None:  # Kubernetes checks its words itself
        name = str(_mapping(pods, "metadata").get("name") or "")
        return ClusterConfig(path, name, (), "", "", False, (), _least_pods(_mapping(pods, "spec")))
    raw = documents[0] if len(documents) == 1 else None
    if not isinstance(raw, dict):
        raise UsageProblem(f"{path} holds no settings", "start from the cluster.yaml that ships with arsched")
    provider = _mapping(raw, "provider")
    head = str(provider.get("head_ip") or "")
    listed = (head, *(str(worker) for worker in worker_ips(provider) if worker))
    addresses = () if _is_cloud(provider) else tuple(dict.fromkeys(listed))
    return ClusterConfig(
        path,
        str(raw.get("cluster_name") or ""),
        addresses,
        str(_mapping(raw, "auth").get("ssh_user") or ""),
        _worker_start(_commands(raw, WORKER_START)),
        is_example(head),
        (*doubled, *_problems(raw, path.parent)),
        _rented(raw) if _is_cloud(provider) else 0,
    )


def _parse(text: str) -> tuple[list[Any], list[str]]:
    """What YAML makes of its documents, and a sentence for every key that stands twice."""
    loader = yaml.SafeLoader(text)
    documents: list[Any] = []
    doubled: list[str] = []
    try:
        while loader.check_node() and (top := loader.get_node()) is not None:
            doubled += _doubled(top, set())
            documents.append(loader.construct_document(top))
    finally:
        loader.dispose()
    return documents, doubled


def _doubled(node: yaml.Node, seen: set[int]) -> Iterator[str]:
    """Before it is made into objects: those have the last of two, and what `<<` brings stands among a mapping's own."""
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    pairs = node.value if isinstance(node, yaml.MappingNode) else [(None, child) for child in node.value]
    lines: dict[str, int] = {}
    for key, child in pairs:
        if isinstance(key, yaml.ScalarNode) and (line := key.start_mark.line + 1) != lines.setdefault(key.value, line):
            yield f"{key.value!r} stands twice, in lines {lines[key.value]} and {line}: only the last one counts"
        yield from _doubled(child, seen)


def _problems(raw: Mapping[str, Any], folder: Path) -> Iterator[str]:
    provider = _mapping(raw, "provider")
    cloud, workers = _is_cloud(provider), worker_ips(provider)
    several = cloud or bool(workers)
    yield from _form_problems(raw, KNOWN_KEYS if cloud else KNOWN_KEYS + LOCAL_KEYS)
    yield from () if cloud else address_problems(provider)
    yield from _count_problems(raw, None if cloud else len(workers))
    yield from login_problems(_mapping(raw, "auth"), makes_keys=cloud, has_workers=several)
    yield from _mount_problems(_mapping(raw, "file_mounts"), folder)
    head_start = yield from _start_problems(raw, HEAD_START)
    worker_start = (yield from _start_problems(raw, WORKER_START)) if several else None
    if head_start is not None:
        yield from _path_problems(raw, head_start)
        yield from _token_problems(raw, head_start)
        yield from _monitor_problems(head_start) if several else ()
        yield from _head_address_problems(head_start, str(provider.get("head_ip"))) if workers and not cloud else ()
        yield from _joining_problems(head_start, worker_start) if worker_start else ()


def _form_problems(raw: Mapping[str, Any], known: tuple[str, ...]) -> Iterator[str]:
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            yield f"unknown key {key!r}" + (f": did you mean {near[0]!r}?" if near else "")
    for key in MAPPINGS:
        if raw.get(key) is not None and not isinstance(raw[key], dict):
            yield f"{key} must be lines of the form `name: value` below it"
    for key in COMMAND_KEYS:
        found = raw.get(key)
        if found is not None and not isinstance(found, list):
            yield f"{key} must be a list: each command on a line of its own, after a dash"
        for command in found if isinstance(found, list) else []:
            if not isinstance(command, str):
                yield f"{key}: YAML does not read {str(command)!r} as text: put quotes around that command"


def _count_problems(raw: Mapping[str, Any], listed: int | None) -> Iterator[str]:
    """`listed`: workers by address, None in a cloud. What is above a limit Ray leaves out, with a warning at most."""
    if listed is not None:
        for key in ("min_workers", "max_workers"):
            if isinstance(limit := raw.get(key), int) and limit < listed:
                yield f"{key} is {limit}, and {count(listed, 'worker')} listed: leave that line out, or not all come up"
        return
    types = _mapping(raw, "available_node_types")
    for name, kind in types.items():
        least, most = _number(kind, "min_workers", 0), _number(kind, "max_workers", None)
        if most is not None and least is not None and most < least:
            yield f"available_node_types.{name}: max_workers {most} is less than min_workers {least}"
    total = sum(_number(kind, "min_workers", 0) or 0 for kind in types.values())
    if isinstance(limit := raw.get("max_workers"), int) and limit < total:
        yield f"max_workers is {limit}, and the kinds of nodes want {total} together (min_workers): make it {total}"


def _mount_problems(mounts: Mapping[str, Any], folder: Path) -> Iterator[str]:
    for there, here in mounts.items():
        source = Path(os.path.expanduser(str(here)))
        try:
            (folder / source).stat()
        except (FileNotFoundError, NotADirectoryError, ValueError):
            if source.name == "auth_token":
                yield f"there is no token at {here} yet: make it with `ray get-auth-token --generate`"
            else:
                yield f"file_mounts: {here} (for {there}) does not exist; paths count from where `ray up` is called"
        except OSError as problem:
            yield f"file_mounts: {here} (for {there}) cannot be read: {problem.strerror}"


def _start_problems(raw: Mapping[str, Any], key: str) -> Generator[str, None, StartCall | None]:
    """Returns the last call of `ray start` among the commands, None without one."""
    try:
        starts = ray_starts(_commands(raw, key))
    except ValueError as problem:
        yield f"{key}: the shell could not read this line ({problem}): close its quotes"
        return None
    start = starts[-1] if starts else None
    if start is None or not _has_its_part(start, key, str(_mapping(raw, "provider").get("head_ip"))):
        yield f"{key} has no `ray start` with {'--head' if key == HEAD_START else '--address=$RAY_HEAD_IP'}"
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
    if start.option("--block") is not None:
        yield f"{key} starts Ray with --block: `ray up` would wait for its end; leave --block out"
    return start


def _has_its_part(start: StartCall, key: str, head: str) -> bool:
    if key == HEAD_START:
        return start.option("--head") is not None
    host = (start.option("--address") or "").rpartition(":")[0] or start.option("--address") or ""
    return HEAD_VARIABLE.fullmatch(host) is not None or host == head


def _joining_problems(head: StartCall, worker: StartCall) -> Iterator[str]:
    """What both ends must have alike."""
    port, joined = head.option("--port") or RAYS_PORT, (worker.option("--address") or "").rpartition(":")
    if worker.option("--address") and joined[2 if joined[1] else 0] != port:
        yield f"{WORKER_START} has no port {port} in --address, where the head listens: write $RAY_HEAD_IP:{port}"
    modes = [call.environ.get("RAY_AUTH_MODE") for call in (head, worker)]
    if None not in modes and modes[0] != modes[1]:
        yield f"RAY_AUTH_MODE is {modes[0]} on the head and {modes[1]} on workers: nodes that differ in it cannot join"


def _monitor_problems(head: StartCall) -> Iterator[str]:
    if not head.option("--autoscaling-config"):
        yield (
            f"{HEAD_START} has no --autoscaling-config: the head would never set up a worker; add to `ray start`: "
            "--autoscaling-config=~/ray_bootstrap_config.yaml"
        )


def _head_address_problems(head: StartCall, listed: str) -> Iterator[str]:
    own = head.option("--node-ip-address")
    if own is None:
        yield (
            f"{HEAD_START} has no --node-ip-address: a head without a default route calls itself "
            f"127.0.1.1, and no worker finds it; add to `ray start`: {HEAD_ADDRESS}"
        )
    elif address_of(own) and own != listed:
        yield f"{HEAD_START} has --node-ip-address={own}, and provider.head_ip is {listed}: Ray would miss its head"


def _token_problems(raw: Mapping[str, Any], head: StartCall) -> Iterator[str]:
    brought = any(str(there).endswith(TOKEN) for there in _mapping(raw, "file_mounts"))
    setup = [line for key in COMMAND_KEYS for line in _commands(raw, key) if not line.startswith("chmod")]
    made = any("auth_token" in line for line in setup)
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & head.environ.keys()
    if head.environ.get("RAY_AUTH_MODE") == "token" and not (brought or made or named):
        yield f"file_mounts brings no token, and RAY_AUTH_MODE=token needs one on every node: add ~/{TOKEN}: ~/{TOKEN}"


def _path_problems(raw: Mapping[str, Any], start: StartCall) -> Iterator[str]:
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


def _worker_start(commands: list[str]) -> str:
    """The command that starts Ray on a worker; "" without one."""
    with suppress(ValueError):
        return next((command for command in reversed(commands) if ray_starts([command])), "")
    return commands[-1]


def _rented(raw: Mapping[str, Any]) -> int:
    """The head and every node type's min_workers, no more of them than the cluster's max_workers.

    Source: ray.autoscaler._private.resource_demand_scheduler, `_add_min_workers_nodes`.
    """
    types = _mapping(raw, "available_node_types")
    least = sum(max(0, _number(kind, "min_workers", 0) or 0) for kind in types.values())
    most = _number(raw, "max_workers", None)
    return 1 + (least if most is None else min(least, max(0, most)))


def _least_pods(spec: Mapping[str, Any]) -> int:
    """The head and each group's replicas (its minReplicas where none are named), of numOfHosts pods each."""
    groups = [group for group in spec.get("workerGroupSpecs") or () if isinstance(group, dict)]
    replicas = [_number(group, "replicas", _number(group, "minReplicas", 0)) or 0 for group in groups]
    hosts = [_number(group, "numOfHosts", 1) or 1 for group in groups]
    return 1 + sum(max(0, each) * max(1, per) for each, per in zip(replicas, hosts, strict=True))


def _commands(raw: Mapping[str, Any], key: str) -> list[str]:
    found = raw.get(key)
    return [str(command) for command in found] if isinstance(found, list) else []


def _number(kind: Any, key: str, otherwise: int | None) -> int | None:
    value = kind.get(key, otherwise) if isinstance(kind, dict) else otherwise
    return value if isinstance(value, int) else otherwise


def _is_cloud(provider: Mapping[str, Any]) -> bool:
    """Whether Ray rents the nodes: it knows their addresses, and makes keys and a way between them."""
    return provider.get("type") in CLOUDS


def _mapping(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}
