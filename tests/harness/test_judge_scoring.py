"""The score: held against scipy in double precision, whatever the chunks, on numpy and on torch."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from harness.scoring import ImpossibleLikelihood, NonFinite, Tally, checked_nll, tally_logits, tally_tensor, token_nll
from tests.harness.scoring_samples import BYTES, LENGTH, ROWS, VOCAB, sample


def reference(logits: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    nll = -np.take_along_axis(log_softmax(logits.astype(np.float64), axis=-1), targets.astype(int)[..., None], -1)[
        ..., 0
    ]
    scores = []
    for counted in (BYTES.true, BYTES.upstream):
        size = counted[targets]
        scores.append(nll[size > 0].sum() / (math.log(2) * size.sum()))
    return scores[0], scores[1]


@given(st.integers(0, 2**31), st.sampled_from([0.1, 3.0, 30.0, 1000.0]))
@settings(max_examples=40, deadline=None)
def test_both_scores_are_the_references(seed: int, scale: float) -> None:
    logits, targets = sample(seed, scale)
    score = tally_logits(logits, targets, BYTES).score()
    assert (score.val_bpb, score.val_bpb_upstream) == pytest.approx(reference(logits, targets), rel=1e-6)


@given(st.integers(0, 2**31), st.lists(st.integers(1, ROWS - 1), unique=True))
@settings(max_examples=40, deadline=None)
def test_chunks_add_up_to_the_whole(seed: int, cuts: list[int]) -> None:
    logits, targets = sample(seed, 3.0)
    bounds = [0, *sorted(cuts), ROWS]
    parts = [tally_logits(logits[a:b], targets[a:b], BYTES) for a, b in itertools.pairwise(bounds)]
    whole, summed = tally_logits(logits, targets, BYTES), sum(parts, Tally())
    assert (summed.bytes, summed.bytes_upstream, summed.tokens) == (whole.bytes, whole.bytes_upstream, whole.tokens)
    assert summed.nats == pytest.approx(whole.nats, rel=1e-12)


@given(st.integers(0, 2**31), st.sampled_from([0.1, 3.0, 30.0, 1000.0]))
@settings(max_examples=20, deadline=None)
def test_tensors_score_as_arrays_do(seed: int, scale: float) -> None:
    logits, targets = sample(seed, scale)
    by_numpy = tally_logits(logits, targets, BYTES).score()
    by_torch = tally_tensor(torch.from_numpy(logits), targets, BYTES).score()
    assert by_torch.val_bpb == pytest.approx(by_numpy.val_bpb, rel=1e-6)
    assert by_torch.val_bpb_upstream == pytest.approx(by_numpy.val_bpb_upstream, rel=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [(0, 0, 0), (ROWS - 1, LENGTH - 1, VOCAB - 1)])
def test_one_bad_logit_anywhere_refuses_the_whole(place: tuple[int, int, int], value: float) -> None:
    logits, targets = sample(0, 1.0)
    logits[place] = value
    with pytest.raises(NonFinite):
        tally_logits(logits, targets, BYTES)
    with pytest.raises(NonFinite):
        tally_tensor(torch.from_numpy(logits), targets, BYTES)


def test_a_token_ruled_out_matters_only_as_a_target() -> None:
    logits, targets = sample(0, 1.0)
    other = (int(targets[2, 3]) + 1) % VOCAB
    logits[2, 3, other] = -np.inf
    finite = logits.copy()
    finite[2, 3, other] = -200.0
    assert tally_logits(logits, targets, BYTES) == tally_logits(finite, targets, BYTES)
    logits[2, 3, targets[2, 3]] = -np.inf
    with pytest.raises(NonFinite):
        tally_logits(logits, targets, BYTES)


def test_certainty_costs_nothing_and_never_less() -> None:
    logits = np.full((LENGTH, VOCAB), -1e4, np.float32)
    targets = np.arange(LENGTH, dtype=np.uint16)
    logits[np.arange(LENGTH), targets] = 1e4
    assert np.array_equal(token_nll(logits, targets), np.zeros(LENGTH, np.float32))


def test_a_probability_above_one_is_the_judges_own_fault() -> None:
    with pytest.raises(ImpossibleLikelihood):
        checked_nll(np.array([1.0, -0.01], np.float32))


def test_rows_without_any_bytes_have_no_score() -> None:
    logits, targets = sample(0, 1.0)
    with pytest.raises(ValueError, match="no bytes"):
        tally_logits(logits, np.zeros_like(targets), BYTES).score()
