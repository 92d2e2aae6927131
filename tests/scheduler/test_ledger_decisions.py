"""Decisions in the ledger: all or nothing, only from the state they start from, and judged the same when read back."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import norm

from scheduler.domain.candidate import CandidateState, CandidateStats
from scheduler.domain.decision import (
    PRESETS,
    Decision,
    Discard,
    Effect,
    MeasureBaseline,
    Noise,
    Promote,
    Replicate,
    Retry,
)
from scheduler.domain.errors import LedgerProblem
from scheduler.domain.run import Cancelled, Queued, RunKind
from scheduler.ledger import Ledger
from scheduler.policy.gates import MAX_FAILED
from tests.scheduler.ledger_kit import (
    NOISE,
    add_candidate,
    broken_invariants,
    effect,
    finish,
    measure,
    ok,
    open_ledger,
    result_of,
    start_lab,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with open_ledger(path) as ledger:
        start_lab(ledger)
        measure(ledger, add_candidate(ledger, "wide"), 1.85)
        yield ledger
    assert broken_invariants(path) == []


def apply(ledger: Ledger, decision: Decision, commit: str | None = None) -> None:
    ledger.decisions.apply("t", decision, noise=NOISE, sentence=f"sentence of {type(decision).__name__}", commit=commit)


def state_of(ledger: Ledger, ref: str) -> CandidateState:
    return ledger.candidates.get(ref, "t").state


def test_a_promotion_changes_the_baseline(ledger: Ledger) -> None:
    promote = Promote("c0002", "c0001", effect(), "clearly better")
    apply(ledger, promote, commit="f" * 40)
    assert (state_of(ledger, "c0001"), state_of(ledger, "c0002")) == (CandidateState.PROMOTED, CandidateState.BASELINE)
    board = ledger.board("t")
    assert (board.baseline_id, board.first_baseline) == ("c0002", False)
    (promotion,) = ledger.decisions.promotions("t")
    assert (promotion.candidate_id, promotion.base_id, promotion.commit) == ("c0002", "c0001", "f" * 40)
    assert promotion.effect == promote.effect
    assert promotion.sentence == "sentence of Promote"


def test_a_repeat_makes_a_contender_with_the_next_seed(ledger: Ledger) -> None:
    apply(ledger, Replicate("c0002", "c0001", effect(), "promising"))
    assert state_of(ledger, "c0002") is CandidateState.CONTENDER
    run = ledger.runs.get("last", "t")
    assert (run.candidate_id, run.kind, run.seed) == ("c0002", RunKind.REPEAT, 2)
    assert isinstance(run.state, Queued)
    measure(ledger, ledger.candidates.get("c0002", "t"), 1.86)
    apply(ledger, Replicate("c0002", "c0001", effect(2), "still unclear"))
    assert len(ledger.runs.of_candidate("c0002")) == 3


@pytest.mark.parametrize(
    ("contract", "seeds"),
    [
        ('{"noise_prior_seed_bpb": 0.0}', [1, 2, 3, 4, 5]),
        ('{"noise_prior_seed_bpb": 0.01}', [1, 2, 3, 1, 2]),
        ("{}", [1, 2, 3, 1, 2]),
    ],
)
def test_runs_beyond_the_usual_have_the_baselines_seeds_where_seeds_move_scores(
    tmp_path: Path, contract: str, seeds: list[int]
) -> None:
    with open_ledger(tmp_path / "ledger.db") as ledger:
        start_lab(ledger, contract_json=contract)
        ref = add_candidate(ledger, "in-doubt").id
        for n in range(1, 5):
            measure(ledger, ledger.candidates.get(ref, "t"), 1.86 + n / 1000)
            apply(ledger, Replicate(ref, "c0001", effect(n), "0.998 is asked"))
        assert [run.seed for run in ledger.runs.of_candidate(ref)] == seeds
    assert broken_invariants(tmp_path / "ledger.db") == []


def test_a_repeat_that_scores_what_its_seed_scored_before_is_no_further_evidence(ledger: Ledger) -> None:
    """Where nothing but the seed is random, runs beyond the usual would only make a chance look surer."""
    scores = 1.85, 1.87, 1.88, 1.85, 1.87  # the first is measured
    for n, score in enumerate(scores[1:], 2):
        apply(ledger, Replicate("c0002", "c0001", effect(min(n - 1, 3)), "0.998 is asked"))
        measure(ledger, ledger.candidates.get("c0002", "t"), score)
        stats = ledger.board("t").of("c0002")
        assert (stats.scores, stats.failed_runs) == (scores[: min(n, 3)], max(0, n - 3))
        assert len(stats.occasions) == stats.n
    assert "said nothing new: with seed 2 it had that very score before" in stats.failure
    assert stats.failed_runs == MAX_FAILED  # and it is measured no more


def test_a_measured_candidate_is_discarded_an_unmeasured_one_failed(ledger: Ledger) -> None:
    crashes = add_candidate(ledger, "crashes")
    finish(ledger, ledger.runs.get("last", "t"), result_of("crash", reason="exit status 1"))
    apply(ledger, Discard("c0002", "c0001", effect(), "within noise"))
    apply(ledger, Discard(crashes.id, "c0001", None, "crash"))
    assert state_of(ledger, "c0002") is CandidateState.DISCARDED
    assert state_of(ledger, crashes.id) is CandidateState.FAILED


def test_a_discarded_candidate_takes_no_more_slots(ledger: Ledger) -> None:
    twice = add_candidate(ledger, "twice", runs=2)
    finish(ledger, ledger.runs.of_candidate(twice.id)[0], ok(2.5))
    apply(ledger, Discard(twice.id, "c0001", effect(), "far worse"))
    assert isinstance(ledger.runs.of_candidate(twice.id)[1].state, Cancelled)


def test_the_baseline_is_measured_again(ledger: Ledger) -> None:
    apply(ledger, MeasureBaseline("c0001", "one run is not enough"))
    run = ledger.runs.get("last", "t")
    assert (run.candidate_id, run.kind) == ("c0001", RunKind.BASELINE)


def test_a_failed_repeat_is_tried_again(ledger: Ledger) -> None:
    apply(ledger, Replicate("c0002", "c0001", effect(), "promising"))
    finish(ledger, ledger.runs.get("last", "t"), result_of("crash", reason="a repeat crashed"))
    apply(ledger, Retry("c0002", "once more"))
    assert ledger.runs.get("last", "t").kind is RunKind.REPEAT
    assert ledger.decisions.of_candidate("c0002")[-1].decision == Retry("c0002", "once more")


PROMOTE = Promote("c0002", "c0001", effect(), "better")
REPEAT = Replicate("c0002", "c0001", effect(), "promising")
DISCARD = Discard("c0002", "c0001", effect(), "within noise")


def discard(ledger: Ledger) -> None:
    apply(ledger, DISCARD)


def promote(ledger: Ledger) -> None:
    apply(ledger, PROMOTE, commit="f" * 40)


def cancel(ledger: Ledger) -> None:
    ledger.candidates.cancel("c0002", "changed my mind")


def measure_candidate(ledger: Ledger) -> None:
    finish(ledger, ledger.runs.add("c0002", RunKind.REPEAT, "by hand"), ok(1.9))


def measure_baseline(ledger: Ledger) -> None:
    finish(ledger, ledger.runs.add("c0001", RunKind.BASELINE, "by hand"), ok(1.93))


def do_nothing(ledger: Ledger) -> None:
    pass


REFUSED: dict[str, tuple[Callable[[Ledger], None], Decision]] = {
    "the candidate is discarded": (discard, PROMOTE),
    "the candidate is cancelled": (cancel, REPEAT),
    "the candidate is the baseline": (promote, PROMOTE),
    "the baseline is another": (promote, MeasureBaseline("c0001", "more")),
    "the base is no baseline": (do_nothing, Promote("c0002", "c0002", effect(1, 1), "better")),
    "another score came in": (measure_candidate, PROMOTE),
    "the baseline was measured again": (measure_baseline, DISCARD),
    "there is no such candidate": (do_nothing, Retry("c0099", "once more")),
    "it is no contender": (do_nothing, Retry("c0002", "once more")),
    "a candidate is no baseline": (do_nothing, MeasureBaseline("c0002", "more")),
}


@pytest.mark.parametrize(("before", "decision"), REFUSED.values(), ids=REFUSED)
def test_a_decision_from_another_state_writes_nothing(
    ledger: Ledger, path: Path, before: Callable[[Ledger], None], decision: Decision
) -> None:
    before(ledger)
    content = _dump(path)
    with pytest.raises(LedgerProblem):
        apply(ledger, decision, commit="e" * 40)
    assert _dump(path) == content


def test_a_promotion_without_its_commit_writes_nothing(ledger: Ledger, path: Path) -> None:
    content = _dump(path)
    with pytest.raises(ValueError, match="commit"):
        apply(ledger, Promote("c0002", "c0001", effect(), "x"))
    assert _dump(path) == content


def test_every_kind_of_decision_is_read_back_as_it_was(ledger: Ledger) -> None:
    taken: list[Decision] = [
        MeasureBaseline("c0001", "once more"),
        Replicate("c0002", "c0001", effect(), "promising"),
        Retry("c0002", "the repeat crashed"),
        Promote("c0002", "c0001", effect(), "better"),
        Discard(add_candidate(ledger, "late", base_id="c0001").id, "c0002", None, "crash"),
    ]
    for decision in taken:
        apply(ledger, decision, commit="f" * 40)
    history = ledger.decisions.history("t")
    assert [record.decision for record in history] == taken
    assert [record.kind for record in history] == ["measure-baseline", "replicate", "retry", "promote", "discard"]


def judge_again(candidate: CandidateStats, base: CandidateStats, noise: Noise) -> float:
    """P(better), from the published formula and scipy's normal distribution."""
    error = noise.sigma * math.sqrt(1 / len(candidate.scores) + 1 / len(base.scores))
    means = [sum(s.scores) / len(s.scores) for s in (base, candidate)]
    return float(norm.cdf((means[0] - means[1]) / error))


def test_a_decision_is_judged_the_same_from_the_ledger_whatever_came_after(ledger: Ledger) -> None:
    board = ledger.board("t")
    p = judge_again(board.of("c0002"), board.baseline, NOISE)
    apply(ledger, Replicate("c0002", "c0001", replace(effect(), p_better=p), "promising"))
    # Later scores, another rule and another state must not reach into what was decided before.
    measure(ledger, ledger.candidates.get("c0002", "t"), 1.99)
    finish(ledger, ledger.runs.add("c0001", RunKind.BASELINE, "more"), ok(1.70))
    ledger.labs.set_gates("t", PRESETS["strict"])
    (record,) = ledger.decisions.history("t")
    assert (record.candidate, record.base) == (board.of("c0002"), board.baseline)
    assert (record.noise, record.gates) == (NOISE, PRESETS["default"])
    assert isinstance(record.decision, Replicate)
    assert judge_again(record.candidate, record.base, record.noise) == record.decision.effect.p_better == p


def test_numbers_come_back_to_the_last_bit(ledger: Ledger) -> None:
    exact = Effect(-0.1 - 0.2, 1 / 3, 2 / 7, 1, 3, 0.1 + 0.2, -1e-17)
    noise = Noise(sigma=0.1 + 0.7, df=3)
    ledger.decisions.apply("t", Discard("c0002", "c0001", exact, "x"), noise=noise, sentence="µ ± \ud800 σ")
    (record,) = ledger.decisions.history("t")
    assert isinstance(record.decision, Discard)
    assert (record.decision.effect, record.noise) == (exact, noise)


@pytest.mark.parametrize("table", ["decision", "promotion"])
def test_decisions_cannot_be_rewritten(ledger: Ledger, path: Path, table: str) -> None:
    apply(ledger, Promote("c0002", "c0001", effect(), "better"), commit="f" * 40)
    for statement in (f"UPDATE {table} SET tag = tag", f"DELETE FROM {table}"):
        with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)


def _dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())
