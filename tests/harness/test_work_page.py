"""The page of a work clock: what the judge writes is read whole, and the candidate's side can change nothing of it."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from harness.work_page import WorkDone, WorkPage, WorkReader


@pytest.fixture
def page() -> Iterator[WorkPage]:
    page = WorkPage()
    yield page
    page.close()


def reader_of(page: WorkPage) -> WorkReader:
    return WorkReader(os.dup(page.fd))


def test_both_sides_count_alike(page: WorkPage) -> None:
    reader = reader_of(page)
    assert reader.read() == WorkDone(0.0, 0.0, 1.0)
    page.write(WorkDone(3.5, 4.0, 0.5))
    assert reader.read().used_at(6.0) == 4.5
    assert reader.read().used_at(3.9) == 3.5, "its own count may be a moment behind"


def reopened(fd: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR)


WAYS: dict[str, Callable[[int], object]] = {
    "write": lambda fd: os.write(fd, b"x"),
    "reopen and write": lambda fd: os.pwrite(reopened(fd), b"x", 0),
    "map": lambda fd: mmap.mmap(fd, mmap.PAGESIZE),
    "reopen and map": lambda fd: mmap.mmap(reopened(fd), mmap.PAGESIZE),
    "cut": lambda fd: os.ftruncate(reopened(fd), 0),
    "grow": lambda fd: os.ftruncate(reopened(fd), 1 << 20),
    "unmake a hole": lambda fd: os.posix_fallocate(reopened(fd), 0, 1 << 20),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_candidate_cannot_change_it(page: WorkPage, way: Callable[[int], object]) -> None:
    page.write(WorkDone(1.0, 2.0, 0.5))
    with pytest.raises(OSError):
        way(page.fd)
    assert reader_of(page).read() == WorkDone(1.0, 2.0, 0.5)


def test_a_page_in_the_middle_of_being_written_shows_what_was_there_before(page: WorkPage) -> None:
    reader = reader_of(page)
    page.write(WorkDone(1.0, 2.0, 0.5))
    reader.read()
    page._memory[:8] = b"\xff" * 8
    assert reader.read() == WorkDone(1.0, 2.0, 0.5)


def test_what_is_read_while_it_is_written_is_one_of_the_things_written(page: WorkPage) -> None:
    reader, over = reader_of(page), threading.Event()

    def write() -> None:
        number = 0.0
        while not over.is_set():
            number += 1.0
            page.write(WorkDone(number, number, number))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [reader.read() for _ in range(3000)]
    finally:
        over.set()
        writer.join()
    assert all(done.used_s == done.cpu_s == done.rate for done in seen)
    assert seen[-1].used_s >= seen[0].used_s


@pytest.mark.parametrize("pace", [0.9, 0.98, 1.0, 1.002])
def test_a_clock_that_falls_behind_the_judges_goes_on_at_its_pace(page: WorkPage, pace: float) -> None:
    """Steps of 0.1 s in which the judge may not have written: each is seen to take time, and the end is not missed."""
    reader, used_s, rate, last_s, seen = reader_of(page), 0.0, 1.0, 0.0, []
    for step in range(1, 2001):
        judge_s = step / 100
        used_s += rate / 100
        if step % 12 == 0:
            rate = 0.85 + 0.1 * (step % 7) / 7
            page.write(WorkDone(used_s, judge_s, rate))
        if step % 10 == 0:
            elapsed_s = reader.used_s(pace * judge_s)
            seen.append(elapsed_s - last_s)
            last_s = elapsed_s
    assert min(seen) > 0.04
    assert abs(last_s - used_s) < 0.04
