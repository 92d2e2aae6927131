"""Comparisons on a machine that drifts: against textbook formulas, and on made-up runs of known truth.

The reference integrates sigma out by quadrature and writes least squares with explicit inverses; it shares no code with
the policy.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, special, stats

from scheduler.domain.candidate import CandidateStats, Occasion
from scheduler.domain.decision import Noise
from scheduler.policy import drift
from scheduler.policy.drift import contrast, estimate, is_unsteady, newest, scatter_within
from scheduler.policy.explain import describe_undecided
from scheduler.policy.occasions import Group
from scheduler.policy.stats import effect_of, lab_noise, make_claim, undecided_below, without_suspects
from tests.scheduler.policy_kit import SIGMA0, baseline, board, standing

RUN_S = 300.0
SCALE_S = 8 * RUN_S
NOISE = Noise(0.001, 20, drift=0.003, offset=0.001, scale_s=SCALE_S, seed_sd=0.0005)


def occasions(*at: float, slots: Sequence[str] = ("n/a",), seeds: Sequence[int] = ()) -> tuple[Occasion, ...]:
    """Times in run lengths; slots in turn; seeds 1, 2, … unless given."""
    seeds = seeds or range(1, len(at) + 1)
    return tuple(
        Occasion(t * RUN_S, slot, seed) for t, slot, seed in zip(at, itertools.cycle(slots), seeds, strict=False)
    )


def rough(apart_s: float, scale_s: float) -> float:
    return math.exp(-apart_s / scale_s)


def smooth(apart_s: float, scale_s: float) -> float:
    """Matérn's correlation in its general form, a^ν·K_ν(a)·2^(1−ν)/Γ(ν)."""
    order, a = 1.5, 3 * apart_s / scale_s
    return float(a**order * special.kv(order, a) * 2 ** (1 - order) / special.gamma(order)) if a else 1.0


def shared(runs: Sequence[Occasion], noise: Noise, correlation: Callable[[float, float], float] = rough) -> np.ndarray:
    """The covariance of what the runs have in common, element by element."""
    matrix = np.zeros((len(runs), len(runs)))
    for i, one in enumerate(runs):
        for j, other in enumerate(runs):
            if one.slot_id.split("/")[0] == other.slot_id.split("/")[0]:
                matrix[i, j] += noise.drift**2 * correlation(abs(one.at - other.at), noise.scale_s)
            matrix[i, j] += noise.offset**2 * (one.slot_id == other.slot_id) + noise.seed_sd**2 * (
                one.seed == other.seed
            )
    return matrix


def some_runs(rng: random.Random, n: int) -> tuple[tuple[float, ...], tuple[Occasion, ...]]:
    where = [f"{rng.choice('mn')}/{rng.choice('ab')}" for _ in range(n)]
    at = [rng.uniform(0, 40) for _ in range(n)]
    return tuple(rng.gauss(1.0, 0.003) for _ in range(n)), occasions(*at, slots=where)


def measured(scores: Sequence[float], runs: Sequence[Occasion], number: int = 2) -> CandidateStats:
    return standing(number, *scores, occasions=tuple(runs))


@pytest.mark.parametrize("seed", range(10))
def test_the_contrast_is_the_textbooks_generalized_least_squares(seed: int) -> None:
    rng = random.Random(seed)
    (ours, our_runs), (theirs, their_runs) = some_runs(rng, rng.randint(1, 4)), some_runs(rng, rng.randint(1, 9))
    inverse = np.linalg.inv(np.eye(len(ours + theirs)) * NOISE.sigma**2 + shared(our_runs + their_runs, NOISE))
    design = np.array([[1.0, 0.0]] * len(ours) + [[0.0, 1.0]] * len(theirs))
    variance = np.linalg.inv(design.T @ inverse @ design)
    means = variance @ design.T @ inverse @ np.array(ours + theirs)
    diff, se = contrast(measured(ours, our_runs), measured(theirs, their_runs), NOISE)
    assert diff == pytest.approx(means[0] - means[1], abs=1e-12)
    assert se == pytest.approx(math.sqrt(variance[0, 0] + variance[1, 1] - 2 * variance[0, 1]), rel=1e-9)


@pytest.mark.parametrize(("seed", "stepped"), [(0, False), (1, False), (1, True)])
def test_the_estimate_is_the_posterior_mean_by_brute_force(
    seed: int, stepped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By quadrature over sigma² of prior times restricted likelihood, on every point of the grid that counts."""
    monkeypatch.setattr(drift, "STEADY", 2.0)  # never steady: the rest of the grid counts
    rng, sigma0, prior_df, prior_seed = random.Random(seed), 0.002, 4.0, 0.001
    groups = tuple(some_runs(rng, n) for n in (2, 3, 2))
    runs = [run for _, group in groups for run in group]
    y = np.array([score for group, _ in groups for score in group])
    design = np.zeros((len(y), len(groups)))
    for i, g in enumerate([g for g, (scores, _) in enumerate(groups) for _ in scores]):
        design[i, g] = 1.0
    total, mean = 0.0, np.zeros(4)
    for (d, p), (o, q), (s, r) in itertools.product(drift.DRIFTS, drift.OFFSETS, drift.SEEDS):
        s *= prior_seed / sigma0
        if d == 0 and (stepped or o == 0):
            continue
        point = Noise(1.0, 0, drift=d, offset=o, scale_s=SCALE_S, seed_sd=s)
        relative = np.eye(len(y)) + shared(runs, point, smooth)

        def joint(log_variance: float, relative=relative) -> float:
            variance = math.exp(log_variance)
            inverse = np.linalg.inv(variance * relative)
            information = design.T @ inverse @ design
            left = y - design @ np.linalg.solve(information, design.T @ inverse @ y)
            log = -np.linalg.slogdet(variance * relative)[1] / 2 - np.linalg.slogdet(information)[1] / 2
            prior = stats.invgamma.logpdf(variance, prior_df / 2, scale=prior_df * sigma0**2 / 2) + log_variance
            return float(log - left @ inverse @ left / 2 + prior)

        points = np.linspace(math.log(sigma0**2) - 6, math.log(sigma0**2) + 9, 100)
        density = p * q * r * np.exp([joint(point) - 40 for point in points])
        mass = integrate.trapezoid(density, points)
        total += mass
        mean += np.array([1.0, d**2, o**2, s**2]) * integrate.trapezoid(density * np.exp(points), points)
    noise = estimate(groups, sigma0, prior_df, SCALE_S, prior_seed, has_stepped=stepped)
    variances = np.array([noise.sigma, noise.drift, noise.offset, noise.seed_sd]) ** 2
    assert variances * (prior_df + 4) / (prior_df + 4 - 2) == pytest.approx(mean / total, rel=1e-3)


@pytest.mark.parametrize("parts", [{}, {"drift": 0.003}, {"offset": 0.001, "seed_sd": 0.002}])
def test_without_occasions_or_parts_it_is_the_difference_of_means_to_the_last_bit(parts: dict[str, float]) -> None:
    noise = Noise(0.0013, 5, scale_s=SCALE_S, **parts)
    ours, theirs = measured((0.991, 0.9937), occasions(3, 9)), measured((0.99, 1.01, 0.97), occasions(0, 1, 2), 1)
    for one, other in [(ours, theirs)] if not parts else [(replace(ours, occasions=()), theirs)]:
        assert contrast(one, other, noise) == (one.mean - other.mean, noise.sigma * math.sqrt(1 / 2 + 1 / 3))


@pytest.mark.parametrize("away", [1.0, 4.0, 16.0])
def test_a_nearer_control_lowers_the_error_and_pulls_the_difference(away: float) -> None:
    """Of two controls that differ by 0.01, the nearer one counts more."""
    noise = Noise(0.001, 20, drift=0.005, scale_s=SCALE_S)
    candidate, far = measured((1.0,), occasions(50)), occasions(50 - away - 10)[0]
    alone = contrast(candidate, measured((1.01,), (far,), 1), noise)
    near = contrast(candidate, measured((1.01, 1.0), (far, occasions(50 - away)[0]), 1), noise)
    further = contrast(candidate, measured((1.01, 1.0), (far, occasions(50 - away - 3)[0]), 1), noise)
    assert near[1] < further[1] < alone[1]
    assert abs(near[0]) < abs(further[0]) < 0.005


def test_controls_on_the_same_slot_and_of_the_same_seed_count_more_and_other_nodes_do_not_know_the_drift() -> None:
    candidate = measured((1.0,), occasions(5, slots=("n/a",)))

    def se(where: str, seed: int, **parts: float) -> float:
        control = measured((1.0,), occasions(5.5, slots=(where,), seeds=(seed,)), 1)
        return contrast(candidate, control, Noise(0.001, 9, scale_s=SCALE_S, **parts))[1]

    assert se("n/a", 2, offset=0.002) < se("n/b", 2, offset=0.002)
    assert se("n/a", 1, seed_sd=0.002) < se("n/a", 2, seed_sd=0.002)
    assert se("n/b", 2, drift=0.002) < se("m/b", 2, drift=0.002)


def test_slow_and_equal_for_both_adds_nothing() -> None:
    """A common shift of everything moves no contrast, and a drift far slower than the runs cancels."""
    rng = random.Random(1)
    (ours, our_runs), (theirs, their_runs) = some_runs(rng, 2), some_runs(rng, 3)
    moved = contrast(measured([s + 1 for s in ours], our_runs), measured([s + 1 for s in theirs], their_runs), NOISE)
    assert moved == pytest.approx(contrast(measured(ours, our_runs), measured(theirs, their_runs), NOISE), abs=1e-10)
    slow = Noise(0.001, 9, drift=0.01, scale_s=1e12)
    one_node = [replace(run, slot_id="n/a") for run in (*our_runs, *their_runs)]
    se = contrast(measured(ours, one_node[:2]), measured(theirs, one_node[2:]), slow)[1]
    assert se == pytest.approx(0.001 * math.sqrt(1 / 2 + 1 / 3), rel=1e-3)


def drawn_groups(rng: np.random.Generator, noise: Noise, correlation: Callable[[float, float], float]) -> list[Group]:
    """Repeats of programs on four slots, spread over 100 run lengths, drawn from the model itself."""
    runs = []
    for size in (3, *[2] * 12, *[6] * 5):
        begin = rng.uniform(0, 100)
        at = [begin + k for k in range(size)] if size < 6 else sorted(rng.uniform(0, 100, size))
        runs.append(occasions(*at, slots=[f"n/{k}" for k in rng.integers(4, size=size)]))
    every = [run for group in runs for run in group]
    covariance = np.eye(len(every)) * noise.sigma**2 + shared(every, noise, correlation)
    scores = rng.multivariate_normal(np.ones(len(every)), covariance)
    left = iter(scores.tolist())
    return [(tuple(next(left) for _ in group), group) for group in runs]


@pytest.mark.parametrize("drifts", [rough, smooth])
@pytest.mark.parametrize(("size", "least", "most"), [(0.0, 0.0, 0.5), (3.0, 2.0, 4.0), (10.0, 7.0, 13.0)])
def test_the_drift_is_found_in_its_size(
    size: float, least: float, most: float, drifts: Callable[[float, float], float]
) -> None:
    """What a rough one changes from one run to the next counts as scatter: about 2 σ of one of 10 σ."""
    rng, truth = np.random.default_rng(4), Noise(0.001, 0, drift=0.001 * size, scale_s=SCALE_S)
    found = [estimate(tuple(drawn_groups(rng, truth, drifts)), 0.001, 4.0, SCALE_S) for _ in range(25)]
    assert least <= np.median([noise.drift for noise in found]) / 0.001 <= most
    most_scatter = 1.6 if drifts is smooth else 1.6 + size / 10  # ratios lie on a coarse grid
    assert 0.8 < np.median([noise.sigma for noise in found]) / 0.001 < most_scatter


@pytest.mark.parametrize("drifts", [rough, smooth])
@pytest.mark.parametrize("size", [0.0, 1.0, 3.0, 10.0])
def test_two_errors_hold_the_truth_in_93_of_100_comparisons(
    size: float, drifts: Callable[[float, float], float]
) -> None:
    """A candidate run once against a baseline run thrice, up to eight run lengths apart; true difference 0."""
    rng, truth = np.random.default_rng(5), Noise(0.001, 0, drift=0.001 * size, offset=0.0005, scale_s=SCALE_S)
    held = []
    for _ in range(50):
        (theirs, their_runs), *others = drawn_groups(rng, truth, drifts)
        noise, base = estimate(((theirs, their_runs), *others), 0.001, 4.0, SCALE_S), measured(theirs, their_runs, 1)
        every = [(score, run) for group in others for score, run in zip(*group, strict=True)]
        near = [(score, run) for score, run in every if abs(run.at - their_runs[-1].at) <= SCALE_S]
        for score, run in near:
            diff, se = contrast(measured((score,), (run,)), base, noise)
            held.append(abs(diff) <= 2 * se)
    assert len(held) > 100 and np.mean(held) >= 0.93


def test_runs_that_disagree_over_hours_bring_doubt_and_runs_that_agree_settle_it() -> None:
    begin, slots = occasions(0, 0, 0, slots=("n/a", "n/b", "n/c")), ("n/a", "n/b", "n/c", "n/d")
    young = replace(board(measured((1.0, 1.0003, 0.9997), begin, 1)), run_s=RUN_S)
    first = lab_noise(young)
    assert first.drift > 0 and not is_unsteady(first) and undecided_below(first, SIGMA0) is None
    apart = measured((1.0, 1.0003, 0.9997, 1.0 + 4 * SIGMA0), (*begin, *occasions(16)), 1)
    doubt = lab_noise(replace(board(apart), run_s=RUN_S))
    assert doubt.drift > doubt.sigma / 2 and doubt.p_unsteady > first.p_unsteady
    near, far = (effect_of(measured((1.0,), occasions(at)), young.baseline, doubt) for at in (0.2, 16.0))
    assert far.se > 1.2 * near.se
    rng = random.Random(3)
    steady = [
        measured([rng.gauss(1, SIGMA0) for _ in range(4)], occasions(k, k + 9, k + 30, k + 50, slots=slots), k)
        for k in range(2, 20)
    ]
    assert lab_noise(replace(board(apart, *steady), run_s=RUN_S)).drift == 0


def repeats_on_a_wave(seed: int, size: float) -> tuple[Group, ...]:
    """Ideas repeated at once and a baseline measured now and then, on a machine whose wave takes 100 run lengths."""
    rng, phase = np.random.default_rng(seed), seed / 40
    begins = rng.uniform(0, 40, 60)
    groups = [*(occasions(begin, begin + rng.uniform(1, 2)) for begin in begins), occasions(0, 0.5, 1, 8, 20, 40)]

    def score(run: Occasion) -> float:
        wave = size * math.sin(2 * math.pi * (run.at / RUN_S / 100 + phase))
        return float(1 + 0.001 * (wave + rng.standard_normal()))

    return tuple((tuple(map(score, runs)), runs) for runs in groups)


def test_repeats_that_agree_one_after_the_other_make_a_slow_wave_no_smaller() -> None:
    """An amplitude of 3 σ is a standard deviation of 2.1 σ."""

    def found(size: float) -> list[Noise]:
        return [estimate(repeats_on_a_wave(seed, size), 0.001, 4.0, 24 * RUN_S) for seed in range(40)]

    wave, steady = found(3.0), found(0.0)
    assert 1.75 < np.median([noise.drift for noise in wave]) / 0.001 < 2.4
    assert np.median([noise.p_unsteady for noise in wave]) > 0.8
    assert np.median([noise.p_unsteady for noise in steady]) < 0.15


def test_only_the_newest_repeats_are_looked_at() -> None:
    old, new = ((1.0, 2.0), occasions(0, 1)), [((1.0, 1.0), occasions(50 + k, 60 + k)) for k in range(40)]
    assert newest([old, *new]) == tuple(new)
    straddles = ((1.0, 2.0, 3.0), occasions(1, 70, 71))
    assert newest([straddles, *new[2:]])[0] == straddles
    assert newest([straddles, *new[1:]])[0] == ((2.0, 3.0), straddles[1][1:])


def test_a_claims_own_scatter_is_taken_out_of_its_drift() -> None:
    """Two baselines rise and fall together: the interval is that of the pairs, not of the swing."""
    noise, swing = Noise(0.001, 40, drift=0.02, scale_s=SCALE_S), (0.0, 0.03, -0.02, 0.01)
    first = measured([1.0 + s for s in swing], occasions(0, 20, 40, 60), 1)
    final = measured([0.99 + s for s in swing], occasions(0.01, 20.01, 40.01, 60.01))
    claim = make_claim(first, final, noise)
    assert claim.diff == pytest.approx(-0.01, abs=2e-4) and claim.se < 0.002
    assert scatter_within((first, final), noise) < 0.01 * scatter_within((first, final), Noise(0.001, 40))
    assert make_claim(replace(first, occasions=()), replace(final, occasions=()), noise).se > 0.003


def test_what_a_suspect_score_was_measured_on_goes_with_it() -> None:
    runs = occasions(1, 2, 3)
    trusted = without_suspects(replace(measured((1.0, 0.5, 0.9), runs), suspect_scores=1))
    assert dict(zip(trusted.scores, trusted.occasions, strict=True)) == {1.0: runs[0], 0.9: runs[2]}


@pytest.mark.parametrize("moved", [0.0, 2.9, 3.1, 10.0])
def test_a_machine_too_noisy_to_decide_small_results_says_so(moved: float) -> None:
    below = undecided_below(Noise(SIGMA0, 9, drift=0.8 * moved * SIGMA0, offset=0.6 * moved * SIGMA0), SIGMA0)
    assert below == (pytest.approx(2 * moved * SIGMA0) if moved > 3 else None)


def test_its_sentence_has_both_figures() -> None:
    assert describe_undecided(0.06) == "load moves scores by 0.0300 here: results under 0.0600 are not decided"


def test_the_contracts_seed_part_is_believed_before_repeats_and_shifted_by_them() -> None:
    young = replace(board(measured((1.0,), occasions(0), 1)), run_s=RUN_S, noise_prior_seed_bpb=0.002)
    assert lab_noise(young).seed_sd == 0.002
    common = [measured([1.0 + s for s in (0.01, -0.01, 0.0)], occasions(k, k, k), 2 + k) for k in range(6)]
    noise = lab_noise(replace(board(baseline(), *common), run_s=RUN_S, noise_prior_seed_bpb=0.002))
    assert noise.seed_sd > 0.002 and noise.sigma < 0.002
