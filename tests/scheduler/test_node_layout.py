"""Which slots a machine offers: fair shares of cores, whole GPUs by UUID, and seats Ray promised that are not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.node.code import code_digest
from scheduler.node.cores import (
    order_cores,
    parse_cpu_list,
    read_groups,
    read_local_cpus,
    share_cores,
    spell_cpu_list,
)
from scheduler.node.gpu import Gpu
from scheduler.node.machine import Machine, boot_id, cpu_name, lay_out, read_machine
from scheduler.node.supervisor import SlotAssignment, find_spec


def gpus(count: int, local: int = 0) -> tuple[Gpu, ...]:
    """`local` cores near each GPU, in blocks."""
    near = [tuple(range(index * local, (index + 1) * local)) for index in range(count)]
    return tuple(Gpu(index, f"GPU-{index:04}", "H100", "570.1", local_cpus=near[index]) for index in range(count))


def singles(cores: int) -> list[tuple[int, ...]]:
    return [(core,) for core in range(cores)]


NODE = Machine("boot-1", "processor", tuple(range(16)), 8, gpus(8))


def test_cpu_slots_are_one_core_each_and_avoid_hyper_thread_siblings() -> None:
    machine = Machine("boot-1", "processor", *order_cores(((0, 1), (2, 3))))
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
    shares = share_cores(singles(cores), [gpu.local_cpus for gpu in gpus(count, local)])
    assert {len(share) for share in shares} == {cores // count or cores}
    if cores >= count:
        taken = [core for share in shares for core in share]
        assert len(set(taken)) == len(taken)


def test_near_cores_come_first() -> None:
    assert share_cores(singles(8), [(4, 5, 6, 7), ()]) == ((4, 5, 6, 7), (0, 1, 2, 3))


SOCKETS = tuple((core, core + 96) for core in range(96))  # two of 48 physical cores, two threads each
FIRST, SECOND = ({*range(low, low + 48), *range(low + 96, low + 144)} for low in (0, 48))


def test_eight_gpus_on_two_sockets_get_whole_cores_of_their_own_socket() -> None:
    shares = share_cores(SOCKETS, [FIRST] * 4 + [SECOND] * 4)
    assert {len(share) for share in shares} == {24}
    for index, share in enumerate(shares):
        assert set(share) <= (FIRST if index < 4 else SECOND)
        assert {core % 96 for core in share} == {core for core in share if core < 96}  # siblings together
    assert spell_cpu_list(shares[0]) == "0-11,96-107" and len(set().union(*shares)) == 192


def test_one_gpu_gets_all_cores_and_with_odd_counts_no_gpu_gets_more() -> None:
    assert share_cores(SOCKETS, [SECOND]) == (tuple(range(192)),)
    assert [len(share) for share in share_cores(SOCKETS[:7], [FIRST] * 3)] == [4, 4, 4]


def test_a_socket_with_too_few_cores_is_shared_evenly_and_the_rest_is_far() -> None:
    """Six GPUs on the first socket, two on the second: 48 near cores for six shares of 12."""
    shares = share_cores(SOCKETS, [FIRST] * 6 + [SECOND] * 2)
    assert {len(share) for share in shares} == {24}
    assert [len(set(share) & FIRST) for share in shares] == [16] * 6 + [0] * 2
    specs = lay_out(machine_of(SOCKETS, [FIRST] * 6 + [SECOND] * 2), "node-a", "cuda")
    assert [spec.far_cpus for spec in specs] == [8] * 6 + [0] * 2


def test_in_a_container_only_its_cores_are_shared_and_as_many_for_each() -> None:
    cpuset = ((0, 96), (1,), (2, 98), (48,), (49, 145), (50,))  # holes: some cores have one thread to use
    shares = share_cores(cpuset, [FIRST, SECOND])
    assert shares == ((0, 1, 2, 96), (48, 49, 50, 145))
    shares = share_cores((*cpuset, (51, 147), (3, 99)), [FIRST, SECOND])
    assert {len(share) for share in shares} == {6}


def test_fewer_cores_than_gpus_are_given_out_as_threads_and_then_shared_by_all() -> None:
    assert share_cores(((0, 4), (1, 5)), [()] * 4) == ((0,), (1,), (4,), (5,))
    assert share_cores(((0,), (1,)), [()] * 3) == ((0, 1),) * 3


def test_a_sliced_gpu_leaves_the_others_their_cores() -> None:
    """It may be whole again when the next supervisor starts: shares must not overlap then."""
    machine = machine_of(SOCKETS, [FIRST] * 4 + [SECOND] * 4)
    sliced = replace(machine, gpus=(replace(machine.gpus[0], mig=True), *machine.gpus[1:]))
    cpus = [[spec.cpus for spec in lay_out(one, "n", "cuda")] for one in (machine, sliced)]
    assert cpus[0] == cpus[1]


@given(
    st.integers(1, 12), st.lists(st.integers(1, 2), min_size=1, max_size=24), st.lists(st.integers(0, 3), max_size=12)
)
def test_no_physical_core_is_for_two_gpus_while_there_are_enough(count: int, threads: list[int], nodes: list) -> None:
    groups = [(core, core + 100)[:several] for core, several in enumerate(threads)]
    near = [set(range(6 * node, 6 * node + 6)) for node in (nodes * 12)[:count]] or [set()] * count
    shares = share_cores(groups, [*near, *[set()] * (count - len(near))])
    assert len({len(share) for share in shares}) == 1 and all(shares)
    if len(groups) >= count:
        physical = [{core % 100 for core in share} for share in shares]
        assert all(len(its) == len(groups) // count for its in physical)
        assert len(set().union(*physical)) == sum(map(len, physical))


def machine_of(groups: tuple[tuple[int, ...], ...], near: list[set[int]]) -> Machine:
    several = gpus(len(near))
    local = tuple(replace(gpu, local_cpus=tuple(sorted(its))) for gpu, its in zip(several, near, strict=True))
    return Machine("boot-1", "processor", *order_cores(groups), local, groups=groups)


def test_sysfs_says_which_threads_share_a_core_and_which_cores_are_near(tmp_path: Path) -> None:
    for core, siblings in {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3", 4: "nonsense"}.items():
        (tmp_path / f"cpu{core}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{core}" / "topology" / "thread_siblings_list").write_text(f"{siblings}\n")
    assert read_groups((0, 1, 2, 3, 4, 9), tmp_path) == ((0, 2), (1, 3), (4,), (9,))
    assert read_groups((2, 3, 1), tmp_path) == ((1, 3), (2,))
    device = tmp_path / "0000:17:00.0"
    device.mkdir()
    (device / "local_cpulist").write_text("0-3,8\n")
    for node, found in (("1\n", (0, 1, 2, 3, 8)), ("-1\n", ()), ("", ())):
        (device / "numa_node").write_text(node)
        assert read_local_cpus("00000000:17:00.0", tmp_path) == found
    assert read_local_cpus("00000000:18:00.0", tmp_path) == read_local_cpus("", tmp_path) == ()


@given(st.sets(st.integers(0, 300)))
def test_a_list_of_cores_is_read_as_it_is_spelt(cores: set[int]) -> None:
    assert parse_cpu_list(spell_cpu_list(cores)) == tuple(sorted(cores))


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
