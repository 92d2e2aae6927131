"""`arsched audit`: a stored candidate scored again from scratch; it decides nothing and says whether both agree."""

from __future__ import annotations

import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.actions.audit import queue_audit
from scheduler.cli import audit as verb
from scheduler.cli.main import main
from scheduler.domain.decision import Noise
from scheduler.domain.errors import NotYet, UsageProblem
from scheduler.domain.run import Failed, Finished, Infra, Run, RunKind, Scored, Verdict
from scheduler.domain.slot import RunOrder
from scheduler.ledger.db import Database
from scheduler.ledger.ledger import MIGRATIONS, migrate
from scheduler.policy.audit import compare_runs
from scheduler.queue.runner import run_queue
from scheduler.screens.details import audit_screen
from scheduler.screens.terminal import painted
from scheduler.views.audit import AuditView, audit_view
from scheduler.views.facts import LabFacts
from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab, as_the_source_says
from tests.scheduler.ledger_kit import broken_invariants, finish, ok, open_ledger
from tests.scheduler.memory_pool import Finishes, Outcome

SIGMA = 0.005


@pytest.mark.parametrize(
    ("first", "again", "consistent"),
    [
        (Scored(1.9, None), Scored(1.905, None), True),
        (Scored(1.9, None), Scored(1.9, None), True),
        (Scored(1.8, None), Scored(1.9, None), False),
        (Scored(1.9, None), Scored(1.8, None), False),
        (Scored(1.9, None), Scored(1.9, None, "holdout-gap"), False),
        (Scored(1.9, None, "clones"), Scored(1.9, None, "clones"), True),
        (Scored(1.9, None), Failed("crash", "x"), False),
        (Failed("crash", "x"), Failed("crash", "y"), True),
        (Failed("crash", "x"), Failed("oom", "y"), False),
        (Failed("crash", "x"), Scored(1.9, None), False),
        (Scored(1.9, None), Infra("infra: lost", "x"), False),
        (Infra("infra: lost", "x"), Infra("infra: lost", "x"), False),
    ],
)
def test_what_agrees(first: Verdict, again: Verdict, consistent: bool) -> None:
    outcome = compare_runs(first, again, SIGMA * math.sqrt(2))
    assert outcome.consistent is consistent and outcome.sentence
    assert (outcome.sigmas is None) == (not (isinstance(first, Scored) and isinstance(again, Scored)))


out_of_luck: list[bool] = []


def lucky(order: RunOrder) -> Outcome:
    """A candidate with LUCK = 1 has a score that it does not reach later; every result has a holdout score."""
    made = as_the_source_says(order)
    assert isinstance(made, Finishes)
    raw = json.loads(made.result_text) | {"sandbox": "full", "probes": {"suffix": {"z": 0.3}}}
    if b"LUCK" in order.train_py and out_of_luck:
        raw["val_bpb"] += 0.2
    if raw["val_bpb"]:
        raw["holdout_bpb"] = raw["val_bpb"] + 0.01
    return Finishes(json.dumps(raw))


@pytest.fixture
def played(tmp_path: Path) -> PlayedLab:
    made = PlayedLab(tmp_path, outcome=lucky)
    made.submit("lucky", "SCORE = 1.7\nLUCK = 1\n")
    made.submit("plain", "SCORE = 1.95\n")
    out_of_luck.clear()
    made.run()
    out_of_luck.append(True)
    return made


def audited(played: PlayedLab, ref: str, seed: int | None = None) -> AuditView:
    first, queued = queue_audit(played.space, ref, seed)
    played.run()
    again = played.space.ledger.runs.get(queued.id, "t")
    return audit_view(LabFacts(played.space.ledger, played.space.lab, whole=False), first, again)


def test_an_audit_shows_both_results_and_decides_nothing(played: PlayedLab) -> None:
    board, decisions = played.space.ledger.board("t"), played.space.ledger.decisions.history("t")
    view = audited(played, "r0004")
    assert not view.consistent and view.sigmas and view.sigmas > 3
    assert (view.first.run, view.first.kind, view.again.kind) == ("r0004", "new", "audit")
    assert view.first.seed != view.again.seed and view.again.sandbox == "full"
    assert view.first.holdout_bpb == pytest.approx(1.71, abs=0.01) and "suffix" in view.again.probes
    assert played.space.ledger.board("t") == board and played.space.ledger.decisions.history("t") == decisions
    shown = painted(audit_screen(view))
    assert all(
        words in shown for words in ("not consistent", "holdout bpb", "probe suffix", "sandbox", "seed", "steps")
    )
    assert not broken_invariants(played.space.paths.ledger)


@pytest.mark.parametrize("ref", ["r0001", "baseline", "plain", "last", "crash"])
def test_first_runs_baselines_and_failed_ones_can_be_audited(played: PlayedLab, ref: str) -> None:
    if ref == "crash":
        played.submit("crash", "STATUS = 'crash'\n")
        played.run()
    view = audited(played, ref)
    assert view.again.kind == "audit" and view.consistent == (view.candidate != "c0002")


def test_on_a_machine_that_drifts_two_results_may_be_further_apart(played: PlayedLab) -> None:
    """As far as their times, slots and seeds differ; a difference that is noise there is none on a steady machine."""
    first, queued = queue_audit(played.space, "r0001", None)
    played.run()
    again = played.space.ledger.runs.get(queued.id, "t")
    sigmas = []
    for noise in (Noise(0.001, 9), Noise(0.001, 9, drift=0.01, scale_s=0.1, seed_sd=0.01)):
        facts = LabFacts(played.space.ledger, played.space.lab)
        facts.__dict__["noise"] = noise
        sigmas.append(abs(audit_view(facts, first, again).sigmas or 0.0))
    assert sigmas[1] == pytest.approx(sigmas[0] * math.sqrt(0.001**2 / (0.001**2 + 2 * 0.01**2)), rel=1e-2)


def test_a_run_without_a_result_and_a_used_seed_are_refused(played: PlayedLab) -> None:
    run = played.space.ledger.runs.add("c0003", RunKind.REPEAT, "a test")
    with pytest.raises(NotYet, match="no result to audit"):
        queue_audit(played.space, run.id, None)
    with pytest.raises(UsageProblem, match="r0001 has had seed 1"):
        queue_audit(played.space, "r0001", 1)
    with pytest.raises(UsageProblem):
        queue_audit(played.space, "r0099", None)


def test_a_chosen_seed_leaves_the_others_as_they_would_be(played: PlayedLab) -> None:
    last = max(run.seed for run in played.space.ledger.runs.list("t"))
    seeds = [queue_audit(played.space, "r0001", seed)[1].seed for seed in (10**9, last + 1, None)]
    assert seeds == [10**9, last + 1, last + 2]
    assert played.space.ledger.runs.add("c0001", RunKind.BASELINE, "more").seed == last + 3


@pytest.mark.parametrize(("ref", "code"), [("r0001", 0), ("r0004", 3)])
def test_the_exit_code_says_whether_both_agree(
    played: PlayedLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ref: str, code: int
) -> None:
    def run(space: object, candidates: object, address: object, slots: object) -> int:
        run_queue(played.space, played.screen, played.means, lambda: False)
        return 0

    monkeypatch.setattr(verb, "run_and_watch", run)
    monkeypatch.chdir(played.space.repo.root)
    with pytest.raises(SystemExit) as ended:
        main(["audit", ref, "--json"])
    said = json.loads(capsys.readouterr().out)
    assert ended.value.code == code and said["consistent"] is (code == 0)
    assert said["first"]["run"] == ref and said["again"]["kind"] == "audit"


def test_a_ledger_from_before_keeps_its_runs_numbers_and_scores(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(Database(path)) as database:
        migrate(database, 1.0, MIGRATIONS[:1])
    with closing(sqlite3.connect(path)) as connection, connection:
        lab = ("t", "l", "b", "cpu", "d", "{}", "c", "cpu", 0.005, "{}", 1.0, None, 1)
        connection.execute(f"INSERT INTO lab VALUES ({', '.join('?' * len(lab))})", lab)
        first = (1, "t", "n", "c", None, "s", "f", "t", "a", 1.0, "baseline", "baseline", "", "", "", None, 1)
        connection.execute(f"INSERT INTO candidate VALUES ({', '.join('?' * len(first))})", first)
        connection.execute("INSERT INTO run VALUES (7, 't', 1, 'baseline', 1, 'finished', 1.0, 0, 1, 'pool', '')")
        connection.execute("INSERT INTO attempt VALUES (7, 1, 's', 'b', 1.0, 1.0, 2.0, 2.0, 'ok')")
        connection.execute("UPDATE sqlite_sequence SET seq = 90 WHERE name = 'run'")
    with closing(Database(path)) as database:
        migrate(database, 1.0)
        assert tuple(database.one("SELECT number, pool FROM run")) == (7, "pool / sandbox off")
        assert database.one("SELECT sandbox FROM lab")[0] == "off"
        assert tuple(database.one("SELECT nonce, charge FROM attempt")) == ("", "")
        number = database.insert("run", tag="t", candidate=1, kind="audit", seed=2, state="queued", since=1.0)
        assert number == 91
    with open_ledger(path) as ledger:
        finish(ledger, ledger.runs.get("r91", "t"), ok(1.5))
        assert ledger.runs.add("c0001", RunKind.BASELINE, "again").seed == 3
        assert ledger._database.one("SELECT speed FROM result")[0] is None


def test_audits_are_finished_runs_of_their_kind(played: PlayedLab) -> None:
    audited(played, "r0001")
    kinds = [run for run in played.space.ledger.runs.list("t") if run.kind is RunKind.AUDIT]
    assert [type(run.state) for run in kinds] == [Finished] and isinstance(kinds[0], Run)
    assert [kind for kind in RunKind if not kind.decides] == [RunKind.CLAIM, RunKind.AUDIT, RunKind.CALIBRATION]
