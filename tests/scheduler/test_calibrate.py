"""`arsched calibrate`: the estimate of slots' offsets, each seed once on every slot, and that it decides nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.actions.calibrate import calibration_runs, queue_calibration
from scheduler.cli import calibrate as verb
from scheduler.cli.main import main
from scheduler.domain.errors import UsageProblem
from scheduler.domain.run import Cancelled, Finished, Queued, Run, RunKind, Running, parse_result
from scheduler.domain.slot import RunOrder
from scheduler.policy.calibration import SlotScore, estimate_offsets, fit_to_slots, pair_calibration
from scheduler.screens.details import calibration_screen
from scheduler.screens.terminal import painted
from scheduler.views.calibration import CalibrationView, calibration_view
from scheduler.views.facts import LabFacts
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab, as_the_source_says
from tests.scheduler.ledger_kit import broken_invariants
from tests.scheduler.memory_pool import Finishes, Outcome

SIGMA = 0.001


def simulated(slots: int, seeds: int, spread: float, rng: np.random.Generator) -> tuple[list[SlotScore], np.ndarray]:
    """Scores and the true offsets from the mean of all slots; seeds move every slot alike, and far."""
    truth, by_seed = rng.normal(0, spread * SIGMA, slots), rng.normal(0, 5 * SIGMA, seeds)
    scores = [
        SlotScore(f"n/gpu{slot}", seed, 1 + truth[slot] + by_seed[seed] + rng.normal(0, SIGMA))
        for slot in range(slots)
        for seed in range(seeds)
    ]
    return scores, truth - truth.mean()


@pytest.mark.parametrize(
    ("slots", "seeds", "spread", "found"), [(8, 3, 0, 0.0), (2, 3, 0, 0.0), (8, 3, 2, 0.45), (8, 2, 5, 0.7)]
)
def test_offsets_are_found_and_errors_are_honest(slots: int, seeds: int, spread: float, found: float) -> None:
    rng, far, covered, squares, plain = np.random.default_rng(1), 0, 0, 0.0, 0.0
    for _ in range(100):
        scores, truth = simulated(slots, seeds, spread, rng)
        offsets = estimate_offsets(scores, SIGMA, 4)
        means = np.array([np.mean([s.val_bpb for s in scores if s.slot_id == one.slot_id]) for one in offsets])
        plain += float(((means - means.mean() - truth) ** 2).sum())
        for offset, true in zip(offsets, truth, strict=True):
            far += offset.differs
            covered += abs(offset.offset_bpb - true) <= 2 * offset.error_bpb
            squares += (offset.offset_bpb - true) ** 2
    runs = 100 * slots
    assert covered / runs > 0.92 and squares <= plain * 1.02  # shrinking never costs
    assert far / runs < 0.01 if not spread else far / runs > found


def test_what_a_seed_does_to_all_slots_is_no_offset_and_a_missing_run_none_either() -> None:
    scores = [SlotScore(slot, seed, 1 + 0.1 * seed) for seed in range(3) for slot in ("a", "b", "c")]
    for gone in (scores, scores[1:], scores[:-2]):
        assert all(abs(one.offset_bpb) < 1e-9 and not one.differs for one in estimate_offsets(gone, SIGMA, 4))
    shifted = [s._replace(val_bpb=s.val_bpb + 0.02 * (s.slot_id == "b")) for s in scores]
    low, high, last = estimate_offsets(shifted[1:], SIGMA, 4)
    assert high.differs and high.offset_bpb == pytest.approx(0.02 * 2 / 3, rel=0.1)
    assert low.offset_bpb == pytest.approx(-0.02 / 3, rel=0.2) and last.differs


@pytest.mark.parametrize("scores", [[], [SlotScore("a", 1, 1.0)], [SlotScore("a", 1, 1.0), SlotScore("b", 2, 2.0)]])
def test_too_little_to_compare_is_no_difference(scores: list[SlotScore]) -> None:
    assert not any(one.differs or one.offset_bpb for one in estimate_offsets(scores, SIGMA, 4))


def calibrating(number: int, seed: int, slot: str = "", over: bool = False) -> Run:
    state = Queued(0.0) if not slot else Running(1, slot, "b", 0.0)
    if over:
        state = Finished(1, slot, 0.0, 1.0, parse_result('{"format": 1, "status": "crash"}'))
    return Run(f"r{number:04d}", "c0001", RunKind.CALIBRATION, seed, 0, "", state)


@given(st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")), st.integers(1, 3), st.integers(0, 9))
def test_every_usable_slot_gets_each_seed_once(before: set[str], usable: set[str], seeds: int, queued: int) -> None:
    """`before`: slots that have measured the first seed; `queued` runs too many or too few."""
    runs = [calibrating(n, 1, slot, over=n % 2 == 0) for n, slot in enumerate(sorted(before))]
    runs += [calibrating(100 + seed, seed) for seed in range(1, seeds + 1)]
    runs += [calibrating(200 + n, seeds) for n in range(queued)]
    change = fit_to_slots(runs, sorted(usable))
    left = [run for run in runs if run not in change.cancel]
    left += [calibrating(900 + n, seed) for n, (_, seed) in enumerate(change.add)]
    assert all(isinstance(run.state, Queued) for run in change.cancel)
    if not usable:
        assert not change.add and not change.cancel
        return
    history = [(run.slot_id, run.seed) for run in left if run.slot_id]
    while True:
        waiting = [run for run in left if isinstance(run.state, Queued)]
        pairs = pair_calibration(waiting, sorted(usable), left)
        if not pairs:
            break
        for run, slot in pairs:
            left[left.index(run)] = calibrating(int(run.id[1:]), run.seed, slot, over=True)
            history.append((slot, run.seed))
    assert not [run for run in left if isinstance(run.state, Queued)]
    assert len(set(history)) == len(history)
    assert {(slot, seed) for slot in usable for seed in range(1, seeds + 1)} <= set(history)


def with_offset(order: RunOrder) -> Outcome:
    made = as_the_source_says(order)
    assert isinstance(made, Finishes)
    raw = json.loads(made.result_text) | {"training": {"steps": 500 + order.attempt, "tokens_per_s": 1e6}}
    return Finishes(json.dumps(raw), made.after_s)


@pytest.fixture
def played(tmp_path: Path) -> PlayedLab:
    made = PlayedLab(tmp_path, slots=3, outcome=with_offset)
    made.submit("worse", "SCORE = 1.95\n")
    made.run()
    return made


def seen(played: PlayedLab) -> CalibrationView:
    facts = LabFacts(played.space.ledger, played.space.lab, whole=False)
    runs = calibration_runs(played.space)
    return calibration_view(facts, runs[0].candidate_id, runs)


def places(played: PlayedLab) -> list[tuple[str, int]]:
    return sorted((run.slot_id, run.seed) for run in calibration_runs(played.space))


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_the_baselines_own_runs_go_before_a_calibrations(tmp_path: Path, slots: int) -> None:
    """As the order says that `explain` reads: decisions wait for them."""
    played = PlayedLab(tmp_path, slots, with_offset)
    own = [run.id for run in played.space.ledger.runs.queued("t")]
    played.submit("idea", "SCORE = 1.95\n")
    queue_calibration(played.space, 2)
    played.run()
    its = [run.id for run in calibration_runs(played.space)]
    began = [order.run_id for order in played.pool.started]
    (idea,) = (run.id for run in played.space.ledger.runs.of_candidate("c0002"))
    assert began[:3] == own and len(its) == 2 * slots
    assert slots > 1 or began.index(idea) > max(map(began.index, its))


def test_the_baseline_runs_with_the_same_seeds_on_every_slot_and_nothing_is_decided(played: PlayedLab) -> None:
    board, decisions = played.space.ledger.board("t"), played.space.ledger.decisions.history("t")
    queue_calibration(played.space, 2)
    played.run()
    view = seen(played)
    slots = sorted({slot.id for slot in played.pool.slots()})
    assert places(played) == [(slot, seed) for slot in slots for seed in view.seeds] and len(view.seeds) == 2
    assert [(row.slot, row.runs, row.steps) for row in view.slots] == [(slot, 2, 501) for slot in slots]
    assert view.candidate == "c0001" and view.waiting == view.failed == 0 and "no slot differs" in view.sentence
    assert played.space.ledger.board("t").standings == board.standings
    assert played.space.ledger.decisions.history("t") == decisions
    shown = painted(calibration_screen(view))
    assert all(words in shown for words in (*slots, "offset ± error", "501", "no slot differs"))
    assert not broken_invariants(played.space.paths.ledger)


def test_its_seeds_are_of_no_other_run(played: PlayedLab) -> None:
    queue_calibration(played.space, 2)
    known = {run.seed for run in calibration_runs(played.space)}
    later = [played.space.ledger.runs.add(ref, RunKind.REPEAT, "x").seed for ref in ("c0001", "c0002") * 6]
    assert not known & set(later)
    with pytest.raises(UsageProblem, match="has had seed"):
        played.space.ledger.runs.add("c0001", RunKind.AUDIT, "x", min(known))


def test_repeated_it_adds_what_is_missing_and_a_new_slot_gets_all_seeds(played: PlayedLab) -> None:
    queue_calibration(played.space, 2)
    played.run()
    before = places(played)
    queue_calibration(played.space, 2)
    played.run()
    assert places(played) == before  # nothing was missing
    played.pool.add_slot(replace(played.pool.slots()[0], id="new/cpu0", node="new"))
    queue_calibration(played.space, 3)
    played.run()
    seeds = {seed for _, seed in places(played)}
    assert len(seeds) == 3
    assert places(played) == sorted((slot.id, seed) for slot in played.pool.slots() for seed in seeds)


def test_a_lost_slot_leaves_nothing_waiting(played: PlayedLab) -> None:
    queue_calibration(played.space, 2)
    gone = played.pool.slots()[2].id

    def lose() -> None:
        if any(isinstance(run.state, Running) and run.slot_id == gone for run in calibration_runs(played.space)):
            played.pool.lose_slot(gone)
            played.each_round = lambda: None

    played.each_round = lose
    played.run()
    runs = played.space.ledger.runs.of_kind("t", RunKind.CALIBRATION)
    assert not [run for run in runs if isinstance(run.state, Queued | Running)]
    assert any(isinstance(run.state, Cancelled) for run in runs)
    rest = {slot.id for slot in played.pool.slots()}
    assert {slot for slot, _ in places(played)} >= rest
    assert all(row.runs == 2 for row in seen(played).slots if row.slot in rest)


def test_a_slot_whose_scores_lie_apart_is_named(played: PlayedLab) -> None:
    odd = played.pool.slots()[1].id
    played.pool._outcome = lambda order: moved(with_offset(order), played, order, odd)  # type: ignore[assignment]
    queue_calibration(played.space, 3)
    played.run()
    view = seen(played)
    assert [row.slot for row in view.slots if row.differs and row.offset_bpb > 0] == [odd]
    assert odd in view.sentence and "differ" in view.sentence


def moved(made: Outcome, played: PlayedLab, order: RunOrder, odd: str) -> Outcome:
    assert isinstance(made, Finishes)
    run = played.space.ledger.runs.get(order.run_id, "t")
    raw = json.loads(made.result_text)
    raw["val_bpb"] += 0.05 * (run.slot_id == odd)
    return Finishes(json.dumps(raw), made.after_s)


def test_equal_scores_with_one_seed_are_no_clones(played: PlayedLab) -> None:
    queue_calibration(played.space, 2)
    played.run()
    verdicts = [run.state.result.verdict for run in calibration_runs(played.space) if isinstance(run.state, Finished)]
    assert {verdict.status for verdict in verdicts} == {"ok"} and len(verdicts) == 6


def test_the_verb(played: PlayedLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(verb, "run_and_watch", lambda *_: played.run() and 0)
    monkeypatch.chdir(played.space.repo.root)
    for words, runs in ((["--dry-run"], 0), ([], 9), (["--runs", "2"], 9), (["--runs", "4"], 12)):
        with pytest.raises(SystemExit) as ended:
            main(["calibrate", *words, "--json"])
        said = json.loads(capsys.readouterr().out)
        assert not ended.value.code and sum(row["runs"] for row in said["slots"]) == runs
    assert set(said) >= {"candidate", "seeds", "waiting", "failed", "sentence"}
    assert set(said["slots"][0]) >= {"slot", "offset_bpb", "error_bpb", "differs", "steps", "tokens_per_s", "speed"}
