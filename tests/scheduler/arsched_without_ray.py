"""The real `arsched` command, but slots are supervisors in this process, judges are source_judge, and a run that no
slot mentions is queued again after a second.

Run as a program. Every connection to slots is noted in $ARSCHED_TEST_CONNECTIONS, one pid a line.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from scheduler.cli.main import main
from scheduler.domain.slot import Report, RunOrder, Slot
from scheduler.node.judge_process import Commands
from scheduler.node.machine import Machine, lay_out
from scheduler.node.supervisor import SlotSupervisor
from scheduler.queue import runtime
from scheduler.ray.pool import RayPool

JUDGE = (sys.executable, "-S", str(Path(__file__).resolve().parent / "source_judge.py"))
MACHINE = Machine("boot-1", "test processor", tuple(sorted(os.sched_getaffinity(0))) * 2, 2)


class LocalPool:
    """What an embedded Ray is: it ends with its driver, and its runs with it."""

    detached, address = False, ""

    def __init__(self, contract_json: str, lab_id: str, slots: int | None, sandbox: str) -> None:
        self._contract_json, self._lab_id = contract_json, lab_id
        root = Path(os.environ["ARSCHED_SPOOL"])
        commands = Commands(JUDGE, (*JUDGE, "cache"), (*JUDGE, "sandbox"))
        specs = lay_out(MACHINE, "node", "cpu", slots or 2)
        self._supervisors = {spec.slot_id: SlotSupervisor(spec, root, commands) for spec in specs}
        self._slots = tuple(
            supervisor.probe(contract_json, lab_id, sandbox) for supervisor in self._supervisors.values()
        )

    def slots(self) -> tuple[Slot, ...]:
        return self._slots

    def start(self, slot_id: str, order: RunOrder) -> None:
        self._supervisors[slot_id].start(order)

    def poll(self) -> tuple[Report, ...]:
        return tuple(report for one in self._supervisors.values() for report in one.poll(self._lab_id))

    def acknowledge(self, slot_id: str, run_id: str, attempt: int) -> None:
        for supervisor in self._supervisors.values():
            supervisor.acknowledge(self._lab_id, run_id, attempt)

    def stop(self, slot_id: str, run_id: str, attempt: int) -> None:
        if slot_id in self._supervisors:
            self._supervisors[slot_id].stop(self._lab_id, run_id, attempt)

    def close(self, *, stop_runs: bool) -> None:
        for supervisor in self._supervisors.values():
            supervisor.close()


def connect(
    address: str | None, slots: int | None, contract_json: str, lab_id: str, *, sandbox: str, log: object = None
) -> LocalPool:
    if notes := os.environ.get("ARSCHED_TEST_CONNECTIONS"):
        with open(notes, "a") as file:
            file.write(f"{os.getpid()}\n")
    return LocalPool(contract_json, lab_id, slots, sandbox)


if __name__ == "__main__":
    RayPool.connect = connect  # type: ignore[method-assign, assignment]
    runtime.Runtime = partial(runtime.Runtime, timeouts=runtime.Timeouts(unknown_s=1.0))  # type: ignore[misc, assignment]
    main()
