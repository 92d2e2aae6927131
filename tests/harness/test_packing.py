"""Packing by plan against packing on the fly: bit-identical rows, whatever the batch size, across epoch wraps.

The reference follows the rule as upstream states it, document by document over lists of tokens, and shares no code with
harness.packing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.packing import TokenStore, gather_rows, plan_rows
from harness.rows import RowStream

Refill = list[list[int]]


def pack_on_the_fly(
    refills: list[Refill], row_tokens: int, batch_size: int, buffer_documents: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Batches (x, y, epoch) by best fit over a plain list, one scan per placement."""

    def endless() -> Iterator[tuple[Refill, int]]:
        epoch = 1
        while True:
            yield from ((refill, epoch) for refill in refills)
            epoch += 1

    coming, waiting, epoch = endless(), [], 1
    while True:
        batch = []
        for _ in range(batch_size):
            row: list[int] = []
            while len(row) < row_tokens:
                while len(waiting) < buffer_documents:
                    documents, epoch = next(coming)
                    waiting = waiting + documents
                room = row_tokens - len(row)
                longest = max((len(d) for d in waiting if len(d) <= room), default=0)
                wanted = longest or min(len(d) for d in waiting)
                place = next(i for i, d in enumerate(waiting) if len(d) == wanted)
                row += waiting.pop(place)[:room]
            batch.append(row)
        rows = np.array(batch)
        yield rows[:, :-1], rows[:, 1:], epoch


def packed_by_plan(
    refills: list[Refill], row_tokens: int, rows: int, buffer_documents: int, *, shards: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    documents = [document for refill in refills for document in refill]
    lengths = np.array([len(document) for document in documents], dtype=np.int32)
    sizes = np.array([len(refill) for refill in refills], dtype=np.int32)
    plan = plan_rows(lengths, sizes, rows, row_tokens, buffer_documents)
    parts = [part for part in np.array_split(np.arange(len(documents)), shards) if len(part)]
    tokens = [np.concatenate([np.array(documents[i], dtype=np.uint16) for i in part]) for part in parts]
    store = TokenStore(tokens, lengths, [len(part) for part in parts])
    gathered = np.concatenate([chunk.copy() for chunk in gather_rows(plan, store, chunk_tokens=5000)])
    return gathered.reshape(rows, row_tokens), plan.row_epochs


def corpus(seed: int, documents: int, longest: int, refill: int, row_group: int) -> list[Refill]:
    """Documents of skewed lengths with distinguishable tokens, in refills cut at row groups."""
    random = np.random.default_rng(seed)
    lengths = np.minimum(1 + random.geometric(3 / longest, documents), longest)
    texts = [random.integers(1, 60_000, length).tolist() for length in lengths]
    groups = [texts[first : first + row_group] for first in range(0, documents, row_group)]
    return [group[first : first + refill] for group in groups for first in range(0, len(group), refill)]


@pytest.mark.parametrize("batch_size", [1, 7, 16, 128])
def test_batches_are_those_of_packing_on_the_fly_across_epoch_wraps(batch_size: int) -> None:
    refills = corpus(seed=batch_size, documents=1700, longest=300, refill=128, row_group=500)
    tokens = sum(len(document) for refill in refills for document in refill)
    batches = 4 * tokens // (96 * batch_size)  # cropping drops tokens: at least four epochs
    rows, epochs = packed_by_plan(refills, 97, batches * batch_size, 1000, shards=3)
    assert epochs[-1] >= 4
    stream = RowStream(rows, epochs)
    reference = pack_on_the_fly(refills, 97, batch_size, 1000)
    for _ in range(batches):
        taken, epoch = stream.take(batch_size)
        x, y, epoch_due = next(reference)
        assert epoch == epoch_due
        np.testing.assert_array_equal(taken[:, :-1], x)
        np.testing.assert_array_equal(taken[:, 1:], y)


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    row_tokens=st.integers(1, 24),
    refill=st.integers(1, 9),
    buffer_documents=st.integers(1, 30),
)
def test_any_corpus_packs_as_on_the_fly(
    lengths: list[int], row_tokens: int, refill: int, buffer_documents: int
) -> None:
    """Corpora smaller than the buffer, only oversized documents, rows of one token: ties and crops everywhere."""
    names = iter(range(1, 60_000))
    texts = [[next(names) for _ in range(length)] for length in lengths]
    refills = [texts[first : first + refill] for first in range(0, len(texts), refill)]
    rows, epochs = packed_by_plan(refills, row_tokens, 40, buffer_documents, shards=2)
    reference = pack_on_the_fly(refills, row_tokens, 1, buffer_documents)
    due = [next(reference) for _ in range(40)]
    np.testing.assert_array_equal(rows[:, :-1], np.concatenate([x for x, _, _ in due]))
    np.testing.assert_array_equal(rows[:, 1:], np.concatenate([y for _, y, _ in due]))
    assert epochs.tolist() == [epoch for _, _, epoch in due]


def test_a_tie_goes_to_the_earliest_and_a_crop_to_the_shortest() -> None:
    refills = [[[1] * 6, [2] * 3, [3] * 3, [4] * 9]]
    rows, _ = packed_by_plan(refills, 8, 1, 4)
    # 6 fits best; of room 2 nothing fits, so the earlier of the two shortest is cropped.
    assert rows[0].tolist() == [1, 1, 1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(("lengths", "refills"), [([], []), ([3, 4], [1]), ([0, 4], [2])])
def test_a_corpus_that_cannot_be_packed_is_refused(lengths: list[int], refills: list[int]) -> None:
    with pytest.raises(ValueError, match="corpus is empty"):
        plan_rows(np.array(lengths, dtype=np.int32), np.array(refills, dtype=np.int32), 1, 8, 10)
