"""Proposers by name: what is there, what is misspelt, what breaks on its way in, and options that make no sense."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from scheduler.domain.errors import ProposerProblem, UsageProblem
from scheduler.domain.search import ProposerChoice
from scheduler.proposers import registry
from scheduler.proposers.registry import Options
from tests.scheduler.proposer_kit import make_setup

ROOT = Path(__file__).parents[2]


class Mute:
    name, capacity = "mute", 1

    def ask(self, ask) -> None: ...

    def poll(self):
        return ()

    def close(self) -> None: ...


def make_mute(setup) -> Mute:
    return Mute()


def make_broken(setup) -> Mute:
    raise RuntimeError("no licence")


def make_shapeless(setup) -> object:
    return object()


def plug_in(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    points = tuple(EntryPoint(name, value, registry.GROUP) for name, value in values.items())
    monkeypatch.setattr(registry, "entry_points", lambda **_: points)


def test_ours_are_known_and_are_the_entry_points_of_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][registry.GROUP]
    assert {point.name: point.value for point in registry.OWN} == declared
    assert set(registry.known()) >= {"agent", "lines", "tpe", "union"}


@pytest.mark.parametrize("point", registry.OWN, ids=lambda point: point.name)
def test_each_of_ours_loads(point: EntryPoint) -> None:
    assert callable(point.load())


def test_a_plug_in_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plug_in(monkeypatch, mute=f"{__name__}:make_mute")
    assert isinstance(registry.make(ProposerChoice("mute"), make_setup(tmp_path, {})), Mute)
    assert registry.known()["mute"] == f"{__name__}:make_mute"


def test_an_unknown_name_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="'agnt'") as caught:
        registry.make(ProposerChoice("agnt"), make_setup(tmp_path, {}))
    assert "agent?" in caught.value.hint


def test_the_union_is_never_made_here(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="scheduler's own"):
        registry.make(ProposerChoice("union"), make_setup(tmp_path, {}))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no.such.package:make", "no.such"),
        (f"{__name__}:no_such_function", "no_such_function"),
        (f"{__name__}:make_broken", "no licence"),
        (f"{__name__}:make_shapeless", "lacks"),
    ],
)
def test_a_broken_plug_in_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, said: str) -> None:
    plug_in(monkeypatch, theirs=value)
    with pytest.raises(ProposerProblem, match="theirs") as caught:
        registry.make(ProposerChoice("theirs"), make_setup(tmp_path, {}))
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("options", "read", "said"),
    [
        ({"worker": "2"}, lambda o: None, "no option 'worker'"),
        ({"workers": "two"}, lambda o: o.whole("workers", 1, 1), "whole number"),
        ({"workers": "0"}, lambda o: o.whole("workers", 1, 1), "whole number"),
        ({"limit_s": "-1"}, lambda o: o.seconds("limit_s", 1.0), "seconds"),
        ({"limit_s": "inf"}, lambda o: o.seconds("limit_s", 1.0), "seconds"),
        ({"limit_s": "nan"}, lambda o: o.seconds("limit_s", 1.0), "seconds"),
        ({"keep": "maybe"}, lambda o: o.flag("keep"), "0 or 1"),
    ],
)
def test_options_that_make_no_sense_say_what_is_expected(tmp_path: Path, options, read, said: str) -> None:
    with pytest.raises(UsageProblem, match="the proposer agent") as caught:
        read(Options(make_setup(tmp_path, options), ("workers", "limit_s", "keep")))
    assert said in caught.value.message


def test_a_misspelt_option_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem) as caught:
        Options(make_setup(tmp_path, {"worker": "2"}), ("workers", "limit_s"))
    assert "workers?" in caught.value.hint


def test_what_an_older_installation_of_ours_declares_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    stale = SimpleNamespace(name="agent", value="scheduler.gone:make", dist=SimpleNamespace(name="arsched"))
    other = SimpleNamespace(name="mine", value="plug_in:make", dist=SimpleNamespace(name="plug-in"))
    monkeypatch.setattr(registry, "entry_points", lambda **_: (stale, other))
    assert registry.known()["agent"] == "scheduler.proposers.agent:make"
    assert registry.known()["mine"] == "plug_in:make"
