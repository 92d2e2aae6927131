"""`arsched search`, `pause`, `resume` as typed: options that fit together, refusals that leave nothing behind."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from scheduler.cli import search
from scheduler.cli.main import main
from scheduler.cli.options import dated_tag
from scheduler.cli.search import command
from scheduler.domain.decision import PRESETS
from scheduler.domain.errors import UsageProblem
from scheduler.domain.search import ProposerChoice, SearchBudget, SearchSettings
from scheduler.lab import Live, open_workspace, process_space, write_live
from scheduler.ledger import Ledger
from scheduler.queue.runtime import SchedulerLock
from scheduler.search.options import SearchOptions, describe_budget, describe_proposers, extended
from scheduler.views.status import FRESH_S
from tests.scheduler.git_kit import make_repository, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import make_space

PROPOSERS = ("--proposer", "tpe:2", "--proposer", "lines")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    space = make_space(tmp_path, time.time)
    space.ledger.close()
    monkeypatch.chdir(space.repo.root)
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "cache"))
    return space.paths.ledger


def arsched(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], ["a search needs a budget", "--hours 8"]),
        (["--ideas", "4"], ["ends nothing by itself", "--rounds 10"]),
        (["--runs", "9", "--proposer", "tep"], ["no proposer 'tep'", "did you mean tpe"]),
        (["--runs", "9", "--proposer", "tpe:0"], ["a weight is a number above 0"]),
        (["--runs", "9", "--proposer", "tpe:x"], ["a weight is a number above 0"]),
        (["--runs", "9", "--proposer", "tpe", "--option", "tpe"], ["no option of a proposer", "--option agent."]),
        (["--runs", "9", "--proposer", "tpe", "--option", "agent.workers=2"], ["no proposer 'agent' in this search"]),
        (["--runs", "9", "--command", "x", "--agent", "claude"], ["both say what the agent is"]),
        (["--runs", "9", "--no-union", "--proposer", "union"], ["contradict"]),
        (["--runs", "9", "--proposer", "union", "--preset", "greedy"], ["merges nothing"]),
        (["--runs", "9", "--contract", "standard"], ["is on contract 'cpu', not 'standard'", "--tag NAME"]),
        (["--runs", "0"], ["0 is not in the range"]),
        (["--hours", "0"], ["0"]),
    ],
)
def test_options_that_make_no_search_are_refused_and_nothing_begins(
    lab: Path, arguments: list[str], said: list[str]
) -> None:
    for dry_run in ([], ["--dry-run"]):
        result = arsched("search", *arguments, *dry_run)
        assert result.exit_code == 2, result.output
        assert all(word in result.output for word in said)
    with Ledger.open(lab) as ledger:
        assert not ledger.searches.list("t")


def test_a_dry_run_says_what_would_begin_and_begins_nothing(lab: Path) -> None:
    result = arsched(
        "search", "--runs", "9", "--hours", "1.5", "--proposer", "tpe:2", "--proposer", "lines",
        "--option", "lines.command=cat", "--dry-run",
    )  # fmt: skip
    assert result.exit_code == 0
    assert (
        "would begin a search: 1.5 hours or 9 runs; ideas from tpe (2 of 3), lines (1 of 3) and union" in result.output
    )
    value = json.loads(arsched("search", "--runs", "9", "--dry-run", "--json").output)
    assert value["dry_run"] and value["proposers"] == "tpe and union"
    with Ledger.open(lab) as ledger:
        assert not ledger.searches.list("t")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--agent", "claude"], 1, "the program claude is not on the PATH"),
        (["--command", "no-such-agent --fast"], 1, "there is no program on the PATH called no-such-agent"),
        (["--proposer", "lines", "--option", "lines.command=no-such"], 1, "no program on the PATH called no-such"),
        (["--proposer", "agent"], 2, "--agent claude|codex"),
        (["--proposer", "lines"], 2, "--option lines.command='…'"),
        (["--command", "true", "--model", "x"], 2, "--model and --agent-args with --agent alone"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_command_that_is_not_there_ends_it_at_once_in_a_dry_run_too(
    lab: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, said: str, dry_run: bool
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    result = arsched("search", "--runs", "9", *arguments, *(["--dry-run"] if dry_run else []))
    assert (result.exit_code, said in result.output) == (code, True), result.output
    with Ledger.open(lab) as ledger:
        assert not ledger.searches.list("t")


def test_no_lab_is_made_for_a_command_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_repository(tmp_path / "bare")
    monkeypatch.chdir(root)
    result = arsched("search", "--contract", "cpu", "--runs", "9", "--command", "no-such-agent")
    assert result.exit_code == 1 and "no-such-agent" in result.output
    assert not (root / ".arsched").exists()


def test_without_a_lab_a_contract_is_needed_and_a_bad_budget_creates_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_repository(tmp_path / "bare")
    monkeypatch.chdir(root)
    result = arsched("search", "--runs", "9")
    assert result.exit_code == 1 and "no lab" in result.output
    result = arsched("search", "--contract", "cpu")
    assert result.exit_code == 2 and "needs a budget" in result.output
    assert not (root / ".arsched").exists()


def test_a_paused_lab_is_not_searched_and_says_what_to_do(lab: Path) -> None:
    assert arsched("pause", "--dry-run").exit_code == 0
    said = json.loads(arsched("pause", "--reason", "the slots are needed", "--json").output)
    assert said["paused"] and not said["already"]
    assert json.loads(arsched("pause", "--json").output)["already"]
    result = arsched("search", "--runs", "9")
    assert result.exit_code == 4 and "arsched resume" in result.output
    with Ledger.open(lab) as ledger:
        assert not ledger.searches.list("t")
        assert any("the slots are needed" in event.reason for event in ledger.events.list("t"))
    assert "would go on" in arsched("resume", "--dry-run").output
    assert json.loads(arsched("resume", "--json").stdout)["was_paused"]
    assert "was not paused" in arsched("resume").output


def test_stop_where_nothing_runs_says_so_and_leaves_no_request_behind(lab: Path) -> None:
    for more in ([], ["--dry-run"]):
        result = arsched("stop", *more)
        assert result.exit_code == 0 and "nothing to stop" in result.output
    assert not json.loads(arsched("stop", "--json").stdout)["ran"]
    assert not list(lab.parent.glob("**/stop"))


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--now"]])
def test_stop_of_a_lab_leaves_the_queue_of_another_alone(lab: Path, more: list[str]) -> None:
    with open_workspace() as space:
        other = SchedulerLock(space.paths.scheduler_lock)
        assert other.try_take()
        write_live(space.paths.live, Live(time.time(), 4711, "other", "pool", 0, False, ()))
        result = arsched("stop", "--tag", space.tag, "--timeout", "0", *more)
        assert result.exit_code == 0 and "nothing to stop" in result.output and "4711 runs 'other'" in result.output
        assert not json.loads(arsched("stop", "--tag", space.tag, "--json", *more).stdout)["ran"]
        assert not space.paths.stop.exists()
        write_live(space.paths.live, Live(time.time(), 4711, space.tag, "pool", 0, False, ()))
        assert arsched("stop", "--tag", space.tag, "--timeout", "0").exit_code == 3
        other.release()
        assert arsched("stop").exit_code == 0


def test_stop_gives_up_in_time_and_its_request_stays(lab: Path) -> None:
    with open_workspace() as space:
        other = SchedulerLock(space.paths.scheduler_lock)
        assert other.try_take()
        result = arsched("stop", "--timeout", "0")
        assert result.exit_code == 3 and "still ending" in result.output and space.paths.stop.exists()
        other.release()
        assert arsched("stop").exit_code == 0


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_stop_finds_a_command_whose_next_process_has_not_taken_the_lock_yet(lab: Path, more: list[str]) -> None:
    """As on a cluster whose head is back: the lock is free for a moment, and the live file is of the same command."""
    with open_workspace() as space:
        live = Live(time.time(), os.getpid(), space.tag, "", 0, False, (), where=process_space())
        write_live(space.paths.live, live)
        result = arsched("stop", "--timeout", "0", *more)
        assert "nothing to stop" not in result.output
        assert (result.exit_code, space.paths.stop.exists()) == ((0, False) if more else (3, True))
        write_live(space.paths.live, dataclasses.replace(live, at=live.at - FRESH_S))  # left behind
        assert arsched("stop").exit_code == 0 and not space.paths.stop.exists()


def test_a_search_in_a_terminal_says_that_it_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(search, "log", said.append)
    for name in ("TMUX", "STY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    search._say_what_ends_it()
    assert len(said) == 1 and "--detach" in said[0]
    monkeypatch.setenv("TMUX", "/tmp/tmux")
    search._say_what_ends_it()
    monkeypatch.delenv("TMUX")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    search._say_what_ends_it()
    assert len(said) == 1


def test_a_detached_search_that_cannot_be_is_refused_here(lab: Path) -> None:
    result = arsched("search", "--runs", "9", "--command", "no-such-agent", "--detach")
    assert result.exit_code == 1 and "no-such-agent" in result.output
    assert not list(lab.parent.glob("**/search.log"))


def test_wait_on_a_paused_lab_gives_up_with_4_and_says_why(lab: Path) -> None:
    arsched("pause")
    result = arsched("wait")
    assert result.exit_code == 4 and "arsched resume" in result.output
    assert json.loads(arsched("wait", "baseline", "--json").stdout)["paused"]


@pytest.mark.parametrize(
    ("options", "proposers"),
    [
        (SearchOptions(proposers=("tpe",)), "tpe and union"),
        (SearchOptions(agent_command="make idea"), "agent and union"),
        (
            SearchOptions(agent="claude", workers=3, proposers=("tpe", "agent:3")),
            "tpe (1 of 4), agent (3 of 4) and union",
        ),
        (SearchOptions(no_union=True), "tpe"),
        (SearchOptions(plugin_options=("tpe.only=DEPTH",)), "tpe and union"),
        (SearchOptions(proposers=("union",)), "union"),
        (SearchOptions(proposers=("lines", "tpe"), no_union=True), "lines (1 of 2), tpe (1 of 2)"),
    ],
)
def test_which_proposers_the_options_choose(options: SearchOptions, proposers: str) -> None:
    settings = options.settings()
    assert settings is not None and describe_proposers(settings.proposers) == proposers


def test_the_agents_options_come_before_plug_in_options() -> None:
    settings = SearchOptions(
        agent_command="run it",
        ideas_per_ask=5,
        workers=3,
        limit_s=600.0,
        plugin_options=("agent.keep=1", "tpe.only=DEPTH"),
        proposers=("tpe", "agent"),
    ).settings()
    assert settings is not None
    options = {choice.name: dict(choice.options) for choice in settings.proposers}
    assert options["agent"] == {"command": "run it", "ideas": "5", "workers": "3", "limit_s": "600", "keep": "1"}
    assert options["tpe"] == {"only": "DEPTH"}


def test_no_option_is_no_settings() -> None:
    assert SearchOptions().settings() is None
    assert SearchOptions(seed=7).settings() is not None


def test_every_option_of_the_settings_is_a_flag_with_the_same_default() -> None:
    given = command.make_context("search", []).params
    names = [field.name for field in dataclasses.fields(SearchOptions)]
    assert SearchOptions(**{name: given[name] for name in names}) == SearchOptions()


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (SearchBudget(hours=8), "8 hours"),
        (SearchBudget(hours=0.5, runs=40), "0.5 hours or 40 runs"),
        (SearchBudget(rounds=3, ideas=8, target_bpb=1.7), "3 rounds of 8 ideas or 1.7 bpb"),
        (SearchBudget(rounds=3), "3 rounds"),
    ],
)
def test_budgets_read_like_sentences(budget: SearchBudget, text: str) -> None:
    assert describe_budget(budget) == text


def test_new_options_replace_what_they_name_and_leave_the_rest() -> None:
    old = SearchSettings(SearchBudget(hours=8), (ProposerChoice("tpe"),), backlog=3, claim_runs=2, seed=5)
    new, changes = extended(old, SearchSettings(SearchBudget(runs=9), ()), PRESETS["default"])
    assert new == SearchSettings(SearchBudget(runs=9), (ProposerChoice("tpe"),), backlog=3, claim_runs=2, seed=5)
    assert changes == ("budget: 9 runs (was 8 hours)",)
    assert extended(old, SearchSettings(SearchBudget(), ()), PRESETS["default"]) == (old, ())


def test_two_proposers_of_one_name_are_refused() -> None:
    twice = SearchSettings(SearchBudget(runs=9), (ProposerChoice("tpe"), ProposerChoice("tpe", 2.0)))
    with pytest.raises(UsageProblem, match="named twice"):
        extended(SearchSettings(SearchBudget(runs=1), (ProposerChoice("tpe"),)), twice, PRESETS["default"])


def test_a_lab_without_a_given_tag_is_called_by_the_day() -> None:
    tag = dated_tag()
    assert tag.isascii() and tag[:3].isalpha() and tag[3:].isdigit()
