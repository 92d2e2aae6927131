"""program.md keeps its word: every command it names is run in a real lab, every sample of output has its shape.

The lab is a fresh repository with the real train.py; its judge is a landscape, so that a run takes no time. A command
of program.md that is not walked here fails the first test. Whether the advice of program.md is wise is not tested.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.contract import load_contract
from scheduler.policy.constants import Constant, rewrite_constants
from tests.harness.judging import REPOSITORY, Rig
from tests.waiting import wait_until
from tests.walk.manual import MANUAL, commands, keys, samples, shape

TEXT = MANUAL.read_text(encoding="utf-8")


@dataclass(frozen=True)
class Step:
    """A command and how it ends. `sample`: the manual shows its stdout.

    `edits`: what the agent does before it, as candidate, constant and the value that it gets.
    """

    command: str
    code: int = 0
    edits: tuple[tuple[str, str, Constant], ...] = ()
    sample: bool = False


DRIVING = (
    Step("printenv ARSCHED_ASK", code=1),
    Step("arsched prepare --contract cpu"),
    Step("arsched doctor"),
    Step("arsched init --tag nov23 --contract cpu"),
    Step("arsched status"),
    Step("arsched new two-layers"),
    Step('git -C candidates/two-layers commit -am "Two layers: cheaper steps"', edits=(("two-layers", "DEPTH", 2),)),
    Step(
        "arsched submit candidates/*",
        edits=(("no-softcap", "SOFTCAP", 0.0), ("heads-of-33", "HEAD_DIM", 33)),
        sample=True,
    ),
    Step("arsched brief"),
    Step("arsched leaderboard", sample=True),
    Step("arsched show heads-of-33"),
    Step("arsched logs heads-of-33"),
    Step("arsched explain two-layers"),
    Step("arsched report"),
    Step("cat report/results.tsv", sample=True),
    Step("arsched submit candidates/* --json", edits=(("wider-mlp", "MATRIX_LR", 0.32),), sample=True),
    Step("arsched submit candidates/* --no-wait", edits=(("heads-of-33", "HEAD_DIM", 16),)),
    Step("nohup arsched submit > submit.log 2>&1 &"),
    Step("arsched wait --timeout 500"),
    Step("arsched stop"),
    Step("arsched show heads-of-33-2"),
    Step("arsched pause"),
    Step("arsched submit candidates/*", code=4, edits=(("wider-mlp", "MATRIX_LR", 0.02),)),
    Step("arsched wait", code=4),
)


SECTION = TEXT.partition("## Asked by arsched")[2].partition("## Driving arsched")[0]
AGENT = """#!/bin/sh
# An agent that does what program.md says to one that is asked by arsched.
set -e
test -n "$(printenv ARSCHED_ASK)"
{commands}
rate=$(printf '0.%03d' $((20 + ARSCHED_SEED % 79)))
sed -i "s/^MATRIX_LR = [0-9.]*/MATRIX_LR = $rate/" train.py
cat > IDEA.json <<'END'
{idea}
END
"""


class Place:
    """A repository with train.py and the manual, and `arsched` on the path of its shell."""

    def __init__(self, rig: Rig) -> None:
        self.root = rig.folder / "repository"
        self.root.mkdir()
        programs = rig.folder / "bin"
        programs.mkdir()
        program = f'#!/bin/sh\nexec "{sys.executable}" -m tests.scheduler.arsched_on_a_landscape "$@"\n'
        (programs / "arsched").write_text(program)
        (programs / "arsched").chmod(0o755)
        path = os.pathsep.join([str(programs), os.environ["PATH"]])
        self.environ = {**rig.environment, "PATH": path, "COLUMNS": "80", "ARSCHED_SPOOL": str(rig.folder / "spool")}
        for name in ("train.py", "program.md"):
            (self.root / name).write_bytes((REPOSITORY / name).read_bytes())
        (self.root / "candidates").mkdir()
        (self.root / "candidates" / "README.md").write_text("worktrees\n")
        self.run("git init -q -b main && git config user.name a && git config user.email a@b.c")
        self.run("git add -A && git commit -qm start")

    def run(self, command: str, code: int = 0) -> str:
        done = subprocess.run(["sh", "-c", command], cwd=self.root, env=self.environ, capture_output=True, text=True)
        said = f"`{command}` ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == code and "Traceback" not in done.stderr, said
        return done.stdout

    def edit(self, name: str, constant: str, value: Constant) -> None:
        """What an agent does between two commands: make the candidate where it is missing, change its train.py."""
        train = self.root / "candidates" / name / "train.py"
        if not train.exists():
            self.run(f"arsched new {name}")
        train.write_text(rewrite_constants(train.read_text(), {constant: value}))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    rig = Rig(tmp_path)
    rig.use(load_contract("cpu"))
    yield Place(rig)
    wait_until(lambda: not rig.survivors(), f"the last process to end: {rig.survivors()}", timeout_s=30.0)


def test_every_command_of_the_manual_is_walked() -> None:
    walked = {step.command for step in DRIVING} | set(commands(SECTION))
    assert [command for command in commands(TEXT) if command not in walked] == []
    assert {step.command for step in DRIVING if step.sample} == {sample.command for sample in samples(TEXT)}


@pytest.mark.slow
def test_driving_arsched_as_the_manual_says(place: Place) -> None:
    said = {sample.command: sample.output for sample in samples(TEXT)}
    for step in DRIVING:
        for edit in step.edits:
            place.edit(*edit)
        out = place.run(step.command, step.code)
        if not step.sample:
            continue
        if step.command.endswith("--json"):
            assert keys(json.loads(said[step.command])) == keys(json.loads(out)), out
        else:
            assert shape(said[step.command]) == shape(out), out


@pytest.mark.slow
def test_an_agent_asked_by_arsched_as_the_manual_says(place: Place) -> None:
    place.run("arsched init --tag nov23 --contract cpu")
    idea = re.search(r"```json\n(.*?)```", SECTION, re.DOTALL)
    assert idea is not None
    agent = AGENT.format(commands="\n".join(commands(SECTION)), idea=textwrap.dedent(idea[1]))
    (place.root.parent / "agent.sh").write_text(agent)
    said = place.run(f"arsched search --command 'sh {place.root.parent}/agent.sh' --runs 6 --claim-runs 0 --json")
    tally = json.loads(said)["search"]["proposers"][0]
    assert tally["queued"] > 0 == tally["failed"], tally
    rows = json.loads(place.run("arsched leaderboard --json"))["candidates"]
    titles = [row["title"] for row in rows if row["name"] != "baseline"]
    assert json.loads(idea[1])["title"] in titles, rows


def test_the_end_of_a_log_is_what_train_py_prints() -> None:
    lines = TEXT.partition("```\n---\n")[2].partition("```")[0].split("\n")
    names = [line.partition(":")[0] for line in lines if line]
    source = (REPOSITORY / "train.py").read_text(encoding="utf-8")
    printed = source.partition('print("---")')[2].partition("\n\n")[0]
    assert names == [line.partition('f"')[2].partition(":")[0] for line in printed.splitlines() if 'f"' in line]


def test_the_manual_is_short_enough_to_be_read() -> None:
    assert len(TEXT.splitlines()) <= 220


def test_the_reader_sees_every_form_of_a_command() -> None:
    text = (
        "`arsched fly` `train.py`\n\n```sh\narsched new a   # why\n# no command\n```\n\n```\n$ arsched b\nout 1\n```\n"
    )
    assert commands(text) == ["arsched new a", "arsched b", "arsched fly"]
    assert [sample.output for sample in samples(text)] == ["out 1\n"]
    assert shape("a −0.1  b 1.5\n") == shape("a +0.25 b 2\n") != shape("a 1 c 2\n")
    steady = shape("lab a   noise sd 0.1 bpb side by side, 0.2 between\nseeds (3 repeats)\n1 c0001\n")
    assert steady == shape("lab a   noise sd 0.1 bpb, 0.3 between slots (cpu0 +0.1) (4\nrepeats)\n2 c0001\n")
    assert len(steady) == 2
