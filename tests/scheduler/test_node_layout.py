"""Which slots a machine offers: fair shares of cores, whole GPUs by UUID, and seats Ray promised that are not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.node.code import code_digest
from scheduler.node.gpu import Gpu
from scheduler.node.machine import Machine, boot_id, cpu_name, lay_out, order_cores, read_machine, share_cores
from scheduler.node.supervisor import SlotAssignment, find_spec


def gpus(count: int, local: int = 0) -> tuple[Gpu, ...]:
    """`local` cores near each GPU, in blocks."""
    near = [tuple(range(index * local, (index + 1) * local)) for index in range(count)]
    return tuple(Gpu(index, f"GPU-{index:04}", "H100", "570.1", local_cpus=near[index]) for index in range(count))


NODE = Machine("boot-1", "processor", tuple(range(16)), 8, gpus(8))


def test_cpu_slots_are_one_core_each_and_avoid_hyper_thread_siblings() -> None:
    machine = Machine("boot-1", "processor", *order_cores((0, 1, 2, 3), {
        0: frozenset({0, 1}), 1: frozenset({0, 1}), 2: frozenset({2, 3}), 3: frozenset({2, 3}),
    }))  # fmt: skip
    assert [spec.cpus for spec in lay_out(machine, "laptop", "cpu")] == [(0,), (2,)]
    assert [spec.cpus for spec in lay_out(machine, "laptop", "cpu", 4)] == [(0,), (2,), (1,), (3,)]
    assert [spec.slot_id for spec in lay_out(machine, "laptop", "cpu")] == ["laptop/cpu0", "laptop/cpu1"]


def test_gpu_slots_are_whole_gpus_by_uuid_with_equal_shares() -> None:
    specs = lay_out(NODE, "node-a", "cuda")
    assert [spec.uuid for spec in specs] == [f"GPU-{index:04}" for index in range(8)]
    assert [spec.slot_id for spec in specs] == [f"node-a/gpu{index}" for index in range(8)]
    assert {len(spec.cpus) for spec in specs} == {2}
    assert all(spec.siblings == tuple(each.slot_id for each in specs) for spec in specs)


@given(st.integers(1, 16), st.integers(1, 64), st.integers(0, 12))
def test_shares_are_equal_and_never_overlap(count: int, cores: int, local: int) -> None:
    shares = share_cores(tuple(range(cores)), gpus(count, local))
    assert {len(share) for share in shares} == {cores // count or cores}
    if cores >= count:
        taken = [core for share in shares for core in share]
        assert len(set(taken)) == len(taken)


def test_near_cores_come_first() -> None:
    far_then_near = (Gpu(0, "GPU-a", "H100", "1", local_cpus=(4, 5, 6, 7)), Gpu(1, "GPU-b", "H100", "1"))
    assert share_cores(tuple(range(8)), far_then_near) == ((4, 5, 6, 7), (0, 1, 2, 3))


def test_slices_and_shared_gpus_are_refused_with_the_reason() -> None:
    sliced = replace(NODE, gpus=(replace(NODE.gpus[0], mig=True), *NODE.gpus[1:]))
    problems = [spec.problem for spec in lay_out(sliced, "node-a", "cuda")]
    assert "MIG is on for GPU 0" in problems[0] and problems[1:] == [""] * 7
    shared = replace(NODE, gpu_problem="an MPS daemon runs on this node")
    assert all("MPS" in spec.problem for spec in lay_out(shared, "node-a", "cuda"))


def assignment(device: str, index: int = 0, count: int = 8) -> SlotAssignment:
    return SlotAssignment("node-a", device, index, count, code_digest())


@pytest.mark.parametrize("visible", ["3", "GPU-0003", "GPU-0003"[:8]])
def test_a_gpu_assignment_is_the_gpu_ray_reserved(visible: str) -> None:
    spec = find_spec(assignment("cuda", index=0), NODE, visible)
    assert (spec.slot_id, spec.uuid, spec.problem) == ("node-a/gpu3", "GPU-0003", "")


@pytest.mark.parametrize("visible", ["", "8", "0,1", "GPU-9999"])
def test_a_gpu_ray_did_not_reserve_or_nvml_does_not_list_is_a_broken_slot(visible: str) -> None:
    spec = find_spec(assignment("cuda"), NODE, visible)
    assert "NVML lists no such one" in spec.problem and spec.uuid == ""


def test_without_a_driver_the_assignment_says_so() -> None:
    bare = replace(NODE, gpus=(), gpu_problem="NVML: Driver Not Loaded")
    assert find_spec(assignment("cuda"), bare, "0").problem == "NVML: Driver Not Loaded"


def test_a_core_the_node_does_not_let_us_use_is_a_broken_slot() -> None:
    assert "lets arsched use 16 cores" in find_spec(assignment("cpu", index=16, count=32), NODE, "").problem


def test_a_node_with_other_code_says_which() -> None:
    old = find_spec(replace(assignment("cpu"), code="0123456789ab"), NODE, "")
    assert "0123456789ab" in old.problem and code_digest() in old.problem and "node-a" in old.problem


def test_this_machine_can_be_read() -> None:
    machine = read_machine(gpus=True)
    assert machine.boot_id and machine.cpu_name and 1 <= machine.physical_cores <= len(machine.cores)
    assert len(set(machine.cores)) == len(machine.cores)
    assert machine.gpus or machine.gpu_problem


def test_what_a_strange_kernel_does_not_say_is_made_up_for(tmp_path: Path) -> None:
    assert boot_id(tmp_path / "none") and cpu_name(tmp_path / "none")
