"""A pool of supervisors in this process, around the fake judge: what RayPool is, without Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import Report, RunOrder, Slot
from scheduler.node.judge_process import Commands
from scheduler.node.machine import Machine, SlotSpec, lay_out
from scheduler.node.supervisor import SlotSupervisor
from tests.scheduler.fake_judge import CACHE_DIGEST, CONTRACT_JSON, FAKE_CACHE, FAKE_JUDGE, FAKE_SANDBOX
from tests.scheduler.pool_contract import make_order

FAKES = Commands(FAKE_JUDGE, FAKE_CACHE, FAKE_SANDBOX)
MACHINE = Machine("boot-1", "test processor", (0, 1, 2, 3), 4)
LAB_ID = "lab-1"


def specs(count: int = 2) -> tuple[SlotSpec, ...]:
    return lay_out(MACHINE, "node", "cpu", count)


def fake_order(run_id: str, train_py: str, attempt: int = 1, lab_id: str = LAB_ID) -> RunOrder:
    return replace(make_order(run_id, train_py, CONTRACT_JSON, CACHE_DIGEST, attempt), lab_id=lab_id)


class SupervisorPool:
    """Implements scheduler.domain.slot.Pool for one lab."""

    def __init__(self, root: Path, count: int = 2) -> None:
        self.supervisors = {spec.slot_id: SlotSupervisor(spec, root, FAKES) for spec in specs(count)}

    def slots(self) -> tuple[Slot, ...]:
        return tuple(supervisor.probe(CONTRACT_JSON, LAB_ID) for supervisor in self.supervisors.values())

    def start(self, slot_id: str, order: RunOrder) -> None:
        if slot_id not in self.supervisors:
            raise PoolProblem(f"no slot {slot_id}")
        self.supervisors[slot_id].start(order)

    def poll(self) -> tuple[Report, ...]:
        return tuple(report for supervisor in self.supervisors.values() for report in supervisor.poll(LAB_ID))

    def acknowledge(self, slot_id: str, run_id: str, attempt: int) -> None:
        self.supervisors[slot_id].acknowledge(LAB_ID, run_id, attempt)

    def stop(self, slot_id: str, run_id: str, attempt: int) -> None:
        self.supervisors[slot_id].stop(LAB_ID, run_id, attempt)

    def close(self, *, stop_runs: bool) -> None:
        if stop_runs:
            for supervisor in self.supervisors.values():
                supervisor.close()


class FakeJudgeLab:
    """A PoolLab whose runs are fake judges; the file `gate` releases the endless ones."""

    def __init__(self, pool: SupervisorPool, folder: Path) -> None:
        self.pool = pool
        self.gate = folder / "gate"

    def scoring(self, run_id: str, val_bpb: float) -> RunOrder:
        return fake_order(run_id, f"score {val_bpb}")

    def endless(self, run_id: str) -> RunOrder:
        return fake_order(run_id, f"wait {self.gate}\nscore 1.5")

    def dying(self, run_id: str) -> RunOrder:
        return fake_order(run_id, "die of old age")

    def release(self) -> None:
        self.gate.touch()

    def breathe(self) -> None:
        """Real processes breathe by themselves."""
