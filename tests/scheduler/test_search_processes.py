"""`arsched search` in real processes: killed anywhere, joined by submits, interrupted. Nothing is lost or run twice."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scheduler.cli.main import main
from scheduler.domain.candidate import Candidate
from scheduler.domain.run import Cancelled, Finished, Run, RunKind
from scheduler.domain.search import ProposalState, SearchState
from scheduler.ledger import Ledger
from tests.processes import is_running
from tests.scheduler import test_app_processes
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.ledger_kit import broken_invariants
from tests.scheduler.test_app_processes import Lab, some_candidates, wait_for_line, watched_lab
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
LINES = f"{sys.executable} -S {Path(__file__).resolve().parent / 'lines_proposer.py'}"
BUDGET = ("--runs", "7", "--claim-runs", "1", "--slots", "2")
IDEAS = ("--proposer", "lines", "--option", f"lines.command={LINES}")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    program = [sys.executable, str(Path(__file__).resolve().parent / "arsched_without_ray.py")]
    monkeypatch.setattr(test_app_processes, "PROGRAM", program)
    for lab in watched_lab(tmp_path):
        monkeypatch.chdir(lab.root)
        yield lab


def arsched(*arguments: str) -> Result:
    """A command that needs no slots, without a process of its own."""
    return CliRunner().invoke(main, list(arguments))


def check_all_is_over_and_once(lab: Lab) -> list[Run]:
    """Returns all runs."""
    assert not broken_invariants(lab.ledger_path)
    with Ledger.open(lab.ledger_path) as ledger:
        (search,) = ledger.searches.list("t")
        assert search.state is SearchState.ENDED
        assert len(ledger.claims.list("t")) == 1
        assert not [one for one in ledger.proposals.list("t") if one.state is ProposalState.ASKED]
        candidates = ledger.candidates.list("t")
        assert not [one for one in candidates if one.state.undecided]
        assert len({one.fingerprint for one in candidates}) == len(candidates)
        runs = list(ledger.runs.list("t"))
        assert all(isinstance(run.state, Finished | Cancelled) for run in runs)
        claim = ledger.claims.list("t")[0]
        measured = [run for run in runs if run.kind is RunKind.CLAIM and isinstance(run.state, Finished)]
        assert len(measured) == len(claim.first_scores) + len(claim.final_scores)
    wait_until(lambda: not lab.judges())
    return runs


def candidates(lab: Lab) -> tuple[Candidate, ...]:
    with Ledger.open(lab.ledger_path) as ledger:
        return ledger.candidates.list("t")


@pytest.mark.parametrize("events_before_the_kill", [8, 16, 28, 40, 50])
def test_killed_anywhere_and_started_again_the_search_ends_the_same(lab: Lab, events_before_the_kill: int) -> None:
    first = lab.start("search", *BUDGET, *IDEAS)
    wait_until(lambda: lab.events() >= events_before_the_kill or first.poll() is not None)
    first.kill()
    first.communicate()
    with Ledger.open(lab.ledger_path) as ledger:
        begun = ledger.searches.list("t")
    words = () if begun else (*BUDGET, *IDEAS)  # an unfinished search needs none
    code, out, err = lab.finish(lab.start("search", *words, "--json"))
    ended = json.loads(out)["search"]
    assert code == (4 if begun and begun[0].state is SearchState.ENDED else 0), err
    assert (ended["number"], ended["state"]) == (1, "ended")
    runs = check_all_is_over_and_once(lab)
    assert sum(run.kind is not RunKind.CLAIM and isinstance(run.state, Finished) for run in runs) >= 7


def test_two_submits_during_a_search_are_served_by_it_and_recorded_once(lab: Lab) -> None:
    paths = some_candidates(lab, 4)
    search = lab.start("search", "--runs", "14", "--claim-runs", "1", "--slots", "2", *IDEAS)
    wait_until(lambda: lab.running() > 0)
    submits = [lab.start("submit", *paths[:3], "--json"), lab.start("submit", *paths[1:], "--json")]
    ended = [lab.finish(process) for process in submits]
    assert [code for code, _, _ in ended] == [0, 0]
    for _, out, _ in ended:
        assert all(one["state"] not in ("open", "contender") for one in json.loads(out)["candidates"])
    assert lab.finish(search)[0] == 0
    check_all_is_over_and_once(lab)
    names = [one.name for one in candidates(lab)]
    assert all(names.count(f"idea-{n}") <= 1 for n in range(4)) and len(set(names)) == len(names)
    assert len(lab.connections.read_text().split()) == 1


def test_a_second_search_is_refused_while_the_first_runs(lab: Lab) -> None:
    search = lab.start("search", *BUDGET, *IDEAS)
    printed = wait_for_line(search, "idea ")
    wait_until(lambda: (lab.root / ".git" / "arsched" / "live.json").exists())
    refused = arsched("search", *BUDGET, *IDEAS)
    assert refused.exit_code == 1 and "search 1 of lab 't' is run by another arsched" in refused.stderr, printed
    assert lab.finish(search)[0] == 0
    again = arsched("search")
    assert again.exit_code == 4 and "search 1 ended" in again.stdout
    assert "budget spent" in again.stderr and "arsched search --hours" in again.stderr


def test_pause_lets_the_search_leave_with_4_and_resume_lets_it_go_on(lab: Lab) -> None:
    search = lab.start("search", *BUDGET, *IDEAS)
    wait_for_line(search, "result ")
    paused = arsched("pause", "--json")
    assert paused.exit_code == 0 and json.loads(paused.stdout)["paused"]
    code, _, err = lab.finish(search)
    assert code == 4 and "arsched resume" in err
    assert arsched("search").exit_code == arsched("submit").exit_code == 4
    late = arsched("submit", lab.write("late", "SCORE = 1.4\n"), "--json")
    assert late.exit_code == 4 and json.loads(late.stdout)["candidates"][0]["state"] == "open"
    assert arsched("wait", "late").exit_code == 4
    assert arsched("resume").exit_code == 0
    assert lab.finish(lab.start("search"))[0] == 0
    check_all_is_over_and_once(lab)
    assert next(one for one in candidates(lab) if one.name == "late").state.value != "open"


def test_ctrl_c_and_the_stop_file_leave_a_search_that_goes_on(lab: Lab) -> None:
    search = lab.start("search", *BUDGET, *IDEAS)
    wait_for_line(search, "result ")
    search.send_signal(signal.SIGINT)
    code, out, err = lab.finish(search)
    assert code == 130 and re.search(r"goes on with: \S*arsched search", err)
    assert out.startswith("search 1 interrupted, not over\n")
    again = lab.start("search")
    wait_for_line(again, "result ")
    (lab.root / ".arsched" / "stop").touch()
    code, out, _ = lab.finish(again)
    assert code == 4 and out.startswith("search 1 stopped, not over\n")
    assert not (lab.root / ".arsched" / "stop").exists()
    assert lab.finish(lab.start("search"))[0] == 0
    check_all_is_over_and_once(lab)


def test_a_detached_search_outlives_its_terminal_and_is_stopped_by_name(lab: Lab) -> None:
    code, out, err = lab.finish(lab.start("search", *BUDGET, *IDEAS, "--detach", "--json"))
    begun = json.loads(out)
    pid = begun["pid"]
    try:
        assert code == 0 and begun["detached"] and "arsched stop" in err, err
        assert os.getsid(pid) == pid, "a session of its own: no terminal can end it"
        assert json.loads((lab.root / ".git" / "arsched" / "live.json").read_text())["pid"] == pid
        refused, said, _ = lab.finish(lab.start("search", *BUDGET, *IDEAS, "--detach"))
        assert refused == 1 and f"is run by another arsched (pid {pid})" in said
        wait_until(lambda: "result " in Path(begun["log"]).read_text(), "a result")
        code, out, _ = lab.finish(lab.start("stop", "--json"))
        assert code == 0 and json.loads(out) == {"tag": "t", "ran": True, "pid": pid, "ended": True, "dry_run": False}
        wait_until(lambda: not is_running(pid))
        assert "search    1 begins" in Path(begun["log"]).read_text() and not lab.running()
        assert not (lab.root / ".arsched" / "stop").exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert lab.finish(lab.start("search"))[0] == 0
    check_all_is_over_and_once(lab)


def test_stop_now_queues_what_runs_again(lab: Lab) -> None:
    search = lab.start("search", *BUDGET, *IDEAS)
    wait_until(lambda: lab.running() > 0)
    code, out, err = lab.finish(lab.start("stop", "--now", "--json"))
    assert code == 0 and json.loads(out)["ended"] and "goes back to the queue" in err
    assert lab.finish(search)[0] == 130 and not lab.running()
    assert lab.finish(lab.start("search"))[0] == 0
    check_all_is_over_and_once(lab)


def test_a_hangup_that_the_shell_ignores_is_ignored(lab: Lab) -> None:
    """As `nohup arsched submit &` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        search = lab.start("search", *BUDGET, *IDEAS)
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for_line(search, "result ")
    search.send_signal(signal.SIGHUP)
    assert lab.finish(search)[0] == 0
    check_all_is_over_and_once(lab)


def test_one_session_of_an_agent_brings_a_round_of_ideas(lab: Lab) -> None:
    each = 'mkdir -p candidates/$n && echo "SCORE = 1.9$n$ARSCHED_SEED" > candidates/$n/train.py'
    agent = f"for n in 1 2 3; do {each}; done; echo 'def broken(' > candidates/2/train.py"
    more = ("--rounds", "1", "--ideas", "4", "--ideas-per-ask", "3", "--workers", "1", "--claim-runs", "0")
    code, _, err = lab.finish(lab.start("search", "--command", agent, *more, "--slots", "2"))
    assert code == 0 and "4 of 4 ideas are decided" in err
    with Ledger.open(lab.ledger_path) as ledger:
        asked = ledger.proposals.list("t")
        made = [one for one in asked if one.state is ProposalState.QUEUED]
        refused = [one.reason for one in asked if one.state is ProposalState.FAILED]
        assert len(made) == 4 and len({one.seed for one in made}) < 4, "not a session for each"
        assert refused and all("does not parse" in reason for reason in refused)
        assert all(not one.state.undecided for one in ledger.candidates.list("t"))
