"""The whole path as a user walks it: init, submit, judge, decide, promote, show, on two slots of a real Ray.

Attacks: candidates that are worse or crash, a driver killed in the middle, Ctrl-C, and two submits at once. The
candidates count bigrams of random tokens, so a run costs half a CPU-second and the true order of ideas is known.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from tests.waiting import wait_until
from tests.walk.lab import BAD, COUNTING, CRASH, GOOD, UsersLab

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SETTLED = ("baseline", "promoted", "discarded", "shelved")  # whatever merges came of it


def begin(lab: UsersLab) -> None:
    said = lab.arsched("init", "--tag", "search", "--contract", str(lab.rig.contract_path), "--slots", "2", "--json")
    assert said.code == 0, said.err
    # Seeds do nothing here: two runs that happen to make as many steps score alike, and one of them does not count.
    runs = lab.arsched("show", "baseline", "--json").json["runs"]
    assert len(runs) == len(said.json["runs"]) and [run["status"] for run in runs].count("ok") == 3


def finished_runs(lab: UsersLab) -> int:
    return len(lab.results())


def test_from_a_repository_to_a_promoted_baseline(lab: UsersLab) -> None:
    begin(lab)
    paths = [lab.candidate(name, source) for name, source in (("good", GOOD), ("bad", BAD), ("crash", CRASH))]
    (lab.root / "candidates" / "README.md").write_text("not a candidate")
    said = lab.arsched("submit", *paths, "candidates/README.md", "--slots", "2", "--json")
    assert said.code == 0, said.err
    assert len(said.json["candidates"]) == 3
    assert lab.statuses() == {"good": "baseline", "baseline": "promoted", "bad": "discarded", "crash": "failed"}

    tip = subprocess.run(
        ["git", "show", "autoresearch/search:train.py"], cwd=lab.root, capture_output=True, text=True, check=True
    )
    assert tip.stdout == (lab.root / "candidates" / "good.py").read_text()
    assert "out of ideas" in lab.arsched("logs", "crash").out
    assert "P(better)" in lab.arsched("explain", "good").out
    assert lab.arsched("report").code == 0
    assert (lab.root / "report" / "progress.png").stat().st_size > 10_000
    table = (lab.root / "report" / "results.tsv").read_text().splitlines()
    assert table[0].split("\t") == ["commit", "val_bpb", "memory_gb", "status", "description"]
    assert sum(line.split("\t")[3] == "crash" for line in table[1:]) == 1

    assert lab.arsched("submit", *paths, "--slots", "2").code == 0, "what is known is no fault"
    copy = lab.root / "candidates" / "copy.py"
    copy.write_text((lab.root / "candidates" / "good.py").read_text() + "# the same idea in other words\n")
    refused = lab.arsched("submit", "candidates/copy.py")
    assert refused.code == 3
    assert "good" in refused.err


def test_a_killed_submit_is_taken_up_by_the_next(lab: UsersLab) -> None:
    begin(lab)
    paths = [lab.candidate(f"idea{i}", COUNTING.replace("% len(rows)", f"% (len(rows) - {i})")) for i in range(6)]
    before = finished_runs(lab)
    driver = lab.start("submit", *paths, "--slots", "2")
    wait_until(lambda: finished_runs(lab) > before + 1, "results of the first candidates")
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    said = lab.arsched("submit", "--slots", "2")
    assert said.code == 0, said.err
    assert set(lab.results().values()) == {1}, "a run with two results, or none"
    rows = lab.arsched("leaderboard", "--json").json["candidates"]
    assert len([row for row in rows if row["origin"] in ("baseline", "submitted")]) == 7
    assert all(row["runs"] >= 1 and row["status"] in SETTLED for row in rows)


def test_ctrl_c_twice_loses_nothing_and_leaves_nothing(lab: UsersLab) -> None:
    begin(lab)
    path = lab.candidate("patient", COUNTING.replace("TIME_BUDGET:", "TIME_BUDGET - 0.1:"))
    driver = lab.start("submit", path, "--slots", "2")
    live = lab.root / ".git" / "arsched" / "live.json"
    wait_until(lambda: live.exists() and json.loads(live.read_text())["pid"] == driver.pid, "the queue to be run")
    os.kill(driver.pid, signal.SIGINT)
    os.kill(driver.pid, signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    assert "Traceback" not in err
    wait_until(lambda: not lab.rig.survivors(), "everything to end")
    assert lab.arsched("submit", "--slots", "2").code == 0
    assert lab.statuses()["patient"] in SETTLED


def test_two_submits_share_one_queue(lab: UsersLab) -> None:
    begin(lab)
    first = lab.start("submit", lab.candidate("one", GOOD), "--slots", "2", "--json")
    second = lab.start("submit", lab.candidate("two", BAD), "--slots", "2", "--json")
    said = [process.communicate(timeout=240) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    assert lab.statuses() == {"one": "baseline", "two": "discarded", "baseline": "promoted"}
    assert set(lab.results().values()) == {1}
