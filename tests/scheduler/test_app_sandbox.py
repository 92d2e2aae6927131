"""A lab's sandbox: asked for at init, refused where the machine has none, part of what is compared, on every screen."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.actions import init
from scheduler.actions.init import InitRequest, create_lab
from scheduler.brief import read_brief_facts, write_brief
from scheduler.doctor import checks
from scheduler.doctor.checks import Grade
from scheduler.domain.errors import LabProblem
from scheduler.domain.lab import SANDBOX_LEVELS
from scheduler.node.harness_client import SandboxFacts, ask_sandbox
from scheduler.node.supervisor import SlotSupervisor
from scheduler.report.page import write_report
from scheduler.screens.details import candidate_screen, run_screen
from scheduler.screens.tables import leaderboard_screen, status_screen, summary_screen
from scheduler.screens.terminal import painted
from scheduler.screens.watch import watch_frame
from scheduler.views.candidate import candidate_view
from scheduler.views.candidates import leaderboard
from scheduler.views.facts import LabFacts
from scheduler.views.report import summary
from scheduler.views.runs import run_view
from scheduler.views.status import Watcher, read_status
from tests.scheduler.fake_judge import CONTRACT_JSON, FAKE_SANDBOX
from tests.scheduler.git_kit import make_repository, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab, make_space
from tests.scheduler.ledger_kit import make_lab
from tests.scheduler.supervisor_pool import FAKES, specs
from tests.scheduler.test_app_init import ContractFile, contract  # noqa: F401

NO_FULL = SandboxFacts("user namespaces are off", "", 5)
NONE = SandboxFacts("user namespaces are off", "no seccomp", 0)


@pytest.mark.parametrize(("facts", "best"), [(SandboxFacts(), "full"), (NO_FULL, "weak"), (NONE, "off")])
def test_the_best_level_is_the_strictest_to_be_had(facts: SandboxFacts, best: str) -> None:
    assert facts.best == best
    refused = [level for level in SANDBOX_LEVELS if facts.problem(level)]
    assert refused == list(SANDBOX_LEVELS[: SANDBOX_LEVELS.index(best)])


def test_the_harness_is_asked_and_an_answer_that_is_none_is_a_problem() -> None:
    assert ask_sandbox(FAKE_SANDBOX, {**os.environ, "LC_NO_SANDBOX": "why"}) == SandboxFacts("why", "", 4)
    for answer in ("{}", "[]", '{"full": "", "weak": "", "landlock_abi": null}', "no json"):
        with pytest.raises(LabProblem, match="harness"):
            ask_sandbox(("/bin/echo", answer), os.environ)


@pytest.mark.parametrize("level", ["full", "weak"])
def test_init_refuses_what_this_machine_has_not_and_names_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contract: ContractFile, level: str  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setattr(init, "sandbox_here", lambda: NO_FULL if level == "full" else NONE)
    root = make_repository(tmp_path / "lab")
    (tmp_path / "train.py").write_text("DEPTH = 2\n")
    request = InitRequest("t", contract(), tmp_path / "train.py", sandbox=level)
    with pytest.raises(LabProblem, match=f"no {level} sandbox here: .*") as raised:
        create_lab(request, root)
    best = "weak" if level == "full" else "off"
    assert f"arsched init --sandbox {best}" in raised.value.hint and not (root / ".arsched").exists()
    assert create_lab(replace(request, sandbox=best), root).lab.sandbox == best


def test_a_slot_without_the_labs_sandbox_has_a_problem_with_the_reason(tmp_path: Path) -> None:
    environ = {**os.environ, "LC_NO_SANDBOX": "namespaces are off"}
    slot = SlotSupervisor(specs(1)[0], tmp_path, FAKES, environ=environ)
    broken = slot.probe(CONTRACT_JSON)
    assert "no full sandbox here: namespaces are off" in broken.problem and "--sandbox weak" in broken.problem
    pools = [slot.probe(CONTRACT_JSON, sandbox=level) for level in ("weak", "off")]
    assert [pool.problem for pool in pools] == ["", ""]
    assert [pool.pool.rpartition(" / ")[2] for pool in pools] == ["sandbox weak", "sandbox off"]
    assert "sandbox" not in broken.pool
    mute = SlotSupervisor(specs(1)[0], tmp_path, replace(FAKES, sandbox=("/bin/false",)))
    assert "harness" in mute.probe(CONTRACT_JSON).problem and not mute.probe(CONTRACT_JSON, sandbox="off").problem


def test_the_level_goes_with_every_order(tmp_path: Path) -> None:
    played = PlayedLab(tmp_path)
    played.space = replace(played.space, lab=replace(played.space.lab, sandbox="weak"))
    played.run()
    assert {order.sandbox for order in played.pool.started} == {"weak"}


@pytest.mark.parametrize("level", SANDBOX_LEVELS)
def test_every_screen_says_so_where_it_is_not_full(tmp_path: Path, level: str) -> None:
    space = make_space(tmp_path, lambda: 1000.0, replace(make_lab(), sandbox=level))
    facts, paths = LabFacts(space.ledger, space.ledger.labs.get(space.tag)), space.paths
    run, candidate = space.ledger.runs.get("r0001", space.tag), space.baseline()
    watched = Watcher(space.ledger, space.tag, paths.live).look(1000.0)
    write_report(space, paths.report)
    screens = {
        "status": painted(status_screen(read_status(facts, None, 1000.0))),
        "watch": watch_frame(watched, 160, 40).plain,
        "leaderboard": painted(leaderboard_screen(leaderboard(facts))),
        "summary": painted(summary_screen(summary(facts))),
        "show a run": painted(run_screen(run_view(facts, run))),
        "show a candidate": painted(candidate_screen(candidate_view(facts, candidate))),
        "page": (paths.report / "index.html").read_text(),
        "brief": write_brief(read_brief_facts(space.ledger, facts.lab)),
    }
    silent = [name for name, shown in screens.items() if f"sandbox: {level}" not in shown]
    assert silent == (list(screens) if level == "full" else [])


@pytest.mark.parametrize(("facts", "grade"), [(SandboxFacts(landlock_abi=4), Grade.OK), (NO_FULL, Grade.NOTE)])
def test_doctor_says_what_is_to_be_had(monkeypatch: pytest.MonkeyPatch, facts: SandboxFacts, grade: Grade) -> None:
    monkeypatch.setattr(checks, "ask_sandbox", lambda *_: facts)
    result = checks.check_sandbox()
    assert result.grade is grade and facts.full in result.message and result.message.startswith(facts.best)
