"""Kept compile caches: only the first baseline leaves some, runs on like slots start with them, old ones go."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.domain.candidate import CandidateState
from scheduler.domain.run import parse_result
from scheduler.domain.slot import Done, RunOrder, compile_key
from scheduler.node.spool import COMPILED, MOST_SEEDS, seed_options
from scheduler.node.supervisor import SlotSupervisor
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab
from tests.scheduler.memory_pool import memory_slots
from tests.scheduler.supervisor_pool import FAKES, LAB_ID, fake_order, specs
from tests.waiting import wait_until


def gpu_lab(folder: Path) -> PlayedLab:
    """A lab on two GPU nodes of one pool, in which a candidate becomes the second baseline."""
    slots = [slot for node in ("a", "b") for slot in memory_slots(1, node=node, device="cuda")]
    lab = PlayedLab(folder, slots=slots)
    lab.space = replace(lab.space, lab=replace(lab.space.lab, device="cuda"))
    return lab


def of_baseline(order: RunOrder) -> bool:
    return order.train_py == b"SCORE = 1.9\n"


def test_only_the_first_baseline_may_leave_caches_and_every_run_starts_with_them(tmp_path: Path) -> None:
    lab = gpu_lab(tmp_path)
    lab.submit("better", "SCORE = 1.7\n")
    lab.run()
    lab.submit("worse", "SCORE = 2.0\n")
    lab.run()
    assert lab.state("better") is CandidateState.BASELINE
    orders = lab.pool.started
    assert {order.may_keep_caches for order in orders if of_baseline(order)} == {True}
    assert {order.may_keep_caches for order in orders if not of_baseline(order)} == {False}
    sha256 = lab.candidate("baseline").train_sha256
    keys = {compile_key(slot, sha256) for slot in lab.pool.slots()}
    assert {order.compile_key for order in orders} == keys and len(keys) == 2


def test_without_a_gpu_nothing_is_compiled_or_kept(tmp_path: Path) -> None:
    lab = PlayedLab(tmp_path)
    lab.run()
    assert {(order.compile_key, order.may_keep_caches) for order in lab.pool.started} == {("", False)}


def test_a_key_is_of_one_node_one_pool_and_one_baseline() -> None:
    [slot] = memory_slots(1, device="cuda", pool="H100 driver 580 / python 3.11 torch 2.13 / standard-1 / cache 2")
    keys = {
        compile_key(slot, "1" * 64),
        compile_key(replace(slot, node="other"), "1" * 64),
        compile_key(replace(slot, pool="H100 driver 590"), "1" * 64),
        compile_key(slot, "2" * 64),
    }
    assert len(keys) == 4
    assert compile_key(replace(slot, id="memory/gpu9", boot_id="boot-2"), "1" * 64) in keys
    assert all(len(key) == 32 and int(key, 16) >= 0 for key in keys)


def test_the_judge_is_asked_to_keep_what_an_order_allows_and_to_seed_what_it_names(tmp_path: Path) -> None:
    seed = str(tmp_path / COMPILED / "k1")
    supervisor = SlotSupervisor(specs(1)[0], tmp_path, FAKES)
    wanted = {
        "r0001": (fake_order("r0001", "dump\nscore 1.9"), None, None),
        "r0002": (replace(fake_order("r0002", "dump\nscore 1.9"), compile_key="k1"), seed, None),
        "r0003": (replace(fake_order("r0003", "dump\nscore 1.9"), compile_key="k1", may_keep_caches=True), seed, seed),
    }
    for run_id, (order, seeded, kept) in wanted.items():
        supervisor.start(order)
        wait_until(lambda: isinstance(supervisor.poll(LAB_ID)[-1], Done))
        argv = json.loads((tmp_path / LAB_ID / f"{run_id}.1" / "out" / "facts.json").read_text())["argv"]
        options = dict(zip(argv[::2], argv[1::2], strict=True))
        assert (options.get("--seed-caches"), options.get("--keep-caches")) == (seeded, kept)


def test_seeds_are_no_labs_of_the_spool(tmp_path: Path) -> None:
    supervisor = SlotSupervisor(specs(1)[0], tmp_path, FAKES)
    make_seeds(tmp_path, 1)
    supervisor.start(fake_order("r0001", "score 1.9"))
    wait_until(lambda: isinstance(supervisor.poll(LAB_ID)[0], Done))
    assert seeds_in(tmp_path) == ["k00"]


def make_seeds(root: Path, count: int) -> None:
    """Read-only files in seeds k00, k01, … of which the first was used longest ago."""
    for number in range(count):
        folder = root / COMPILED / f"k{number:02}" / "inductor"
        folder.mkdir(parents=True)
        (folder / "file").touch(mode=0o400)
        os.utime(folder.parent, (number + 1, number + 1))


def seeds_in(root: Path) -> list[str]:
    return sorted(path.name for path in (root / COMPILED).iterdir())


def start(root: Path, key: str) -> None:
    seed_options(root, replace(fake_order("r0001", ""), compile_key=key))


@contextmanager
def held(folder: Path, kind: int = fcntl.LOCK_SH) -> Iterator[None]:
    """As a living judge holds the folder it reads (LOCK_SH) or writes (LOCK_EX)."""
    fd = os.open(folder, os.O_RDONLY)
    fcntl.flock(fd, kind)
    yield
    os.close(fd)


def test_the_seeds_unused_for_longest_are_removed(tmp_path: Path) -> None:
    make_seeds(tmp_path, MOST_SEEDS + 2)
    start(tmp_path, "k00")
    assert seeds_in(tmp_path) == ["k00", *(f"k{number:02}" for number in range(3, MOST_SEEDS + 2))]


def test_a_seed_that_a_judge_is_copying_stays_until_it_is_done(tmp_path: Path) -> None:
    make_seeds(tmp_path, MOST_SEEDS + 2)
    with held(tmp_path / COMPILED / "k00"):
        start(tmp_path, "new")
        assert len(seeds_in(tmp_path)) == MOST_SEEDS + 1 and "k00" in seeds_in(tmp_path)
        assert (tmp_path / COMPILED / "k00" / "inductor" / "file").exists()
    start(tmp_path, "new")
    assert len(seeds_in(tmp_path)) == MOST_SEEDS and "k00" not in seeds_in(tmp_path)


def test_what_a_killed_process_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    make_seeds(tmp_path, 1)
    for name in (".k01.x.partial", ".k02.y.partial", ".k03.old"):
        (tmp_path / COMPILED / name / "inductor").mkdir(parents=True)
    with held(tmp_path / COMPILED / ".k01.x.partial", fcntl.LOCK_EX):
        start(tmp_path, "k00")
        assert seeds_in(tmp_path) == [".k01.x.partial", "k00"]


def test_while_one_process_removes_the_others_go_on(tmp_path: Path) -> None:
    make_seeds(tmp_path, MOST_SEEDS + 2)
    with held(tmp_path / COMPILED, fcntl.LOCK_EX):
        start(tmp_path, "new")
        assert len(seeds_in(tmp_path)) == MOST_SEEDS + 2


@pytest.mark.parametrize("obstacle", ["file", "link"])
def test_a_place_of_no_use_costs_no_run(tmp_path: Path, obstacle: str) -> None:
    if obstacle == "file":
        (tmp_path / COMPILED).touch()
    else:
        make_seeds(tmp_path / "elsewhere", MOST_SEEDS + 1)
        (tmp_path / COMPILED).symlink_to(tmp_path / "elsewhere" / COMPILED)
    start(tmp_path, "k1")
    assert obstacle == "file" or len(seeds_in(tmp_path)) == MOST_SEEDS + 1


def test_a_result_says_how_the_run_started_and_an_older_one_says_nothing() -> None:
    raw = {"format": 1, "status": "crash", "reason": ""}
    assert parse_result(json.dumps(raw)).measured.compile_cache is None
    assert parse_result(json.dumps(raw | {"compile_cache": "seeded"})).measured.compile_cache == "seeded"
