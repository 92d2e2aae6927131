"""The statistics of the probes: silent for honest models, however many are asked, and loud for each kind of dishonesty.

Models here are functions from token rows to log-probabilities, played over a real plan; whole judges: tests/hostile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.judge import probes
from harness.judge.evaluation_plan import EvaluationPlan, plan_evaluation
from harness.judge.probes import Probes, Repeats, verdict_of
from harness.judge.serving import ProbedServing
from harness.scoring import TokenBytes

VOCAB, TOKENS, ROWS, WIDTH = 30, 32, 512, 16
BYTES = TokenBytes(np.full(VOCAB, 2, np.int64), np.full(VOCAB, 3, np.int64))
CHAIN = np.random.default_rng(0).dirichlet(np.full(VOCAB, 0.2), VOCAB) * 0.95 + 0.05 / VOCAB
LOG = np.log(CHAIN).astype(np.float32)
Model = Callable[[NDArray[np.uint16]], NDArray[np.float32]]  # rows [b, T] -> log-probabilities [b, T, V]


def text(random: np.random.Generator, rows: int) -> NDArray[np.uint16]:
    out = np.empty((rows, TOKENS + 1), np.int64)
    out[:, 0] = random.integers(0, VOCAB, rows)
    cumulated = CHAIN.cumsum(axis=1)
    for t in range(TOKENS):
        out[:, t + 1] = (random.random(rows)[:, None] > cumulated[out[:, t]]).sum(axis=1).clip(max=VOCAB - 1)
    return out.astype(np.uint16)


def normalised(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)


def honest(tokens: NDArray[np.uint16]) -> NDArray[np.float32]:
    return LOG[tokens]


def plan_of(seed: int) -> EvaluationPlan:
    random = np.random.default_rng(seed)
    return plan_evaluation(text(random, ROWS), text(random, 160), WIDTH, random)


def played(model: Model, seed: int = 0) -> ProbedServing:
    """A whole evaluation of a model, without processes."""
    random = np.random.default_rng(seed)
    serving = ProbedServing(plan_of(seed), 3, BYTES, random)
    logits = np.empty(0, np.float32)
    first = 0
    for piece in serving.slices():
        if piece.fresh is not None:
            logits, first = normalised(model(piece.fresh)), 0
        rows = logits[first : first + len(piece.ids)]
        first += len(piece.ids)
        serving.take([np.take_along_axis(row, ids, axis=1) for row, ids in zip(rows, piece.ids, strict=True)])
    serving.finish()
    return serving


def ahead(tokens: NDArray[np.uint16]) -> NDArray[np.int64]:
    return np.pad(tokens[:, 1:].astype(np.int64), ((0, 0), (0, 1)))


def leaking(share: float, seed: int = 0) -> Model:
    """Knows the next token at a share of the positions, and answers a prefix that comes again as it did before."""
    known: dict[bytes, NDArray[np.float32]] = {}
    random = np.random.default_rng(seed)

    def forward(tokens: NDArray[np.uint16]) -> NDArray[np.float32]:
        logits = LOG[tokens].copy()
        b, t = np.nonzero(random.random(tokens.shape) < share)
        logits[b, t, ahead(tokens)[b, t]] += 12.0
        for row, own in zip(tokens, logits, strict=True):
            for t in range(TOKENS):
                own[t] = known.setdefault(row[: t + 1].tobytes(), own[t].copy())
        return logits

    return forward


def test_twenty_honest_models_and_a_hundred_evaluations_raise_no_alarm() -> None:
    """Models of every temper: sharp, flat, position-dependent; each evaluation draws its own plan."""
    for seed in range(100):
        sharpness = 0.2 + seed % 20 / 10
        fade = np.linspace(1, 0.1 + seed % 3 / 2, TOKENS, dtype=np.float32)[:, None]
        verdict = played(lambda tokens, s=sharpness, f=fade: LOG[tokens] * s * f, seed).verdict  # type: ignore[misc]
        assert verdict == ("ok", ""), seed


def test_the_statistics_are_standard_normal_for_an_honest_model() -> None:
    found = [played(honest, seed).probes for seed in range(100)]
    for name in ("decoy_sign_z", "decoy_sum_z", "decoy_tail_z", "trend_z", "holdout_gap_z"):
        values = np.array([getattr(probes, name) for probes in found])
        limit = 1 / probes_gap(name)
        assert abs(values.mean()) < 5 * limit / math.sqrt(len(values)), name
        assert 0.7 * limit < values.std() < 1.35 * limit, (name, values.std())


def probes_gap(name: str) -> float:
    """The error of the holdout gap is widened on purpose."""
    return probes.GAP_CLUSTERS if name == "holdout_gap_z" else 1.0


def test_the_score_is_the_plain_mean_over_validation_rows() -> None:
    random = np.random.default_rng(3)
    rows = text(random, ROWS)
    nats = -np.take_along_axis(LOG[rows[:, :-1]], rows[:, 1:, None].astype(np.int64), 2).mean(dtype=np.float64)
    assert played(honest, 3).score.val_bpb == pytest.approx(nats / math.log(2) / 2, rel=1e-6)


@pytest.mark.parametrize(("share", "least"), [(1.0, 20), (0.5, 18), (0.3, 5)])
def test_leaks_that_replay_are_found_by_decoys(share: float, least: int) -> None:
    """Of twenty evaluations, each alone; small contracts have few rows to probe with."""
    found = sum(played(leaking(share, seed), seed).verdict[0] == "invalid: non-causal" for seed in range(20))
    assert found >= least


def with_future(tokens: NDArray[np.uint16], weight: float) -> NDArray[np.float32]:
    logits = LOG[tokens].copy()
    logits[:, :-1] += weight * LOG[tokens[:, 1:]]
    return logits


LEAKS: dict[str, Model] = {
    "the position after": lambda tokens: with_future(tokens, 0.05),
    "the whole row": lambda tokens: LOG[tokens] + 0.1 * LOG[tokens].mean(axis=1, keepdims=True),
    "one bit of the last token": lambda tokens: LOG[tokens] * (1 + tokens[:, -1:, None] % 2 * np.float32(0.1)),
    "blocks of eight": lambda tokens: (
        LOG[tokens] + 0.1 * LOG[tokens].reshape(-1, TOKENS // 8, 8, VOCAB).mean(2).repeat(8, axis=1)
    ),
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS.keys())
def test_models_that_see_later_tokens_are_non_causal(leak: Model) -> None:
    """Of ten evaluations; a single bit of the future stays as it was in every second row that is perturbed."""
    assert sum(played(leak, seed).verdict[0] == "invalid: non-causal" for seed in range(10)) >= 9


def test_a_mask_that_is_off_by_one_shows_at_the_last_position_of_the_prefix_alone() -> None:
    """Neither decoys nor any earlier position see it where it changes one unlikely token."""

    def forward(tokens: NDArray[np.uint16]) -> NDArray[np.float32]:
        logits = LOG[tokens].copy()
        rows, at = np.nonzero(ahead(tokens) == 7)
        logits[rows, at] *= 0.8
        return logits

    found = [played(forward, seed) for seed in range(10)]
    assert sum(serving.verdict[0] == "invalid: non-causal" for serving in found) >= 2


class Memory:
    """Models with state."""

    def __init__(self, *, replays: bool) -> None:
        self.counts = np.full((VOCAB, VOCAB), 0.5)
        self.known: dict[bytes, NDArray[np.float32]] = {}
        self.replays = replays

    def __call__(self, tokens: NDArray[np.uint16]) -> NDArray[np.float32]:
        logits = np.log(self.counts / self.counts.sum(axis=1, keepdims=True)).astype(np.float32)[tokens]
        np.add.at(self.counts, (tokens[:, :-1].astype(np.int64), tokens[:, 1:].astype(np.int64)), 1)
        if self.replays:
            for row, own in zip(tokens, logits, strict=True):
                for t in range(TOKENS):
                    own[t] = self.known.setdefault(row[: t + 1].tobytes(), own[t].copy())
        return logits


@pytest.mark.parametrize("replays", [False, True])
def test_learning_from_what_is_shown_is_stateful(replays: bool) -> None:
    assert all(played(Memory(replays=replays), seed).verdict[0] == "invalid: stateful-eval" for seed in range(5))


@pytest.mark.parametrize("settled", [10, 20, 30])
def test_a_model_that_settles_during_the_evaluation_is_not_taken_for_coupled(settled: int) -> None:
    """From then on it answers alike, whatever is served again: the forward served again is to be one from before."""

    class Settling:
        forwards = 0

        def __call__(self, tokens: NDArray[np.uint16]) -> NDArray[np.float32]:
            self.forwards += 1
            return LOG[tokens] * np.float32(min(1.0, self.forwards / settled))

    names = [played(Settling(), seed).verdict[0] for seed in range(20)]
    assert set(names) <= {"invalid: stateful-eval", "invalid: non-causal"}  # where perturbed rows alone came so early
    assert settled == 10 or set(names) == {"invalid: stateful-eval"}


@pytest.mark.parametrize("period", [2, 3])
def test_a_model_whose_answers_come_and_go_by_turns_is_not_taken_for_coupled(period: int) -> None:
    """What is served again may find the very turn that it had before."""

    class Turning:
        forwards = 0

        def __call__(self, tokens: NDArray[np.uint16]) -> NDArray[np.float32]:
            self.forwards += 1
            return LOG[tokens] * np.float32(1 - self.forwards % period / 10)

    names = {played(Turning(), seed).verdict[0] for seed in range(20)}
    assert names <= {"invalid: stateful-eval", "invalid: non-causal", "suspect: nondeterministic"}


def test_rows_that_depend_on_their_neighbours_are_coupled() -> None:
    def forward(tokens: NDArray[np.uint16]) -> NDArray[np.float32]:
        return LOG[tokens] - 0.1 * LOG[tokens].mean(axis=0, keepdims=True)

    assert all(played(forward, seed).verdict[0] == "invalid: batch-coupled" for seed in range(5))


def test_noise_of_its_own_is_nondeterministic() -> None:
    random = np.random.default_rng(0)
    found = [
        played(lambda tokens: LOG[tokens] * (random.random((*tokens.shape, 1)) > 0.1), seed).verdict[0]
        for seed in range(20)
    ]
    assert found == ["suspect: nondeterministic"] * 20


def test_rounding_that_differs_from_time_to_time_is_no_alarm() -> None:
    """Atomics on a GPU: a replay is not equal to the last bit, and no leak is made of it."""
    random = np.random.default_rng(0)

    def forward(tokens: NDArray[np.uint16]) -> NDArray[np.float32]:
        return LOG[tokens] + random.normal(scale=5e-4, size=(*tokens.shape, VOCAB)).astype(np.float32)

    assert all(played(forward, seed).verdict[0] == "ok" for seed in range(50))


CLEAN = Probes(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 100, 0.0, 0.0, 0.0, 0.0, 0.0)
SAME = np.zeros((8, TOKENS), np.float32)
BETTER = np.random.default_rng(0).normal(-1.0, 0.1, (8, TOKENS)).astype(np.float32)
RANDOM = np.random.default_rng(0).normal(0.0, 1.0, (8, TOKENS)).astype(np.float32)


@pytest.mark.parametrize(
    ("changes", "repeats", "due"),
    [
        ({}, None, "ok"),
        ({"decoy_sum_z": 4.6, "control_max": 1.0, "control_mean": 1.0}, None, "invalid: non-causal"),
        (
            {"control_max": 1.0, "control_mean": 0.1, "perturbed_max": 9.0},
            Repeats(SAME, SAME),
            "invalid: batch-coupled",
        ),
        ({"control_max": 1.0, "control_mean": 0.1}, Repeats(BETTER, SAME), "invalid: stateful-eval"),
        ({"control_max": 1.0, "control_mean": 0.1}, Repeats(RANDOM, SAME), "invalid: stateful-eval"),
        ({"control_max": 1.0, "control_mean": 0.1}, Repeats(RANDOM, RANDOM), "suspect: nondeterministic"),
        ({"control_max": 1.0, "control_mean": 0.001}, None, "ok"),
        ({"perturbed_max": 0.5}, None, "invalid: non-causal"),
        ({"perturbed_max": 0.05, "perturbed_nats": 0.001}, None, "ok"),
        ({"perturbed_max": 0.05, "perturbed_nats": 0.01}, None, "invalid: non-causal"),
        ({"control_max": 0.1, "control_mean": 0.001, "perturbed_max": 0.5}, None, "ok"),
        ({"shifted_nats": 0.2, "shifted_z": 6.0}, None, "invalid: stateful-eval"),
        ({"shifted_nats": 0.05, "shifted_z": 6.0}, None, "ok"),
        ({"trend_z": -6.0}, None, "invalid: stateful-eval"),
        ({"trend_z": 6.0}, None, "ok"),
        ({"holdout_gap_nats": 0.2, "holdout_gap_z": 6.0}, None, "suspect: holdout-gap"),
        ({"holdout_gap_nats": 0.01, "holdout_gap_z": 6.0}, None, "ok"),
    ],
)
def test_the_first_fault_that_applies_gives_the_name(
    changes: dict[str, float], repeats: Repeats | None, due: str
) -> None:
    assert verdict_of(replace(CLEAN, **changes), repeats)[0] == due  # type: ignore[arg-type]


def test_numbers_that_are_unknown_alarm_no_one_and_are_null() -> None:
    assert verdict_of(Probes(), None) == ("ok", "")
    assert probes.shown(Probes())["trend_z"] is None
