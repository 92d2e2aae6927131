"""Every candidate of the suite gets its verdict, and no honest one an alarm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.suite import Arena, Candidate, candidates, fault, opened_arena


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with opened_arena() as opened:
        yield opened


@pytest.mark.parametrize("candidate", candidates(), ids=lambda candidate: candidate.name)
def test_the_verdict_is_the_expected_one(arena: Arena, candidate: Candidate) -> None:
    assert fault(candidate, arena.judge(candidate), arena) == ""


def test_there_are_twenty_honest_runs_and_more() -> None:
    assert sum(candidate.honest for candidate in candidates()) >= 20
