"""The demo: its place, its edits, its climb, on real git and ledger, a pool in memory. `make demo` trains for real."""

from __future__ import annotations

import ast
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.cli import demo
from scheduler.cli.demo import EDITS, demo_place, look_around, second_round, shared_pool
from scheduler.domain.candidate import CandidateState
from scheduler.domain.errors import CandidateRejected
from scheduler.domain.slot import RunOrder
from scheduler.git import Repo
from scheduler.lab import Workspace
from scheduler.policy.constants import read_constants
from scheduler.policy.source import fingerprint
from scheduler.queue.runtime import Interrupt, PollIntervals, PoolHandle, Runtime, StopReason
from scheduler.shipped import SHIPPED
from tests.scheduler.git_kit import git, no_configuration  # noqa: F401 -- an autouse fixture
from tests.scheduler.lab_kit import RecordingScreen, make_space
from tests.scheduler.memory_pool import MemoryPool, Outcome, VirtualClock, failed, scored

CHECKOUT = Path(__file__).resolve().parents[2]
TRAIN = (CHECKOUT / "train.py").read_text(encoding="utf-8")


# Edits


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_an_edit_changes_its_constants_and_nothing_else(edit) -> None:
    edited = edit.apply(TRAIN)
    before, after = read_constants(TRAIN), read_constants(edited)
    assert after == {**before, **edit.values} != before
    changed = [line for line in edited.splitlines() if line not in TRAIN.splitlines()]
    assert 1 <= len(changed) <= len(edit.values)
    ast.parse(edited)


def test_no_two_edits_say_the_same() -> None:
    prints = {fingerprint(edit.apply(TRAIN)) for edit in EDITS}
    assert len(prints | {fingerprint(TRAIN)}) == len(EDITS) + 1 >= 7


def test_the_second_round_leaves_out_what_won() -> None:
    winner = next(edit for edit in EDITS if edit.name == "depth-1")
    chosen = second_round(winner.apply(TRAIN), "depth-1")
    assert [edit.name for edit in chosen] == ["no-softcap-on-depth-1", "unembedding-lr-0.008-on-depth-1"]
    assert all(len(edit.name) <= 64 for edit in second_round(TRAIN, "x" * 60))


def test_a_train_py_without_the_constants_is_refused() -> None:
    with pytest.raises(CandidateRejected):
        EDITS[0].apply("x = 1\n")


# The place


def test_a_place_is_a_repository_of_its_own_without_any_configured_user(tmp_path: Path) -> None:
    outer = tmp_path / "checkout"
    outer.mkdir()
    git(outer, "init", "--quiet")
    with demo_place(outer / "demo", CHECKOUT) as place:
        assert place.root == (outer / "demo" / "1").resolve() and not place.resumed
        assert Repo.open(place.root).root == place.root
        assert git(place.root, "status", "--porcelain") == ""
        assert sorted(git(place.root, "ls-files").split()) == sorted([".gitignore", *SHIPPED])
        assert (place.root / "train.py").read_text() == TRAIN


def test_a_finished_demo_is_left_alone_and_an_unfinished_one_gone_on_with(tmp_path: Path) -> None:
    with demo_place(tmp_path, CHECKOUT) as first:
        pass
    with demo_place(tmp_path, CHECKOUT) as again:
        assert again.root == first.root
    (first.root / "report").mkdir()
    (first.root / "report" / "progress.png").write_bytes(b"done")
    with demo_place(tmp_path, CHECKOUT) as second:
        assert second.root.name == "2"


def test_two_demos_at_once_take_two_places(tmp_path: Path) -> None:
    with demo_place(tmp_path, CHECKOUT) as first, demo_place(tmp_path, CHECKOUT) as second:
        assert {first.root.name, second.root.name} == {"1", "2"}


@pytest.mark.parametrize("left", ["train.py", ".git", ".gitignore", "candidates"])
def test_a_place_interrupted_while_it_was_made_is_finished(tmp_path: Path, left: str) -> None:
    """Only one of its parts is there: as a kill anywhere in the making leaves it."""
    with demo_place(tmp_path, CHECKOUT) as whole:
        root = whole.root
    if left == ".git":
        shutil.rmtree(root / ".git")
        git(root, "init", "--quiet")
    for entry in root.iterdir():
        if entry.name not in (left, ".arsched"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    with demo_place(tmp_path, CHECKOUT) as again:
        assert again.root == root and git(root, "status", "--porcelain") == ""
        assert sorted(git(root, "ls-files").split()) == sorted([".gitignore", *SHIPPED])


# The climb

# The constants of train.py, far enough from each other for edits of two of them to merge.
SMALL = "\n".join(f"# {name}:\n#\n#\n{name} = {value!r}\n" for name, value in read_constants(TRAIN).items())


class Climb:
    """A demo lab on a pool in memory, in which an edit is worth what its constants say."""

    def __init__(self, folder: Path, outcome=None) -> None:
        self.clock = VirtualClock(1000.0)
        self.pool = MemoryPool(2, outcome or worth, self.clock)
        self.space: Workspace = make_space(folder, self.clock, baseline=SMALL)
        self.screen = RecordingScreen()
        self.connected = 0

    def connect(self, lab: object, options: object, say: object) -> PoolHandle:
        self.connected += 1
        return PoolHandle(self.pool, False)

    def run(self) -> StopReason:
        with shared_pool(self.connect) as connect:
            means = Runtime(
                connect=connect, clock=self.clock, sleep=self.clock.advance, intervals=PollIntervals(round_s=1.0)
            )
            return demo.climb(self.space, self.screen, means)

    def has_the_best(self) -> bool:
        """Both gains are in the baseline, whether the second round or a merge brought them together."""
        source = self.space.ledger.candidates.train_py(self.space.baseline().id)
        constants = read_constants(source.decode())
        return (constants["DEPTH"], constants["SOFTCAP"]) == (1, 0.0)


def worth(order: RunOrder) -> Outcome:
    constants = read_constants(order.train_py.decode())
    if constants["HEAD_DIM"] == 33:
        return failed("crash", "heads", 5.0)
    gain = 0.02 * (4 - int(str(constants["DEPTH"]))) + (0.02 if not constants["SOFTCAP"] else 0.0)
    loss = 0.1 * (constants["MATRIX_LR"] != 0.04) + 0.001 * (order.seed % 3)
    return scored(1.95 - gain + loss, 20.0)


@pytest.fixture
def climb(tmp_path: Path) -> Iterator[Climb]:
    made = Climb(tmp_path)
    yield made
    made.space.ledger.close()


def test_the_climb_ends_with_everything_decided_and_the_best_promoted(climb: Climb) -> None:
    assert climb.run() is StopReason.DONE
    candidates = {one.name: one for one in climb.space.ledger.candidates.list(climb.space.tag)}
    assert candidates["heads-of-33"].state is CandidateState.FAILED
    assert candidates["matrix-lr-0.4"].state is CandidateState.DISCARDED
    assert climb.has_the_best()
    assert not [one for one in candidates.values() if one.state.undecided]
    assert {edit.name for edit in EDITS} < candidates.keys()
    assert climb.space.repo.branch_commit(climb.space.lab.branch) == climb.space.baseline_commit()


def test_slots_are_started_once_and_left_at_the_end(climb: Climb) -> None:
    climb.run()
    assert climb.connected == 1 and climb.pool.closed


def test_running_the_climb_again_queues_nothing_twice(climb: Climb) -> None:
    climb.run()
    runs = len(climb.space.ledger.runs.list(climb.space.tag))
    assert climb.run() is StopReason.DONE
    assert len(climb.space.ledger.runs.list(climb.space.tag)) == runs


def test_the_commands_of_its_farewell_can_be_typed(climb: Climb, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shell that has only ever seen `make demo`: no .venv is active."""
    climb.run()
    root = climb.space.paths.root
    monkeypatch.chdir(root.parent)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    script = "\n".join(look_around(root))
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True)
    assert done.returncode == 0 and "depth-1" in done.stdout, f"{script}\n{done.stdout}\n{done.stderr}"


def test_nothing_promoted_means_no_second_round(tmp_path: Path) -> None:
    flat = Climb(tmp_path, lambda order: scored(1.95 + 0.0001 * order.seed, 20.0))
    assert flat.run() is StopReason.DONE
    assert all(one.base_id in (None, "c0001") for one in flat.space.ledger.candidates.list("t"))


@pytest.mark.parametrize("after", [1, 4, 9, 12])
def test_interrupted_anywhere_it_goes_on_to_the_same_end(
    climb: Climb, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Ctrl-C twice once so many runs have been started."""
    monkeypatch.setattr(Interrupt, "finishing", property(lambda self: len(climb.pool.started) >= after))
    monkeypatch.setattr(Interrupt, "stopping", property(lambda self: len(climb.pool.started) >= after))
    assert climb.run() is StopReason.INTERRUPTED
    assert climb.space.ledger.runs.running(climb.space.tag) == ()
    monkeypatch.undo()
    assert climb.run() is StopReason.DONE
    assert climb.has_the_best()
    made = climb.space.ledger.candidates.list(climb.space.tag)
    assert len({one.name for one in made}) == len({one.fingerprint for one in made}) == len(made)
