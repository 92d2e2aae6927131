"""Every other node of a cluster prepared once, all at the same time, from the cache of the node this runs on.

Each node takes over the data over Ray's own connections, needs no way out, and must end with the same digest. Where a
node sees the cache already (a shared file system, an earlier call), nothing is copied. A node that fails is reported
and disturbs no other. Not covered: preparing the first node; what a node does (scheduler.node.preparer).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from scheduler.domain.errors import PoolProblem
from scheduler.node.preparer import PrepareState, prepared_digest
from scheduler.ray.cluster import ActorGone, NoAnswer, RayCluster

CHUNK_BYTES = 16 << 20
COPIES_AT_ONCE = 4  # they share the line of the node that sends
ROUND_S = 0.5
STOP_S = 5.0
SILENT_S = 300.0  # every call answers within seconds, but for the first on a busy node and a piece over a slow line
KERNEL = "kernel"  # where harness.prepare looks for one in a folder that was brought

Steps = Generator[Any, Any, PrepareState]
Report = Callable[[str, str], None]  # node, what it does


@dataclass(frozen=True, slots=True)
class NodeSource:
    """What other nodes take over. `kernel`: folder of the attention kernel, None without one."""

    contract_json: str
    cache: Path
    digest: str
    kernel: Path | None = None

    def files(self) -> Iterator[tuple[str, Path]]:
        """Name below the folder that arrives, and path here."""
        for top, folder in ((self.cache.name, self.cache), (KERNEL, self.kernel)):
            for path in sorted(folder.rglob("*")) if folder else ():
                if path.is_file():
                    yield f"{top}/{path.relative_to(folder).as_posix()}", path  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class NodeOutcome:
    """How it ended on a node; `error` is "" when its cache has the source's digest."""

    node: str
    digest: str = ""
    error: str = ""
    hint: str = ""


@dataclass(slots=True)
class _Task:
    name: str
    actor: Any
    steps: Steps
    call: Any = None
    asked_at: float = 0.0
    copying: bool = False
    outcome: NodeOutcome | None = field(default=None)


class ClusterPreparation:
    """`options`: of the harness's program, like --verify. `report` is called with a node's name and its news."""

    def __init__(self, cluster: RayCluster, source: NodeSource, options: tuple[str, ...], report: Report) -> None:
        self._cluster, self._source, self._options, self._report = cluster, source, options, report
        self._tasks: list[_Task] = []

    def run(self) -> tuple[NodeOutcome, ...]:
        """One outcome for every other living node, in a stable order. Interrupted, it stops what nodes do."""
        here = self._cluster.own_node()
        nodes = [node for node in self._cluster.nodes() if node.id != here]
        for node in nodes:
            actor = self._cluster.place_preparer(node.id)
            task = _Task(node.host, actor, self._steps_of(len(self._tasks), actor))
            self._tasks.append(task)
        try:
            for task in self._tasks:
                self._advance(task, None)
            while any(task.outcome is None for task in self._tasks):
                self._round()
        finally:
            self._leave()
        return tuple(task.outcome for task in self._tasks if task.outcome)

    def _round(self) -> None:
        open_tasks = [task for task in self._tasks if task.outcome is None]
        answered = self._cluster.answered([task.call for task in open_tasks if task.call is not None], ROUND_S)
        for task in open_tasks:
            if task.call is None:  # it waits for its turn
                self._advance(task, None)
            elif task.call in answered:
                try:
                    answer = self._cluster.answer(task.call, 0.0)
                except PoolProblem as problem:
                    self._end(task, NodeOutcome(task.name, error=problem.message, hint=problem.hint))
                except (ActorGone, NoAnswer) as death:
                    hint = "once it is back (`arsched doctor --address auto`), the same command goes on"
                    self._end(task, NodeOutcome(task.name, error=f"it is gone: {death}", hint=hint))
                else:
                    self._advance(task, answer)
            elif time.monotonic() - task.asked_at > SILENT_S:
                error = f"it has not answered for {SILENT_S:.0f} s; its process may hang"
                hint = "look at that node, then the same command again"
                self._end(task, NodeOutcome(task.name, error=error, hint=hint))

    def _advance(self, task: _Task, answer: Any) -> None:
        try:
            task.call, task.asked_at = task.steps.send(answer), time.monotonic()
        except StopIteration as end:
            self._end(task, self._judged(task.name, end.value))
        except OSError as problem:
            where = problem.filename or self._source.cache
            self._end(task, NodeOutcome(task.name, error=f"{where} cannot be read here: {problem.strerror or problem}"))

    def _end(self, task: _Task, outcome: NodeOutcome) -> None:
        task.steps.close()
        task.outcome, task.copying = outcome, False
        self._report(task.name, f"FAILED: {outcome.error}" if outcome.error else f"ready, digest {outcome.digest[:12]}")

    def _steps_of(self, number: int, actor: Any) -> Steps:
        """What is asked of a node, one call after the other; yields None to be asked again in the next round."""
        ask, source = self._cluster.ask, self._source
        if not (yield ask(actor, "has_cache", source.cache.name)) and "--verify" not in self._options:
            while sum(task.copying for task in self._tasks) >= COPIES_AT_ONCE:
                yield None
            yield from self._copy(self._tasks[number])
        yield ask(actor, "begin", source.contract_json, self._options)
        shown = ""
        while (state := (yield ask(actor, "poll"))).code is None:
            if state.line not in ("", shown):
                self._report(self._tasks[number].name, shown := state.line)
        return state  # type: ignore[no-any-return]

    def _copy(self, task: _Task) -> Generator[Any, Any, None]:
        task.copying = True
        total = sum(path.stat().st_size for _, path in self._source.files())
        sent = 0
        for name, path in self._source.files():
            with path.open("rb") as file:
                more = iter(partial(file.read, CHUNK_BYTES), b"")
                for data in chain([file.read(CHUNK_BYTES)], more):  # an empty file arrives, too
                    yield self._cluster.ask(task.actor, "receive", name, data)
                    sent += len(data)
                    self._report(task.name, f"copying from this node: {sent / 1e6:.0f} of {total / 1e6:.0f} MB")
        task.copying = False

    def _judged(self, name: str, state: PrepareState) -> NodeOutcome:
        digest = prepared_digest(state)
        if state.code or not digest:
            lines = [line for line in state.tail.splitlines() if line.startswith(("error: ", "hint: "))]
            said = {line.partition(": ")[0]: line.partition(": ")[2] for line in lines}
            error = said.get("error") or f"exit code {state.code}; it said last: {state.line or 'nothing'}"
            return NodeOutcome(name, error=error, hint=said.get("hint", ""))
        if digest != self._source.digest:
            error = f"its cache is {digest[:12]}, the one here is {self._source.digest[:12]}: it would get no run"
            hint = f"remove the folder {self._source.cache.name} in that node's cache, then the same command again"
            return NodeOutcome(name, digest, error, hint)
        return NodeOutcome(name, digest)

    def _leave(self) -> None:
        with suppress(Exception):  # whatever keeps a node from answering keeps it from going on, too
            self._cluster.answered([self._cluster.ask(task.actor, "stop") for task in self._tasks], STOP_S)
        for task in self._tasks:
            self._cluster.kill(task.actor)
