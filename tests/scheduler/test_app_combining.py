"""Unions and ports: all patches that fit in one program, its commit the child of the baseline's, and all of it once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.domain.candidate import Candidate, CandidateState, Origin
from scheduler.domain.decision import Assembled, Combine, Promote
from scheduler.domain.errors import LedgerProblem
from scheduler.domain.run import RunKind
from scheduler.domain.slot import RunOrder
from scheduler.lab import Workspace
from scheduler.policy.source import fingerprint
from scheduler.policy.stats import effect_of, lab_noise
from scheduler.queue import decide
from scheduler.queue.decide import assemble, carry_out, decide_all, keep_refs, look
from tests.scheduler.git_kit import git, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import RUN_S, PlayedLab, constants
from tests.scheduler.ledger_kit import broken_invariants, finish, ok
from tests.scheduler.memory_pool import Finishes, Outcome

KNOBS = 12
PROGRAM = "".join(f"KNOB_{n} = 0  # the knob {n}\n" for n in range(KNOBS))


def turned(*knobs: int, value: int = 1, source: str = PROGRAM) -> str:
    """The program with these knobs at another value."""
    for n in knobs:
        source = source.replace(f"KNOB_{n} = 0 ", f"KNOB_{n} = {value} ")
    return source


@pytest.fixture
def played(tmp_path: Path) -> Iterator[PlayedLab]:
    played = PlayedLab(tmp_path, baseline=PROGRAM)
    for run in played.space.ledger.runs.queued("t"):
        finish(played.space.ledger, run, ok(1.9))
    yield played
    assert broken_invariants(played.space.paths.ledger) == []


def submitted(played: PlayedLab, name: str, source: str, title: str = "", score: float | None = None) -> Candidate:
    (queued,) = played.submit(name, source, title=title or name).queued
    assert queued.candidate is not None
    if score is not None:
        finish(played.space.ledger, played.space.ledger.runs.of_candidate(queued.candidate.id)[0], ok(score))
    return queued.candidate


def combined(played: PlayedLab, *parts: Candidate, halving: int = 0) -> Candidate | None:
    """Carry a merge out. Returns what came of it."""
    decision = Combine(played.space.baseline().id, tuple(part.id for part in parts), halving, -0.01, "runners-up")
    carry_out(played.space, look(played.space), decision, played.screen.say)
    made = played.space.ledger.board("t").merges[-1]
    return None if made.candidate_id is None else played.candidate(made.candidate_id)


def promoted(played: PlayedLab, candidate: Candidate) -> None:
    board = look(played.space).board
    effect = effect_of(board.of(candidate.id), board.baseline, lab_noise(board))
    decision = Promote(candidate.id, board.baseline_id, effect, "better")
    carry_out(played.space, look(played.space), decision, played.screen.say)


def source_of(space: Workspace, candidate: Candidate) -> str:
    return space.ledger.candidates.train_py(candidate.id).decode()


def test_a_union_has_the_changes_of_all_its_parts(played: PlayedLab) -> None:
    one, two = submitted(played, "one", turned(1), "turn one"), submitted(played, "two", turned(6, 9), "turn two")
    union = combined(played, two, one)
    assert union is not None and source_of(played.space, union) == turned(1, 6, 9)
    assert (union.name, union.title) == (f"union-{two.id}-{one.id}", "union of turn two + turn one")
    assert (union.origin, union.state, union.code_lines) == (Origin.UNION, CandidateState.CONTENDER, KNOBS)
    assert union.fingerprint == fingerprint(turned(1, 6, 9))
    (run,) = played.space.ledger.runs.of_candidate(union.id)
    assert run.kind is RunKind.UNION
    assert played.state("one") is played.state("two") is CandidateState.SHELVED
    assert played.screen.said(f"{union.id} {union.name} is queued: union of turn two + turn one")


def test_its_commit_is_a_child_of_the_baselines_and_kept(played: PlayedLab) -> None:
    one, two = submitted(played, "one", turned(1)), submitted(played, "two", turned(6))
    union = combined(played, one, two)
    root, first = played.space.repo.root, played.candidate("baseline").commit
    assert union is not None
    assert git(root, "rev-parse", f"{union.commit}^").strip() == first
    assert git(root, "diff", "--name-only", first, union.commit).split() == ["train.py"]
    assert git(root, "log", "-1", "--format=%(trailers:key=Union-of,valueonly)", union.commit).strip() == (
        f"{one.id} {two.id}"
    )
    assert git(root, "rev-parse", f"refs/arsched/t/{union.id}").strip() == union.commit


def test_a_port_brings_a_patch_to_a_newer_baseline(played: PlayedLab) -> None:
    late = submitted(played, "late", turned(2))
    promoted(played, submitted(played, "better", turned(8), score=1.7))
    port = combined(played, late)
    assert port is not None and source_of(played.space, port) == turned(2, 8)
    assert (port.name, port.title, port.origin) == (f"port-{late.id}", "port of late", Origin.PORT)
    assert port.base_id == played.space.baseline().id
    assert git(played.space.repo.root, "rev-parse", f"{port.commit}^").strip() == played.space.baseline_commit()


def test_constants_on_neighbouring_lines_and_foreign_line_ends_do_not_conflict(played: PlayedLab) -> None:
    one, two = submitted(played, "one", turned(3)), submitted(played, "two", turned(4, value=5))
    three = submitted(played, "three", "\ufeff" + turned(5, value=6).replace("\n", "\r\n"))
    union = combined(played, one, two, three)
    assert union is not None and played.space.ledger.board("t").merges[0].merged == (one.id, two.id, three.id)
    assert source_of(played.space, union) == turned(5, value=6, source=turned(4, value=5, source=turned(3)))


def test_the_best_part_is_never_the_one_that_conflicts(played: PlayedLab) -> None:
    """Parts come in the order of merit."""
    best, other, third = (
        submitted(played, "best", turned(3, value=7)),
        submitted(played, "other", turned(3, value=8)),
        submitted(played, "third", turned(9)),
    )
    union = combined(played, best, other, third)
    assert union is not None
    assert source_of(played.space, union) == turned(9, source=turned(3, value=7))
    assert played.space.ledger.board("t").merges[0].merged == (best.id, third.id)
    assert played.screen.said(f"{other.id} was left out: it conflicts")


def test_a_union_of_which_one_part_went_in_is_a_port(played: PlayedLab) -> None:
    late, other = submitted(played, "late", turned(3)), submitted(played, "other", turned(5, value=4))
    promoted(played, submitted(played, "better", turned(5, value=2), score=1.7))
    port = combined(played, other, late)
    assert port is not None and port.origin is Origin.PORT and port.name == f"port-{late.id}"


def test_nothing_comes_of_parts_that_all_conflict_and_they_stay_on_the_shelf(played: PlayedLab) -> None:
    other = submitted(played, "other", turned(5, value=4))
    promoted(played, submitted(played, "better", turned(5, value=2), score=1.7))
    before = played.space.ledger.runs.queued("t")
    assert combined(played, other) is None
    (merge,) = played.space.ledger.board("t").merges
    assert (merge.problem, merge.merged) == (f"nothing could be merged: {other.id}: it conflicts", ())
    assert played.state("other") is CandidateState.SHELVED
    assert [run.id for run in played.space.ledger.runs.queued("t")] == [
        run.id for run in before if run.candidate_id != other.id
    ]


def test_a_program_known_already_is_not_measured_as_something_new(played: PlayedLab) -> None:
    """Also a lone patch on the baseline it was made from is nothing new: it is that candidate."""
    one, two = submitted(played, "one", turned(1)), submitted(played, "two", turned(6))
    both = submitted(played, "both", turned(1, 6))
    assert combined(played, one, two) is None
    assert played.space.ledger.board("t").merges[0].problem == f"the same program as {both.id} both"
    assert combined(played, one) is None


def test_a_part_the_baseline_has_already_changes_nothing_more(played: PlayedLab) -> None:
    same, other = submitted(played, "same", turned(8) + "# and a warning\n"), submitted(played, "other", turned(1))
    promoted(played, submitted(played, "better", turned(8, 3), score=1.7))
    port = combined(played, same, other)
    assert port is not None and port.name == f"port-{other.id}"
    assert played.screen.said(f"{same.id} was left out: it changes nothing more")


def test_what_does_not_parse_together_is_left_out(played: PlayedLab) -> None:
    lines = PROGRAM.splitlines(keepends=True)
    quoted = "".join([*lines[:2], "S = '''\n", *lines[2:10], "'''\n", *lines[10:]])
    inside = "".join([*lines[:6], "T = '''t'''\n", *lines[6:]])
    one, two = submitted(played, "quoted", quoted), submitted(played, "inside", inside)
    three = submitted(played, "three", turned(0))
    union = combined(played, one, two, three)
    assert union is not None and played.space.ledger.board("t").merges[0].merged == (one.id, three.id)
    assert played.screen.said(f"{two.id} was left out: merged, it is no program: train.py does not parse")


def test_a_union_can_be_merged_again_when_its_base_has_moved(played: PlayedLab) -> None:
    one, two = submitted(played, "one", turned(1), "turn one"), submitted(played, "two", turned(6), "turn two")
    three = submitted(played, "three", turned(11), "turn three")
    union = combined(played, one, two)
    promoted(played, submitted(played, "better", turned(8), score=1.7))
    assert union is not None
    both = combined(played, union, three)
    assert both is not None and source_of(played.space, both) == turned(1, 6, 8, 11)
    assert both.title == "union of turn one + turn two + turn three"


def test_a_union_of_many_has_a_name_and_a_title_of_bounded_length(played: PlayedLab) -> None:
    parts = [submitted(played, f"part-{n}", turned(n), "x" * 90) for n in range(0, KNOBS, 2)]
    union = combined(played, *parts)
    assert union is not None and source_of(played.space, union) == turned(*range(0, KNOBS, 2))
    assert union.name == f"union-{'-'.join(part.id for part in parts[:4])}-and-2"
    assert len(union.title) == 200


def test_a_name_that_is_taken_gets_a_number(played: PlayedLab) -> None:
    one, two = submitted(played, "one", turned(1)), submitted(played, "two", turned(6))
    submitted(played, f"union-{one.id}-{two.id}", turned(4))
    union = combined(played, one, two)
    assert union is not None and union.name == f"union-{one.id}-{two.id}-2"


class Crash(Exception):
    """The process ends here."""


def crash(*_: object, **__: object) -> None:
    raise Crash


def test_a_crash_before_the_ledger_leaves_nothing_and_the_union_comes_once(
    played: PlayedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = submitted(played, "one", turned(1)), submitted(played, "two", turned(6))
    before = played.space.ledger.events.list("t")
    with monkeypatch.context() as patch:
        patch.setattr(played.space.ledger.decisions, "apply", crash)
        with pytest.raises(Crash):
            combined(played, one, two)
    assert played.space.ledger.events.list("t") == before and played.state("one") is CandidateState.OPEN
    union = combined(played, one, two)
    assert union is not None and union.name == f"union-{one.id}-{two.id}"
    assert len(played.space.ledger.candidates.list("t")) == 4


def test_a_crash_before_the_ref_is_healed(played: PlayedLab, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = submitted(played, "one", turned(1)), submitted(played, "two", turned(6))
    with monkeypatch.context() as patch:
        patch.setattr("scheduler.git.Repo.keep_ref", crash)
        with pytest.raises(Crash):
            combined(played, one, two)
    keep_refs(played.space)
    (union,) = [c for c in played.space.ledger.candidates.list("t") if c.origin is Origin.UNION]
    root = played.space.repo.root
    assert git(root, "rev-parse", f"refs/arsched/t/{union.id}").strip() == union.commit


def test_a_lock_that_git_left_does_not_end_the_queue(played: PlayedLab) -> None:
    one, two = submitted(played, "one", turned(1)), submitted(played, "two", turned(6))
    left = played.space.repo.root / ".git" / "refs" / "arsched" / "t" / "c0004.lock"
    left.touch()
    union = combined(played, one, two)
    assert union is not None and union.id == "c0004"
    left.unlink()
    keep_refs(played.space)
    root = played.space.repo.root
    assert git(root, "rev-parse", "refs/arsched/t/c0004").strip() == union.commit


def test_a_program_submitted_meanwhile_is_seen_when_the_merge_is_written(
    played: PlayedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The union was assembled on a board of the past: it is decided again, and found to be known."""
    one, two = submitted(played, "one", turned(1)), submitted(played, "two", turned(6))
    union = Combine(played.space.baseline().id, (one.id, two.id), 0, -0.01, "runners-up")
    tries = 0

    def assemble_slowly(space: Workspace, decision: Combine) -> Assembled | str:
        nonlocal tries
        tries += 1
        made = assemble(space, decision)
        if tries == 1:
            submitted(played, "both", turned(1, 6))
        return made

    monkeypatch.setattr(decide, "assemble", assemble_slowly)
    monkeypatch.setattr(decide, "decide", lambda board: None if board.merges else union)
    assert decide_all(played.space, played.screen.say) == 1
    (merge,) = played.space.ledger.board("t").merges
    assert tries == 2 and merge.problem == f"the same program as {played.candidate('both').id} both"
    assert played.screen.said("nothing came of it: the same program as")


def test_a_merge_decided_by_two_is_made_by_the_first(played: PlayedLab) -> None:
    one, two = submitted(played, "one", turned(1)), submitted(played, "two", turned(6))
    decision, moment = Combine("c0001", (one.id, two.id), 0, -0.01, "runners-up"), look(played.space)
    carry_out(played.space, moment, decision, played.screen.say)
    with pytest.raises(LedgerProblem):
        carry_out(played.space, moment, decision, played.screen.say)
    assert len(played.space.ledger.board("t").merges) == 1


def test_the_mark_of_a_decision_is_that_of_the_board_it_was_taken_on(played: PlayedLab) -> None:
    one = submitted(played, "one", turned(1))
    promoted(played, submitted(played, "better", turned(8), score=1.7))
    moment = look(played.space)
    finish(played.space.ledger, played.space.ledger.runs.add("c0001", RunKind.CLAIM, "later"), ok(1.9))
    carry_out(played.space, moment, Combine(moment.board.baseline_id, (one.id,), 0, 0.0, "late"), played.screen.say)
    assert played.space.ledger.decisions.history("t")[-1].result_mark == moment.result_mark == 4


GOOD = (0, 3, 6, 9)  # knobs that each gain ten standard errors


def as_the_knobs_say(order: RunOrder) -> Outcome:
    """Effects add up; seeds scatter by a thousandth."""
    said = constants(order)
    score = 1.9 - sum(0.05 for n in GOOD if said[f"KNOB_{n}"]) + (order.seed % 3 - 1) * 0.001
    digests = {"cache": order.cache_digest, "train_py": order.train_sha256}
    raw = {"format": 1, "status": "ok", "reason": "", "val_bpb": score, "seed": order.seed, "digests": digests}
    return Finishes(json.dumps(raw), RUN_S, log="")


def test_good_patches_all_end_up_in_the_baseline_though_only_one_can_be_first(tmp_path: Path) -> None:
    """Submitted at once, measured at once: the one that wins moves the baseline away from under the others."""
    played = PlayedLab(tmp_path, slots=4, outcome=as_the_knobs_say, baseline=PROGRAM)
    for n in GOOD:
        played.submit(f"knob-{n}", turned(n))
    played.submit("useless", turned(5))
    played.run()
    ledger = played.space.ledger
    assert source_of(played.space, played.space.baseline()) == turned(*GOOD)
    assert played.state("useless") is CandidateState.DISCARDED
    assert ledger.board("t").undecided == () and not ledger.runs.queued("t")
    commits = git(played.space.repo.root, "rev-list", played.space.lab.branch).split()
    assert [made.commit for made in reversed(ledger.decisions.promotions("t"))] == commits[:-2]
    assert broken_invariants(played.space.paths.ledger) == []
