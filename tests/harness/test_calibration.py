"""What a work clock counts in: measured on a quiet machine, refused on a busy one, never replaced unasked.

The readings are made up; how well real ones follow a load is measured in benchmarks/bench_clock.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from harness import calibration
from harness.cache import MANIFEST_NAME, cache_directory
from harness.cache import main as cache_main
from harness.calibration import (
    NotQuiet,
    Round,
    calibration_here,
    calibration_path,
    measure_round,
    quiet_reference_s,
    read_calibration,
    reference_s,
    write_calibration,
)
from harness.contract import Contract, load_contract
from harness.core_probe import FASTEST, FOLLOWS, SHARING, SLOWEST, CoreProbe, speed_of
from harness.prepare import build
from harness.prepare.cli import main
from harness.prepare.tokenizer import train_tokenizer
from tests.harness.small_corpus import write_contract, write_corpus
from tests.waiting import wait_until

QUIET = Round((1e-3,) * 18 + (1.1e-3,) * 2, shared=0.01)
SLOW = Round((1.3e-3,) * 20, shared=0.01)  # and quiet in itself
NOISY = Round((1e-3,) * 10 + (2e-3,) * 10, shared=0.01)
SHARED = Round((1e-3,) * 20, shared=0.5)


@pytest.fixture
def contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contract:
    """The small contract with a work clock, not prepared."""
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "caches"))
    monkeypatch.setattr(build, "train_apart", train_tokenizer)
    monkeypatch.setattr(calibration, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(calibration, "_PAUSE_S", 0.0)
    write_corpus(tmp_path)
    return load_contract(str(write_contract(tmp_path, budget__clock="work")))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Round], None]:
    """Sets what every round of readings shows."""

    def shows(seen: Round) -> None:
        monkeypatch.setattr(build, "measure_round", lambda probe: seen)

    shows(QUIET)
    return shows


def prepare(contract: Contract, folder: Path, *options: str) -> int:
    return main(["--contract", str(folder / "small.json"), *options])


@pytest.mark.parametrize(("seen", "quiet"), [(QUIET, True), (NOISY, False), (SHARED, False)])
def test_readings_that_agree_on_a_core_of_ones_own_are_quiet(seen: Round, quiet: bool) -> None:
    assert seen.quiet is quiet


class Rounds:
    """Rounds that take a second each, on a clock of their own; the last one again and again."""

    def __init__(self, *rounds: Round) -> None:
        self.left, self.now, self.shown = list(rounds), 0.0, list[str]()

    def reference_s(self) -> float:
        return quiet_reference_s(self.measure, self.shown.append, lambda: self.now, self.pause)

    def measure(self) -> Round:
        self.now += 1.0
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]

    def pause(self, seconds: float) -> None:
        self.now += seconds


def at(reading_s: float) -> Round:
    return Round((reading_s,) * 20, shared=0.01)


def test_the_fastest_of_several_quiet_rounds_over_some_seconds_is_the_reference() -> None:
    rounds = Rounds(*map(at, (0.98e-3, 1.0e-3, 0.97e-3, 1.02e-3, 1.05e-3, 9e-3)))
    assert rounds.reference_s() == pytest.approx(0.97e-3)
    assert 5 < rounds.now <= 10 and not rounds.shown


def test_one_reading_that_was_cut_in_two_moves_no_reference() -> None:
    cut = Round((1e-3,) * 19 + (50e-3,), shared=0.01)
    assert cut.quiet and Rounds(QUIET, cut, QUIET).reference_s() == pytest.approx(1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_neighbours_that_come_and_go_move_the_reference_by_less_than_a_mean(seed: int) -> None:
    """Readings of a core that is slowed by up to a half in most of them; two calibrations of it agree."""
    rng = random.Random(seed)

    def reading_s() -> float:
        return 0.7e-3 * rng.gauss(1, 0.01) * (1 if rng.random() < 0.25 else rng.uniform(1, 1.5))

    twice = [[Round(tuple(reading_s() for _ in range(13)), shared=0.7) for _ in range(5)] for _ in range(2)]
    first, second = map(reference_s, twice)
    assert abs(first - second) / first < 0.04 and first == pytest.approx(0.7e-3, rel=0.05)


def test_a_busy_round_does_not_count_and_is_named() -> None:
    rounds = Rounds(QUIET, QUIET, QUIET, QUIET, NOISY, SHARED, QUIET)
    assert rounds.reference_s() == pytest.approx(1e-3) and not rounds.left[1:] and rounds.now < 10
    assert len(rounds.shown) == 2
    assert "readings differ by 67%" in rounds.shown[0] and "took 50% of the core" in rounds.shown[1]


def test_quiet_rounds_that_disagree_are_no_reference() -> None:
    """A neighbour on the host that comes for some seconds: each round looks quiet, and they are of two machines."""
    recovers = Rounds(SLOW, SLOW, QUIET)
    assert recovers.reference_s() == pytest.approx(1e-3)
    assert "5 rounds differ by 30% (at most 10%): 1.000 to 1.300 ms per reading" in recovers.shown[0]
    never = Rounds(*(SLOW, QUIET) * 100)
    with pytest.raises(NotQuiet, match=r"5 rounds differ by .*% \(at most 10%\)") as gave_up:
        never.reference_s()
    assert never.now < 35 and reference_s(gave_up.value.rounds) == pytest.approx(1e-3)


def test_a_machine_that_is_never_quiet_is_given_up() -> None:
    never = Rounds(NOISY)
    with pytest.raises(NotQuiet, match="readings differ by 67%") as gave_up:
        never.reference_s()
    assert 29 < never.now < 35 and len(gave_up.value.rounds) == len(never.shown)
    assert reference_s(gave_up.value.rounds) == pytest.approx(1e-3)


@pytest.mark.parametrize("reading_s", [0.0, 1e-9, 1e-3, 5e-3, 1e3])
def test_a_speed_is_within_its_range(reading_s: float) -> None:
    assert SLOWEST <= speed_of(reading_s, 1e-3) <= FASTEST
    assert speed_of(1e-3, 1e-3) == 1.0 and speed_of(2e-3, 1e-3) == pytest.approx(1 / (1 + FOLLOWS))
    assert speed_of(1e-3, 1e-3, others=0.5) == pytest.approx(1 / (1 + SHARING / 2))


def test_prepare_calibrates_once(contract: Contract, tmp_path: Path, machine: Callable[[Round], None]) -> None:
    assert prepare(contract, tmp_path) == 0
    first = read_calibration(contract)
    assert first is not None and first.quiet and first.reference_s == 1e-3
    machine(Round((5e-3,) * 20, shared=0.0))
    assert prepare(contract, tmp_path) == 0
    assert read_calibration(contract) == first, "what is there is never replaced unasked"
    assert prepare(contract, tmp_path, "--calibrate") == 0
    again = read_calibration(contract)
    assert again is not None and again.reference_s == 5e-3 and again.name != first.name


def test_a_busy_machine_still_has_a_working_lab_and_says_so(
    contract: Contract, tmp_path: Path, machine: Callable[[Round], None], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(NOISY)
    assert prepare(contract, tmp_path) == 0
    made = read_calibration(contract)
    assert made is not None and not made.quiet
    said = capsys.readouterr().err
    assert "measured on a busy machine" in said and "--calibrate" in said


def test_calibrating_anew_is_refused_on_a_busy_machine(
    contract: Contract, tmp_path: Path, machine: Callable[[Round], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(contract, tmp_path) == 0
    before = calibration_path(contract).read_text()
    machine(SHARED)
    assert prepare(contract, tmp_path, "--calibrate") == 1
    assert "50%" in capsys.readouterr().err
    assert calibration_path(contract).read_text() == before


def test_other_clocks_are_not_calibrated(
    tmp_path: Path, contract: Contract, capsys: pytest.CaptureFixture[str]
) -> None:
    write_contract(tmp_path)
    assert prepare(contract, tmp_path, "--calibrate") == 2
    assert prepare(contract, tmp_path) == 0
    assert not (tmp_path / "caches" / calibration.FOLDER).exists()


def test_a_calibration_belongs_to_one_machine_and_is_no_data(
    contract: Contract, tmp_path: Path, machine: Callable[[Round], None], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert prepare(contract, tmp_path) == 0
    reference = ["--contract", str(tmp_path / "small.json")]
    capsys.readouterr()
    assert cache_main(reference) == 0
    shown = json.loads(capsys.readouterr().out)
    found = read_calibration(contract)
    assert found is not None and shown["calibration"] == found.name
    monkeypatch.setattr(calibration.platform, "node", lambda: "another")
    assert read_calibration(contract) is None
    assert cache_main(reference) == 1
    said = json.loads(capsys.readouterr().out)
    assert "not calibrated" in said["error"] and "arsched prepare" in said["hint"]
    assert prepare(contract, tmp_path) == 0
    capsys.readouterr()
    assert cache_main(reference) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == shown["digest"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"reference_s": 1}', "null"])
def test_a_damaged_calibration_is_none(contract: Contract, text: str) -> None:
    calibration_path(contract).parent.mkdir(parents=True)
    calibration_path(contract).write_text(text)
    assert read_calibration(contract) is None


@pytest.mark.parametrize(
    "other",
    [
        *({"reference_s": value} for value in (0.0, -1e-3, math.inf, math.nan, "fast", None)),
        *({"host": "another"}, {"cpu": "another"}, {"cores": 99}),
    ],
)
def test_what_cannot_be_this_machines_is_none_though_it_lies_in_its_place(
    contract: Contract, other: dict[str, object]
) -> None:
    write_calibration(contract, calibration_here(1e-3, quiet=True))
    there = json.loads(calibration_path(contract).read_text())
    assert read_calibration(contract) is not None
    calibration_path(contract).write_text(json.dumps(there | other))
    assert read_calibration(contract) is None


def test_one_of_an_older_version_is_none_and_prepare_measures_again(
    contract: Contract, tmp_path: Path, machine: Callable[[Round], None]
) -> None:
    assert prepare(contract, tmp_path) == 0
    whole = json.loads(calibration_path(contract).read_text())
    calibration_path(contract).write_text(json.dumps({name: whole[name] for name in whole if name != "again"}))
    assert read_calibration(contract) is None
    assert prepare(contract, tmp_path) == 0
    assert read_calibration(contract) is not None


def test_every_part_of_a_calibration_is_in_its_name(contract: Contract) -> None:
    here = calibration_here(1e-3, quiet=True)
    write_calibration(contract, here)
    assert read_calibration(contract) == here
    others = ({"reference_s": 2e-3}, {"host": "x"}, {"cpu": "x"}, {"cores": 99}, {"quiet": False})
    names = [dataclasses.replace(here, **other).name for other in others]  # type: ignore[arg-type]
    assert len({here.name, *names}) == len(others) + 1


def test_a_round_reads_the_real_probe() -> None:
    seen = measure_round(CoreProbe())
    assert len(seen.readings_s) > 10 and all(0 < reading_s < 0.1 for reading_s in seen.readings_s)
    assert 0 <= seen.shared < 1


def test_two_calibrations_never_run_at_once(
    contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = threading.Event()

    def measure(probe: object) -> Round:
        began.set()
        return QUIET

    monkeypatch.setattr(build, "measure_round", measure)
    (tmp_path / "caches").mkdir()
    with FileLock(tmp_path / "caches" / "calibration.lock"):
        second = threading.Thread(target=prepare, args=(contract, tmp_path))
        second.start()
        wait_until(lambda: (cache_directory(contract) / MANIFEST_NAME).is_file(), "everything but the calibration")
        assert not began.wait(0.5)
    second.join()
    assert began.is_set() and read_calibration(contract) is not None
