"""`arsched prepare`: a contract's cache on this node, built by the harness's own program on the same terminal.

Signals reach that program first: it keeps what is finished and reports it, and its exit code is ours.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from harness.contract import describe_references
from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_text
from scheduler.domain.errors import CacheProblem, ExitCode, LabProblem, UsageProblem
from scheduler.domain.text import count
from scheduler.lab import ContractChoice, choose_contract, contract_ref, open_workspace, prepared_digest
from scheduler.node.code import CODE_ROOT, python_command
from scheduler.node.harness_client import ask_cache
from scheduler.node.judge_process import site_folders
from scheduler.ray.preparation import NodeSource

LINE_EVERY_S = 5.0


@click.command()
@click.option("--contract", metavar="C", help=f"{describe_references()}. Default: the lab's, else cpu.")
@click.option(
    "--from",
    "brought",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Take shards, or another node's cache, from here.",
)
@click.option("--verify", is_flag=True, help="Only check the cache that is there, reading all of it.")
@click.option("--calibrate", is_flag=True, help="Measure anew what a work clock counts in; the machine must be quiet.")
@click.option("--all-nodes", is_flag=True, help="On this node, then on every other of the cluster, from this one's.")
@options.address
@options.changing
def command(
    contract: str | None,
    brought: Path | None,
    verify: bool,
    calibrate: bool,
    all_nodes: bool,
    address: str | None,
    tag: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Download, tokenise and pack the contract's corpus, once per node. Interrupted, it goes on where it stopped."""
    if address and not all_nodes:
        raise UsageProblem("--address is for --all-nodes; without it this node alone is prepared", "add --all-nodes")
    ref = choose_contract(contract).ref if contract else _of_lab(tag)
    own_json = as_json and not all_nodes
    flags = ["--verify"] * verify + ["--calibrate"] * calibrate
    program = prepare_command(ref, brought, as_json=own_json) + flags
    if dry_run:
        print_json({"contract": ref, "command": program}) if as_json else print_text(" ".join(program))
        return 0
    code = run_program(program)
    if code and as_json:
        print_json({"error": f"the cache of {ref} is not prepared; stderr says why", "hint": ""})
    if code or not all_nodes:
        return code
    return _prepare_others(ref, address or "auto", tuple(flags), as_json=as_json)


def _prepare_others(ref: str, address: str, flags: tuple[str, ...], *, as_json: bool) -> int:
    """Every other node of the cluster, from the cache of this one. Exit code 1 when one of them failed."""
    from scheduler.ray.pool import join
    from scheduler.ray.preparation import ClusterPreparation

    source = _source_here(choose_contract(ref).contract.to_json())
    log(f"joining the Ray cluster at {address}")
    cluster = join(address)
    try:
        outcomes = ClusterPreparation(cluster, source, flags, NodeProgress()).run()
    finally:
        cluster.leave()
    failed = [one for one in outcomes if one.error]
    missing = _missing(len(outcomes) + 1)
    if as_json:
        nodes = [{"node": one.node, "ok": not one.error, "digest": one.digest, "error": one.error, "hint": one.hint}
                 for one in outcomes]  # fmt: skip
        print_json({"ok": not failed, "digest": source.digest, "nodes": nodes, "missing": missing})
    for one in failed:
        log(f"{one.node} is not prepared: {one.error}" + (f"\n  hint: {one.hint}" if one.hint else ""))
    log(f"{len(outcomes) - len(failed)} of {count(len(outcomes), 'other node')} prepared, and this one")
    if missing:
        what = f"{count(missing, 'node')} of cluster.yaml not in the cluster, and not prepared"
        log(f"{what}: `arsched doctor --address auto` names what is missing; when it is there, the same command again")
    return ExitCode.FAILED if failed else ExitCode.DONE


def _missing(found: int) -> int:
    """How many nodes there should be besides; 0 where nothing says how many."""
    from scheduler.doctor.cluster import read_due

    config, _ = read_due(Path.cwd())
    return max(0, config.nodes - found) if config else 0


def _source_here(contract_json: str) -> NodeSource:
    """What was just prepared on this node. Raises LabProblem."""
    found = ask_cache(contract_json, full=False)
    if "error" in found:
        raise LabProblem(str(found["error"]), str(found.get("hint") or ""))
    kernel = found.get("kernel")
    return NodeSource(contract_json, Path(found["directory"]), str(found["digest"]), Path(kernel) if kernel else None)


class NodeProgress:
    """A line for every change of what a node does, and no more than one in some seconds while it goes on with it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown: dict[str, tuple[str, float]] = {}

    def __call__(self, node: str, news: str) -> None:
        stage = news.partition(":")[0]
        before, shown_at = self._shown.get(node, ("", float("-inf")))
        if stage != before or self._clock() - shown_at >= LINE_EVERY_S:
            self._shown[node] = stage, self._clock()
            log(f"{node}: {news}")


def _of_lab(tag: str | None) -> str:
    """The contract of the lab; "cpu" where there is none, unless one was asked for."""
    try:
        with open_workspace(tag) as space:
            return contract_ref(space.lab, space.paths.contract)
    except LabProblem:
        if tag:
            raise
        return "cpu"


def prepare_command(contract: str, brought: Path | None, *, as_json: bool, verify: bool = False) -> list[str]:
    """-P: a folder called harness where the command is run is not the judge's."""
    command = [*python_command("harness.prepare"), "--contract", contract]
    return command + (["--from", str(brought)] if brought else []) + ["--verify"] * verify + ["--json"] * as_json


def ensure_prepared(choice: ContractChoice) -> None:
    """Make the cache of a contract whose texts are on this machine, where there is none: that takes a minute.

    Raises CacheProblem for one that wants a download, which is a decision of its own, and where making it failed.
    """
    try:
        prepared_digest(choice)
    except CacheProblem as problem:
        if choice.contract.corpus.kind == "hub":
            raise
        log(f"the cache of contract {choice.contract.name} comes first, once per machine: arsched prepare")
        code = run_program(prepare_command(choice.ref, None, as_json=False, verify=False))
        if code == ExitCode.INTERRUPTED:
            raise click.Abort from None
        if code:
            raise CacheProblem("the cache could not be made: see above", problem.hint) from None


def run_program(command: Sequence[str]) -> int:
    """Run a program of the harness on our terminal. Returns its exit code, 130 when a signal ended it."""
    path = [str(CODE_ROOT), *site_folders(os.environ.get("PYTHONPATH", ""))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    try:
        with subprocess.Popen(command, env=environment) as process, _signals_to(process) as received:
            code = process.wait()
    except OSError as problem:
        raise LabProblem(f"{command[0]} cannot be run: {problem.strerror}") from None
    return 130 if code < 0 or received else code


@contextmanager
def _signals_to(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Ctrl-C reaches both of us from the terminal, and the program answers it; SIGTERM comes to us alone.

    Yields the signals so far: one that comes when the program has just ended is not lost.
    """
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number != signal.SIGINT:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
