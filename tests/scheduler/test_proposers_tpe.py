"""The tpe proposer over the real constants: sane grids, legal moves, no repeats, and better than chance.

No training: scores come from a landscape over the constants, with a region that crashes.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from scheduler.cli.demo import EDITS
from scheduler.domain.errors import UsageProblem
from scheduler.domain.search import NoIdea, ProposalFailure, Proposed, Proposer, Trial
from scheduler.policy.constants import Constant, read_constants, rewrite_constants, to_source
from scheduler.proposers.tpe import TIED, changed_values, make, settle
from scheduler.proposers.tpe_space import Parameter, Space, guess_grid
from tests.scheduler.proposer_kit import collect, make_ask, make_setup, make_trial

SOURCE = (Path(__file__).parents[2] / "train.py").read_bytes()
CONSTANTS = read_constants(SOURCE.decode())
BARE = "".join(
    f"{name} = {to_source(value)}\n" for name, value in CONSTANTS.items()
).encode()  # train.py's, quick to parse
PARAMETERS = Space().parameters(CONSTANTS)
SMALL = b'"""Constants."""\nDEPTH = 4\nMATRIX_LR = 0.04\nSOFTCAP = 15.0\nHEAD_DIM = 32\nUSE_BIAS = True\nNAME = "x"\n'

Landscape = Callable[[dict[str, Constant]], float | None]


@pytest.fixture
def tpe(tmp_path: Path) -> Callable[..., Proposer]:
    def start(**options: str) -> Proposer:
        return make(make_setup(tmp_path, options, name="tpe"))

    return start


def propose(proposer: Proposer, trials=(), *, seed: int = 1, source: bytes = SMALL) -> Proposed | NoIdea:
    proposer.ask(make_ask(source, f"p{seed:04d}", seed=seed, trials=trials))
    [answer] = collect(proposer)
    return answer


def changes(answer: Proposed | NoIdea, source: bytes = SMALL) -> dict[str, Constant]:
    assert isinstance(answer, Proposed), answer
    before, after = read_constants(source.decode()), read_constants(answer.train_py.decode())
    return {name: value for name, value in after.items() if before[name] != value}


def on(values: dict[str, Constant], source: bytes = SMALL) -> bytes:
    return rewrite_constants(source.decode(), values).encode()


# The grids


def test_every_good_edit_of_the_demo_is_in_reach() -> None:
    bad = ("matrix-lr-0.4", "heads-of-33")
    for edit in EDITS:
        assert edit.name in bad or all(value in PARAMETERS[name].grid for name, value in edit.values.items()), edit.name


def test_what_changes_no_learning_is_left_alone() -> None:
    assert not {"COMPILE_STEPS", "LOG_EVERY", "WINDOW_PATTERN", "ADAM_BETAS"} & PARAMETERS.keys()


@pytest.mark.parametrize(
    ("name", "value", "some", "never"),
    [
        ("HEAD_DIM", 32, (8, 16, 64, 128), (33, 48, 256)),
        ("DEVICE_BATCH_SIZE", 16, (4, 64), (24, 0)),
        ("DEPTH", 4, (1, 2, 3, 5, 16), (0, 17)),
        ("ASPECT_RATIO", 16, (4, 24, 64), (0,)),
        ("MATRIX_LR", 0.04, (0.02, 0.08, 0.32), (0.0, 1.0)),
        ("SOFTCAP", 15.0, (0.0, 7.5, 30.0), (-1.0,)),
        ("WARMDOWN_RATIO", 0.5, (0.0, 0.7, 1.0), (1.05,)),
        ("WARMUP_RATIO", 0.0, (0.05, 0.5), (0.8,)),
        ("ADAM_BETA2", 0.95, (0.9, 0.975), (1.0, 0.0)),
        ("EPS_LR", 1e-7, (2e-7,), (0.0,)),
        ("USE_BIAS", True, (False,), (2,)),
    ],
)
def test_a_grid_holds_what_people_try(name: str, value, some: tuple, never: tuple) -> None:
    values = guess_grid(name, value)
    assert list(values) == sorted(set(values))
    assert value in values and set(some) <= set(values) and not set(never) & set(values)


@pytest.mark.parametrize(("name", "value"), [("X", float("inf")), ("X", -1.0), ("X", -3), ("X", 0)])
def test_what_has_no_sensible_grid_is_left_alone(name: str, value) -> None:
    assert guess_grid(name, value) == (value,)


def test_values_between_those_of_the_grid_go_to_the_nearest_and_those_outside_nowhere() -> None:
    parameter = Parameter("X", (1, 2, 4), 2)
    values = (0.9, 1, 1.4, 1.6, 3.9, 4, 4.1)
    assert [parameter.nearest(value) for value in values] == [None, 1, 1, 2, 4, 4, None]


def test_batches_are_moved_together() -> None:
    """The whole batch stays a multiple of what the device takes, as train.py wants it."""
    device, total, _ = TIED[0]
    share = CONSTANTS[total] // CONSTANTS[device]  # type: ignore[operator]
    for small in PARAMETERS[device].grid:
        for large in PARAMETERS[total].grid:
            values = {name: one.base for name, one in PARAMETERS.items()} | {device: small, total: large}
            after = {**CONSTANTS, **changed_values(settle(values, PARAMETERS), PARAMETERS)}
            assert after[total] % (after[device] * share) == 0  # type: ignore[operator]


# The proposals


def test_a_young_lab_gets_one_or_two_changes_at_a_time(tpe) -> None:
    proposer = tpe()
    answers = [propose(proposer, seed=seed, source=BARE) for seed in range(12)]
    assert all(1 <= len(changes(answer, BARE)) <= 4 for answer in answers)
    assert statistics.mean(len(changes(answer, BARE)) for answer in answers) < 2.5
    assert len(set().union(*(changes(answer, BARE) for answer in answers))) >= 9  # most parameters had their turn


def test_a_title_says_what_was_moved(tpe) -> None:
    answer = propose(tpe(only="DEPTH"))
    assert isinstance(answer, Proposed)
    assert answer.title == f"DEPTH 4 → {changes(answer)['DEPTH']}"
    assert answer.theme == "constants"


def test_the_same_past_gives_the_same_idea_and_no_idea_comes_twice(tpe) -> None:
    trials = [make_trial(SMALL, 1.0)] + [make_trial(on({"MATRIX_LR": 0.01 * n}), 1.0 + 0.01 * n) for n in range(5, 20)]
    kept, restarted = tpe(startup="5"), tpe(startup="5")
    first = propose(kept, trials, seed=3)
    assert first == propose(restarted, trials, seed=3)  # a search that was killed goes on where it was
    seen = {first.train_py} if isinstance(first, Proposed) else set()
    for seed in range(4, 30):  # not yet on record, and never again all the same
        answer = propose(kept, trials, seed=seed)
        assert isinstance(answer, Proposed)
        assert answer.train_py not in seen | {SMALL} | {trial.train_py for trial in trials}
        seen.add(answer.train_py)


def test_every_setting_is_tried_once_and_then_it_says_so(tpe) -> None:
    proposer, found = tpe(only="USE_BIAS,HEAD_DIM", startup="4"), set()
    for seed in range(9):  # two values times five, less the baseline
        answer = propose(proposer, seed=seed)
        assert isinstance(answer, Proposed)
        found.add(answer.train_py)
    assert len(found) == 9
    last = propose(proposer, seed=99)
    assert isinstance(last, NoIdea) and last.trouble is ProposalFailure.EXHAUSTED


def test_a_train_py_without_constants_has_nothing_to_tune(tpe) -> None:
    for source in (b"x = 1\n", b'NAME = "x"\n'):
        answer = propose(tpe(), source=source)
        assert isinstance(answer, NoIdea) and answer.trouble is ProposalFailure.EXHAUSTED


def test_trials_with_other_code_or_off_the_grids_teach_nothing(tpe) -> None:
    strange = [
        make_trial(on({"NAME": "y"}), 0.1),
        make_trial(SMALL + b"print(DEPTH)\n", 0.1),
        make_trial(SMALL.replace(b"DEPTH = 4", b"DEPTH = 3; print()"), 0.1),
        make_trial(SMALL.replace(b"DEPTH = 4", b"DEPTH = DEPTHS = 3"), 0.1),
        make_trial(SMALL.replace(b"DEPTH = 4", b"DEEP = 3"), 0.1),
        make_trial(on({"DEPTH": 400}), 0.1),
        make_trial(b"\xff", 0.1),
        make_trial(b"def (", failure="syntax"),
        make_trial(on({"DEPTH": 3})),  # cancelled: no score, no failure
    ]
    plain = propose(tpe(startup="0"), [make_trial(SMALL, 1.0)], seed=5)
    assert propose(tpe(startup="0"), [make_trial(SMALL, 1.0), *strange], seed=5) == plain


def test_comments_and_layout_are_no_other_code(tpe) -> None:
    trial = make_trial(on({"DEPTH": 3}).replace(b"DEPTH = 3", b"DEPTH = 3  # fewer\n"), 1.0)
    proposer = tpe(only="DEPTH")
    assert all(changes(propose(proposer, [trial], seed=seed)) != {"DEPTH": 3} for seed in range(8))


# Learning


def test_what_crashes_is_avoided(tpe) -> None:
    """Half of the grid fails at once: most ideas come to lie in the other half."""
    depths = PARAMETERS["DEPTH"].grid
    trials = [make_trial(SMALL, 1.0)]
    for lr in (0.02, 0.03, 0.05, 0.06):
        trials += [
            make_trial(on({"DEPTH": depth, "MATRIX_LR": lr}), failure="too slow") for depth in depths if depth > 4
        ]
        trials += [
            make_trial(on({"DEPTH": depth, "MATRIX_LR": lr}), 1.0 + 0.01 * depth) for depth in depths if depth < 4
        ]
    answers = [propose(tpe(only="DEPTH,MATRIX_LR"), trials, seed=seed) for seed in range(20)]
    deep = sum(read_constants(one.train_py.decode())["DEPTH"] > 4 for one in answers if isinstance(one, Proposed))  # type: ignore[operator]
    assert deep <= 5


def landscape(seed: int) -> Landscape:
    """A bowl over the grids with its own bottom and its own steepness for each parameter; too large a model fails."""
    chance = random.Random(seed)
    bottom = {name: chance.random() for name in PARAMETERS}
    weight = {name: 10 ** chance.uniform(-3, -0.8) for name in PARAMETERS}

    def score(constants: dict[str, Constant]) -> float | None:
        if constants["DEPTH"] ** 2 * constants["ASPECT_RATIO"] > 800:  # type: ignore[operator]
            return None
        places = {
            name: one.grid.index(one.nearest(constants[name])) / (len(one.grid) - 1)  # type: ignore[arg-type]
            for name, one in PARAMETERS.items()
        }
        return sum(weight[name] * (places[name] - bottom[name]) ** 2 for name in PARAMETERS)

    return score


def search(pick: Callable[[list[Trial], int], bytes], score: Landscape, runs: int) -> float:
    """The best score of so many runs on one baseline, one of them always still pending, with noise on each."""
    chance = random.Random(runs)
    trials, best = [make_trial(BARE, score(dict(CONSTANTS)))], float("inf")
    for number in range(runs):
        source = pick([*trials[:-1], dataclasses.replace(trials[-1], pending=number > 0)], number)
        true = score(read_constants(source.decode()))
        best = min(best, true) if true is not None else best
        noisy = None if true is None else true + chance.gauss(0, 0.001)
        trials.append(make_trial(source, noisy, failure="" if true is not None else "too slow"))
    return best


def test_it_beats_chance_over_the_same_grids(tpe) -> None:
    """Forty runs, as a search on a laptop has: nearer to the bottom than random settings on most landscapes."""

    def by_chance(trials: list[Trial], number: int) -> bytes:
        chance = random.Random(number)
        values = {name: chance.choice(one.grid) for name, one in PARAMETERS.items()}
        return on(changed_values(settle(values, PARAMETERS), PARAMETERS), BARE)

    def by_tpe(proposer: Proposer) -> Callable[[list[Trial], int], bytes]:
        def pick(trials: list[Trial], number: int) -> bytes:
            answer = propose(proposer, trials, seed=number, source=BARE)
            assert isinstance(answer, Proposed)
            return answer.train_py

        return pick

    gains = []
    for seed in range(4):
        score = landscape(seed)
        gains.append(search(by_chance, score, 40) - search(by_tpe(tpe()), score, 40))
    assert statistics.mean(gains) > 0.005
    assert sum(gain > 0 for gain in gains) >= 3


# The options


def test_only_fix_and_space_shape_what_is_tuned(tpe, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("DEPTH: [2, 3]\nMATRIX_LR: {low: 0.039, high: 0.041}\n")
    proposer = tpe(fix="HEAD_DIM,USE_BIAS", space="space.yaml")
    found = [changes(propose(proposer, seed=seed)) for seed in range(40)]
    assert {"HEAD_DIM", "USE_BIAS"}.isdisjoint(set().union(*found))
    assert {one["DEPTH"] for one in found if "DEPTH" in one} == {2, 3}
    assert all(0.039 <= one["MATRIX_LR"] <= 0.041 for one in found if "MATRIX_LR" in one)  # type: ignore[operator]
    assert set().union(*(changes(propose(tpe(only="DEPTH"), seed=seed)) for seed in range(5))) == {"DEPTH"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fixed": "DEPTH"}, "fixed"),
        ({"startup": "-1"}, "startup"),
        ({"only": "DEPHT"}, "DEPHT"),
        ({"space": "missing.yaml"}, "missing.yaml"),
        ({"space": "list.yaml"}, "list.yaml"),
        ({"space": "text.yaml"}, "DEPTH"),
        ({"space": "bounds.yaml"}, "DEPTH"),
        ({"space": "broken.yaml"}, "broken.yaml"),
    ],
)
def test_options_that_make_no_sense_are_refused(tpe, tmp_path: Path, options: dict[str, str], said: str) -> None:
    (tmp_path / "train.py").write_bytes(SMALL)
    (tmp_path / "list.yaml").write_text("- DEPTH\n")
    (tmp_path / "text.yaml").write_text("DEPTH: deep\n")
    (tmp_path / "bounds.yaml").write_text("DEPTH: {low: 4, high: 2}\n")
    (tmp_path / "broken.yaml").write_text("DEPTH: [1,\n")
    with pytest.raises(UsageProblem) as caught:
        tpe(**options)
    assert said in caught.value.message
