"""benchmarks/gpu_quarter.py without a GPU: every stage answers, and one that dies takes no other answer with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.contract import load_contract, shipped_names
from harness.prepare.build import recipe_digest
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_quarter.py"
PATIENCE_S = 120.0  # for a condition on a loaded machine
UNIMPORTABLE = ("yaml", "click", "ray", "kernels", "rich", "scipy", "git", "matplotlib", "pynvml", "optuna", "jinja2")
BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {UNIMPORTABLE!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


class Rig:
    """One output folder and one work folder; runs the script, and finds what it left alive."""

    def __init__(self, folder: Path) -> None:
        self.out, self.work = folder / "out", folder / "work"
        self.environment = {**os.environ, "ARSCHED_CACHE": str(folder / "cache"), "PYTHONPATH": ""}

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(SCRIPT), str(self.out), "--work", str(self.work), *options]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=self.environment, cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *options: str) -> tuple[int, str]:
        process = self.start(*options)
        said, _ = process.communicate()
        return process.returncode, said

    def answers(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "answers.jsonl").read_text().splitlines()]

    def of(self, stage: str) -> list[dict[str, Any]]:
        return [answer for answer in self.answers() if answer["stage"] == stage]

    def processes(self, word: str = "") -> list[int]:
        """Living processes whose command line names the work folder, and `word`."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line = (folder / "cmdline").read_bytes().decode(errors="replace")
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if str(self.work) in line and word in line and state != "Z":
                found.append(int(folder.name))
        return found


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@pytest.mark.slow
def test_every_stage_answers_on_a_cpu(rig: Rig) -> None:
    code, said = rig.run("--smoke")
    assert code == 0, said + (rig.out / "logs.txt").read_text()
    stages = ("env", "smoke", "tests", "prepare", "ours", "upstream", "evalcost", "probes")
    assert [[a.get("error") for a in rig.of(stage)] for stage in stages if not rig.of(stage)] == []
    assert [answer for answer in rig.answers() if "error" in answer] == []
    for stage in ("smoke", "ours", "upstream"):
        assert rig.of(stage)[0]["values"]["status"] == "ok"
    assert rig.of("smoke")[0]["values"]["rows"] == "random rows"
    assert rig.of("ours")[0]["values"]["rows"] == rig.of("upstream")[0]["values"]["rows"] == "python sources"
    assert rig.of("tests")[0]["values"]["error"] > 0, "without a GPU they fail, and are counted"
    cost = rig.of("evalcost")[0]["values"]
    assert cost["rows"] == 64 and cost["evaluation_s"] > 0 and "host" in cost["exchange"].lower()
    files = sorted(path.name for path in rig.out.iterdir())
    assert files == ["answers.jsonl", "logs.txt", "summary.md"]
    for name in files:
        assert "plumbing only" in (rig.out / name).read_text(), name
    assert rig.processes() == []


@pytest.mark.slow
def test_a_stage_that_is_killed_leaves_a_line_and_the_next_one_answers(rig: Rig) -> None:
    process = rig.start("--smoke", "--only", "smoke,evalcost")
    wait_until(lambda: (rig.work / "runs" / "smoke" / "progress.json").exists(), "the judged run began", PATIENCE_S)
    stages = rig.processes('"stage": "smoke"')
    assert len(stages) == 1
    judges = rig.processes("harness.judge")
    os.kill(stages[0], signal.SIGKILL)
    wait_until(lambda: not set(judges) & set(rig.processes("runs/smoke")), "its judge died with it", PATIENCE_S)
    said, _ = process.communicate()
    assert process.returncode == 1, said
    assert [answer["error"].partition(";")[0] for answer in rig.of("smoke")] == ["killed by SIGKILL"]
    assert rig.of("evalcost")[0]["values"]["status"] == "ok"
    assert rig.processes() == []


@pytest.mark.slow
def test_a_stage_past_its_deadline_is_killed_with_its_children_and_the_next_one_answers(rig: Rig) -> None:
    code, said = rig.run("--smoke", "--only", "smoke,evalcost", "--deadline", "smoke=2")
    assert code == 1 and "Traceback" not in said, said
    assert "killed at its deadline of 2 s" in rig.of("smoke")[0]["error"]
    assert rig.of("evalcost")[0]["values"]["status"] == "ok"
    assert "killed at its deadline" in (rig.out / "summary.md").read_text()
    assert rig.processes() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_interrupted_it_takes_its_children_with_it_and_keeps_what_is_known(rig: Rig, number: signal.Signals) -> None:
    process = rig.start("--smoke", "--only", "smoke,evalcost")
    wait_until(lambda: (rig.work / "runs" / "smoke" / "progress.json").exists(), "the judged run began", PATIENCE_S)
    process.send_signal(number)
    said, _ = process.communicate()
    if number is signal.SIGKILL:
        wait_until(lambda: not rig.processes(), "nothing outlives it", PATIENCE_S)
        return
    assert process.returncode == 1, said
    assert [answer["error"].partition(";")[0] for answer in rig.answers()] == [f"stopped by {number.name}"]
    assert "stopped by" in (rig.out / "summary.md").read_text()
    assert rig.processes() == []


@pytest.mark.slow
def test_on_a_bare_machine_the_machine_and_the_judged_run_are_seen(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "sitecustomize.py").write_text(BLOCKER)
    rig.environment["PYTHONPATH"] = str(tmp_path / "bare")
    checked = subprocess.run([sys.executable, "-c", "import yaml"], env=rig.environment, capture_output=True)
    assert checked.returncode == 1, "the blocker blocks"
    code, said = rig.run("--smoke", "--only", "env,smoke")
    assert code == 0, said + (rig.out / "logs.txt").read_text()
    assert rig.of("smoke")[0]["values"]["status"] == "ok"


def test_a_limit_that_is_used_up_skips_what_is_left_and_says_so(rig: Rig) -> None:
    code, said = rig.run("--smoke", "--only", "env,probes", "--limit-s", "0.5")
    assert code == 1, said
    assert [answer["error"].partition(":")[0] for answer in rig.of("probes")] == ["skipped"]


def test_a_stage_that_cannot_be_started_leaves_a_line_and_the_next_one_is_asked(rig: Rig) -> None:
    (rig.work / "env.log").mkdir(parents=True)  # where its output is due
    code, said = rig.run("--smoke", "--only", "env,probes", "--deadline", "probes=1")
    assert code == 1, said
    assert "could not be started" in rig.of("env")[0]["error"]
    assert "killed at its deadline" in rig.of("probes")[0]["error"]


def test_a_reader_that_goes_away_stops_nothing(rig: Rig) -> None:
    process = rig.start("--smoke", "--only", "env,probes", "--deadline", "env=1", "--deadline", "probes=1")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 1
    assert [answer["stage"] for answer in rig.answers()] in (["env", "probes"], ["env", "env", "probes"])


def test_half_a_line_of_an_earlier_call_spoils_no_later_one(rig: Rig) -> None:
    rig.out.mkdir()
    (rig.out / "answers.jsonl").write_text('{"stage": "env", "answer": "machi')
    rig.run("--smoke", "--only", "probes", "--limit-s", "0.5")
    lines = (rig.out / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[1])["stage"] == "probes"


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (("--only", "env,warp"), "no stage warp"),
        (("--only", ""), "no stage"),
        (("--only", "upstream"), "needs --upstream FILE"),
        (("--upstream", "nowhere.py"), "no such file"),
        (("--limit-s", "0"), "above 0"),
        (("--limit-s", "nan"), "above 0"),
        (("--deadline", "smoke=never"), "not STAGE=SECONDS"),
        (("--deadline", "warp=3"), "not STAGE=SECONDS"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(rig: Rig, options: tuple[str, ...], seen: str) -> None:
    code, said = rig.run(*options)
    assert code == 2
    assert seen in said and "Traceback" not in said
    assert not rig.out.exists()


def test_a_file_where_the_output_folder_is_due_is_a_usage_error(rig: Rig) -> None:
    rig.out.write_text("taken")
    assert rig.run("--only", "env")[0] == 2


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_expect
    import gpu_runs

    return gpu_runs, gpu_expect


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_contracts_are_read_without_yaml_as_with_it(modules: Any, name: str) -> None:
    assert modules[0].shipped_contract(name) == load_contract(name)


@pytest.mark.parametrize("name", ["smoke", "ours", "upstream", "evalcost-auto"])
@pytest.mark.parametrize("smoke", [True, False])
def test_the_contracts_of_the_stages_are_the_same_ones_in_every_process(modules: Any, name: str, smoke: bool) -> None:
    runs = modules[0]
    contract = runs.contract_of(runs.Plan("", "", "", smoke, "", 1.0), name, 60, 1024, 45)
    assert runs.Contract.from_json(contract.to_json()).digest == contract.digest
    assert contract.device == ("cpu" if smoke else "cuda")
    if not smoke:
        shape = ("sequence_length", "vocab_size", "train_constants", "threads")
        assert [getattr(contract, key) for key in shape] == [getattr(load_contract("standard"), key) for key in shape]


def test_upstream_runs_on_the_rows_of_ours(modules: Any) -> None:
    runs = modules[0]
    ours, upstream = (
        runs.contract_of(runs.Plan("", "", "", False, "", 1.0), name, 60, 1024) for name in ("ours", "upstream")
    )
    assert recipe_digest(ours) == recipe_digest(upstream)
    assert upstream.compat == "upstream" and upstream.budget.training_s == 60


def machine(card: str) -> dict[str, Any]:
    return {"stage": "env", "answer": "machine", "values": {"gpu": card}}


def test_the_summary_marks_what_lies_outside_its_range_on_the_card_the_ranges_are_for(modules: Any) -> None:
    run = {"status": "ok", "step_ms": 320.0, "mfu_percent": 20.0}
    ours = {"stage": "ours", "answer": "run", "values": run}
    text = modules[1].summary([machine("NVIDIA H100 80GB HBM3"), ours], "")
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "look" in lines["ours: MFU, %"] and "look" not in lines["ours: step, ms"]
    assert "look" not in lines["upstream: step, ms"], "unknown is not outside"
    assert "look" not in modules[1].summary([machine("NVIDIA A100"), ours], "")
    assert "look" not in modules[1].summary([machine("NVIDIA H100"), ours], "a smoke run")


def test_the_summary_names_every_failure_and_shows_the_run_that_failed(modules: Any) -> None:
    failed = {"stage": "ours", "error": "crash: boom", "values": {"status": "crash"}}
    text = modules[1].summary([machine("NVIDIA H100"), failed], "")
    assert "- ours: crash: boom" in text
    assert "| ours: status | ok | crash | **look** |" in text


def test_a_run_that_reports_nothing_is_read_from_its_log(modules: Any) -> None:
    runs = modules[0]
    log = "\rstep 00010 (1.0%) | dt: 300ms |\rstep 00011 | dt: 320ms |\n---\n"
    log += "mfu_percent:      39.5\nnum_steps:        12\ntotal_tokens_M:   6.3\n"
    result = {
        **dict.fromkeys(("reason", "val_bpb", "val_bpb_upstream", "attention", "containment", "peak_memory_mb")),
        **{"status": "ok", "phases_s": {}, "wall_s": 1.0, "budget": {"train_wall_s": 1.0}, "device": {}},
        "training": {"steps": None, "tokens": None, "tokens_per_s": None, "mfu": None},
    }
    values = runs.run_values(result, log, load_contract("standard"))
    assert (values["steps"], values["tokens"], values["mfu_percent"], values["step_ms"]) == (12, 6.3e6, 39.5, 310.0)
    assert values["tokens_per_s"] == pytest.approx(524_288 / 0.310)
