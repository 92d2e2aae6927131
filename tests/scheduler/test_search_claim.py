"""The end of a search: fresh runs of the first and the final baseline, alternating on the same slots, each once."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from scheduler.domain.run import Finished, RunKind
from scheduler.domain.search import SearchState
from scheduler.domain.slot import RunOrder
from scheduler.queue.runtime import StopReason
from scheduler.search import claim
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.lab_kit import as_the_source_says
from tests.scheduler.ledger_kit import SLOT, broken_invariants, finish, result_of
from tests.scheduler.memory_pool import Finishes, Outcome
from tests.scheduler.search_kit import SearchLab, press, scores, settings


def claim_runs(lab: SearchLab) -> list[tuple[str, str, Finished]]:
    """Candidate, slot and state of every claim run that is over, in the order in which they began."""
    runs = [(run.candidate_id, run.state) for run in lab.runs(RunKind.CLAIM)]
    over = [(ref, state.slot_id, state) for ref, state in runs if isinstance(state, Finished)]
    return sorted(over, key=lambda one: (one[2].started_at, one[1]))


@pytest.mark.parametrize(("slots", "wanted"), [(1, 4), (2, 4), (3, 4), (4, 4), (8, 4), (2, 1), (2, 3)])
def test_first_and_final_alternate_on_every_slot_and_are_run_equally_often(
    tmp_path: Path, slots: int, wanted: int
) -> None:
    lab = SearchLab(tmp_path, slots)
    lab.search(settings(runs=slots + 6, claim_runs=wanted), lab.fake(scores(1.7)))
    runs = claim_runs(lab)
    assert [ref for ref, _, _ in runs].count("c0001") == [ref for ref, _, _ in runs].count("c0002") == wanted
    by_slot: dict[str, list[str]] = {}
    for ref, slot, _ in runs:
        by_slot.setdefault(slot, []).append(ref)
    assert len(by_slot) <= wanted
    for refs in by_slot.values():
        assert all(before != after for before, after in pairwise(refs))
    first, final = (
        {run.seed for run in lab.runs(RunKind.CLAIM) if run.candidate_id == ref} for ref in ("c0001", "c0002")
    )
    assert first == final and len(first) == wanted
    assert not first & {run.seed for run in lab.runs() if run.kind is not RunKind.CLAIM}


def test_the_claim_is_of_its_own_runs_alone_and_they_decide_nothing(tmp_path: Path) -> None:
    lab = SearchLab(tmp_path)
    lab.search(settings(runs=8, claim_runs=2), lab.fake(scores(1.7)))
    (claim,) = lab.claims
    values = {ref: sorted(state.result.verdict.val_bpb for r, _, state in claim_runs(lab) if r == ref)  # type: ignore[union-attr]
              for ref in ("c0001", "c0002")}  # fmt: skip
    assert (sorted(claim.first_scores), sorted(claim.final_scores)) == (values["c0001"], values["c0002"])
    board = lab.space.ledger.board("t")
    assert board.of("c0001").n == 3 and board.of("c0002").n == 2
    last_result = max(state.finished_at for _, _, state in claim_runs(lab))
    assert all(record.decided_at < last_result for record in lab.space.ledger.decisions.history("t"))


def fails_in_claims(times: int) -> object:
    """A judge that fails so many runs of the final baseline after its first two."""
    seen: list[str] = []

    def outcome(order: RunOrder) -> Outcome:
        if b"1.7" in order.train_py:
            seen.append(order.key)
            if 2 < len(seen) <= 2 + times:
                return Finishes(json.dumps({"format": 1, "status": "crash", "reason": "bad luck"}), 20.0)
        return as_the_source_says(order)

    return outcome


@pytest.mark.parametrize(("failures", "final"), [(1, 2), (2, 2), (3, 1), (4, 0), (9, 0)])
def test_failed_claim_runs_are_replaced_twice_and_no_more(tmp_path: Path, failures: int, final: int) -> None:
    lab = SearchLab(tmp_path, outcome=fails_in_claims(failures))
    ended = lab.search(settings(runs=7, claim_runs=2), lab.fake(scores(1.7)))
    assert ended.state is SearchState.ENDED
    tried = [ref for ref, _, _ in claim_runs(lab)]
    assert tried.count("c0002") == 2 + min(failures, 2) and tried.count("c0001") == 2
    if final:
        assert len(lab.claims[0].final_scores) == final
    else:
        assert not lab.claims and "nothing to claim: none of the claim's runs of c0002" in ended.reason


def test_a_seed_that_one_side_lacks_is_given_to_it_before_a_new_one(tmp_path: Path) -> None:
    """One run is cancelled, which frees its seed; one crashes, which does not."""
    lab = SearchLab(tmp_path)
    lab.search(settings(runs=7, claim_runs=0), lab.fake(scores(1.7)))
    space, cpu = lab.space, replace(SLOT, pool=lab.runs()[0].pool)
    search = space.ledger.searches.start("t", settings(runs=1, claim_runs=3))
    measure = partial(claim.measure_claim, space, search, space.ledger.board("t"))
    assert measure() is None
    queued = {(run.candidate_id, run.seed): run for run in lab.runs(RunKind.CLAIM)}
    first, middle, last = sorted({seed for _, seed in queued})
    space.ledger.runs.cancel(queued["c0001", first].id, "by hand")
    finish(space.ledger, queued["c0001", middle], result_of("crash"), cpu)
    assert measure() is None
    finish(space.ledger, queued["c0002", last], result_of("crash"), cpu)
    assert measure() is None
    added = [(run.candidate_id, run.seed) for run in lab.runs(RunKind.CLAIM)][6:]
    assert added == [("c0001", first), ("c0001", last + 1), ("c0002", last + 1)]


def test_the_claim_of_a_later_search_is_paired_as_well(tmp_path: Path) -> None:
    lab = SearchLab(tmp_path)
    lab.search(settings(runs=7), lab.fake(scores(1.7)))
    lab.search(settings(runs=7), lab.fake(scores(1.6)))
    refs, claims = ("c0001", "c0002", "c0003"), lab.runs(RunKind.CLAIM)
    seeds = [[run.seed for run in claims if run.candidate_id == ref] for ref in refs]
    assert len(lab.claims) == 2 and seeds[0] == [*seeds[1], *seeds[2]] and len(set(seeds[0])) == 4


def test_no_claim_is_measured_where_none_was_asked_for(tmp_path: Path) -> None:
    lab = SearchLab(tmp_path)
    ended = lab.search(settings(runs=7, claim_runs=0), lab.fake(scores(1.7)))
    assert ended.state is SearchState.ENDED and not lab.claims and not lab.runs(RunKind.CLAIM)


@pytest.mark.parametrize("presses", [1, 2])
def test_interrupted_in_the_middle_the_claim_goes_on_without_a_run_twice(tmp_path: Path, presses: int) -> None:
    lab = SearchLab(tmp_path)
    armed = False

    def interrupt_after_the_first_pair() -> None:
        nonlocal armed
        if len(claim_runs(lab)) >= 2 and not armed:
            armed = True
            press(lab, {lab.clock(): signal.SIGINT} | ({lab.clock() + 2: signal.SIGINT} if presses == 2 else {}))

    lab.each_round = interrupt_after_the_first_pair
    ended = lab.search(settings(runs=7, claim_runs=4), lab.fake(scores(1.7)))
    assert (ended.ending, ended.state) == (StopReason.INTERRUPTED, SearchState.CLAIMING)
    measured = claim_runs(lab)
    assert 2 <= len(measured) < 8 and not lab.claims
    lab.each_round = lambda: None
    ended = lab.search(None)
    assert ended.state is SearchState.ENDED
    assert claim_runs(lab)[: len(measured)] == measured
    assert len(claim_runs(lab)) == 8 == len(lab.runs(RunKind.CLAIM))
    assert not broken_invariants(lab.space.paths.ledger)


def test_new_words_during_the_claim_do_not_reopen_the_search(tmp_path: Path) -> None:
    lab = SearchLab(tmp_path)
    lab.each_round = lambda: press(lab, {0.0: signal.SIGINT}) if lab.runs(RunKind.CLAIM) else None
    lab.search(settings(runs=7), lab.fake(scores(1.7)))
    lab.each_round = lambda: None
    ended = lab.search(settings(runs=100), lab.fake(scores(1.6)))
    assert ended.state is SearchState.ENDED and len(lab.claims) == 1
    assert lab.screen.said("give them again afterwards")
