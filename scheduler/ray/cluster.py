"""Every sentence spoken to Ray once it is joined: nodes, actors, questions and answers, in arsched's own words.

Gets the ray module handed in by `ray_pool`, the one that imports it. Turns Ray's exceptions into three: the node said
no (PoolProblem), no answer yet (NoAnswer), the actor will never answer (ActorGone).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from scheduler.domain.errors import ArschedError, PoolProblem
from scheduler.node.actor import NodeSettings, Seat, SlotActor
from scheduler.ray.session import NAMESPACE, Session, first_line

RETIRE_ANSWER_S = 5.0


class NoAnswer(Exception):
    """Nothing was heard in time, or the actor is being restarted: ask again later."""


class ActorGone(Exception):
    """The actor is dead and stays dead; the text says why, in Ray's words."""


@dataclass(frozen=True, slots=True)
class RayNode:
    """A living node, with what Ray may hand out of it."""

    id: str
    host: str
    cpus: int
    gpus: int


class RayCluster:
    """A joined Ray. Not thread-safe."""

    def __init__(self, ray: Any, session: Session) -> None:
        self._ray = ray
        self._session = session

    @property
    def embedded(self) -> bool:
        return self._session.embedded

    def nodes(self) -> tuple[RayNode, ...]:
        """All living nodes, in a stable order."""
        alive = [node for node in self._ray.nodes() if node["Alive"]]
        return tuple(sorted((_read_node(node) for node in alive), key=lambda node: (node.host, node.id)))

    def place(self, seat: Seat, node_id: str, settings: NodeSettings) -> Any:
        """The actor of a seat: the one that is there, or a new one. Returns at once, before it is placed."""
        on_node = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)
        gpus, cpus = (1, 0) if seat.device == "cuda" else (0, 1)
        actor_class = self._ray.remote(max_restarts=-1, max_task_retries=0)(SlotActor)
        return actor_class.options(
            name=f"slot-{node_id[:12]}-{seat.device}{seat.index}-{seat.code}", namespace=NAMESPACE, get_if_exists=True,
            lifetime="detached", num_gpus=gpus, num_cpus=cpus, scheduling_strategy=on_node,
        ).remote(seat, settings)  # fmt: skip

    def ask(self, actor: Any, method: str, *arguments: object) -> Any:
        """Send a question; the answer is fetched by `answer`."""
        return getattr(actor, method).remote(*arguments)

    def answered(self, questions: Sequence[Any], timeout_s: float) -> list[Any]:
        """Those of the questions that have an answer, after waiting for all at most so long."""
        if not questions:
            return []
        ready, _ = self._ray.wait(list(questions), num_returns=len(questions), timeout=timeout_s)
        return list(ready)

    def answer(self, question: Any, timeout_s: float) -> Any:
        """The answer to a question. Raises PoolProblem, NoAnswer or ActorGone."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(question, timeout=timeout_s)
        except errors.RayTaskError as problem:
            raise _said_by_node(problem.cause) from None
        except (errors.ActorUnavailableError, errors.GetTimeoutError) as problem:
            raise NoAnswer(first_line(problem)) from None
        except errors.RayError as problem:
            raise ActorGone(_why_gone(problem)) from None

    def kill(self, actor: Any) -> None:
        """End an actor for good."""
        with suppress(Exception):  # it may be dead already, and Ray's complaints about that differ
            self._ray.kill(actor, no_restart=True)

    def retire_others(self, code: str) -> int:
        """End idle actors of other code; how many are still at work and stay."""
        left = 0
        for entry in self._ray.util.list_named_actors(all_namespaces=True):
            name = entry["name"]
            if entry["namespace"] == NAMESPACE and name.startswith("slot-") and not name.endswith(code):
                left += not self._retire(name)
        return left

    def free_resources(self) -> str:
        """What Ray has left to hand out, for a message."""
        left, all_of_it = self._ray.available_resources(), self._ray.cluster_resources()
        return ", ".join(f"{left.get(kind, 0):g} of {all_of_it.get(kind, 0):g} {kind} free" for kind in ("GPU", "CPU"))

    def leave(self) -> None:
        self._session.leave(self._ray)

    def _retire(self, name: str) -> bool:
        try:
            actor = self._ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:  # it ended meanwhile
            return True
        try:
            idle = self.answer(self.ask(actor, "retire"), RETIRE_ANSWER_S)
        except NoAnswer:
            return False
        except (ActorGone, PoolProblem):
            idle = True
        if idle:
            self.kill(actor)
        return bool(idle)


def _read_node(node: dict[str, Any]) -> RayNode:
    resources = node.get("Resources") or {}
    host = str(node.get("NodeManagerHostname") or node.get("NodeManagerAddress"))
    return RayNode(str(node["NodeID"]), host, int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))


def _said_by_node(cause: BaseException) -> PoolProblem:
    if isinstance(cause, PoolProblem):
        return PoolProblem(cause.message, cause.hint)
    if isinstance(cause, ArschedError):
        return PoolProblem(cause.message, cause.hint)
    return PoolProblem(f"a slot's supervisor failed: {type(cause).__name__}: {first_line(cause)}")


def _why_gone(problem: BaseException) -> str:
    """Ray's long stories about dead actors, cut to the line that says what happened."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    telling = [line for line in lines if "ModuleNotFoundError" in line or "ImportError" in line]
    return (telling or lines or [type(problem).__name__])[-1 if telling else 0]
