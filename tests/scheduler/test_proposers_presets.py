"""Known agents: their exact command lines, what they may run, and the manual they are pointed to."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from scheduler.domain.errors import ProposerProblem, UsageProblem
from scheduler.domain.search import Ask, NoIdea, ProposalFailure
from scheduler.proposers.agent import PRESETS, make, manual_for, prompt_for
from tests.scheduler.git_kit import git, make_repository, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import make_space
from tests.scheduler.proposer_kit import (
    AGENT_SOURCE,
    collect,
    make_agent_repository,
    make_ask,
    make_setup,
)

SOURCE = AGENT_SOURCE


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_agent_repository(tmp_path / "repo")


def ask_of(root: Path, ask_id: str = "p0001", seed: int = 1) -> Ask:
    return make_ask(SOURCE, ask_id, commit=git(root, "rev-parse", "HEAD").strip(), seed=seed)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_without_its_program_says_what_to_install(root: Path, preset: str, monkeypatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    with pytest.raises(ProposerProblem, match=preset) as caught:
        make(make_setup(root, {"preset": preset}))
    assert "install" in caught.value.hint


def test_hints_are_in_the_words_of_the_command_line(root: Path) -> None:
    with pytest.raises(UsageProblem) as caught:
        make(make_setup(root, {}))
    assert "--command '…'" in caught.value.hint and "--agent claude|codex" in caught.value.hint


TOOLS = (
    "Bash(printenv ARSCHED_ASK),Bash(cat NOTES.md),"
    "Bash(arsched show:*),Bash(arsched logs:*),Bash(arsched brief:*),Bash(python -c:*)"
)
SHELL_TOOLS = ",".join(
    f"run_shell_command({one})"
    for one in (
        *("printenv ARSCHED_ASK", "cat NOTES.md"),
        *("arsched show", "arsched logs", "arsched brief", "python -c"),
    )
)
ARGUMENTS = {  # exactly what each known agent is started with, the prompt left out
    "claude": ["--permission-mode", "acceptEdits", "--allowedTools", TOOLS, "--model", "M 1", "--max", "4 0", "-p"],
    "codex": ["exec", "--sandbox", "workspace-write", "--model", "M 1", "--max", "4 0"],
    "gemini": ["--skip-trust", "--approval-mode", "auto_edit", "--allowed-tools", SHELL_TOOLS, "--model", "M 1",
               "--max", "4 0", "-p"],
    "opencode": ["run", "--model", "M 1", "--max", "4 0"],
}  # fmt: skip
FAKE = """#!{python}
import json, os, subprocess, sys
seen = dict(os.environ)
found = subprocess.run(["arsched", "--version"], capture_output=True, text=True).stdout
json.dump([sys.argv[1:], seen, found], open({out!r}, "w"))
"""


def started(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: str) -> tuple[list, dict, str]:
    """Arguments and environment of a stand-in of a known agent, and what `arsched --version` printed there."""
    program, out = folder / options["preset"], folder / "seen.json"
    program.write_text(FAKE.format(python=sys.executable, out=str(out)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    proposer = make(make_setup(root, options))
    proposer.ask(ask_of(root))
    [found] = collect(proposer)
    assert isinstance(found, NoIdea) and found.trouble is ProposalFailure.UNCHANGED, found
    seen = json.loads(out.read_text())
    return seen[0], seen[1], seen[2]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_known_agent_is_started_with_exactly_these_arguments(
    root: Path, tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "program.md").write_text("# Manual\n\n## Asked by arsched\n")
    git(root, "add", "program.md")
    git(root, "commit", "--quiet", "--message", "a manual")
    more = {"preset": preset, "model": "M 1", "arguments": "--max '4 0'"}
    arguments, environment, version = started(root, tmp_path, monkeypatch, **more)
    *options, prompt = arguments
    assert options == ARGUMENTS[preset]
    assert prompt == environment["ARSCHED_PROMPT"] == prompt_for(1, Path("program.md"))
    assert prompt.startswith("You improve train.py") and "program.md, 'Asked by arsched'" in prompt
    assert "arsched" in version, "the agent's PATH has it, whatever the user's shell has"
    allowed = json.loads(environment.get("OPENCODE_PERMISSION", "{}"))
    if preset == "opencode":
        assert allowed["webfetch"] == allowed["websearch"] == "deny"
        assert allowed["edit"] == "allow" and next(iter(allowed["bash"].items())) == ("*", "deny")
        assert [one for one in allowed["bash"] if one.startswith("arsched")] == [
            *("arsched show*", "arsched logs*", "arsched brief*")
        ]


def test_what_the_manual_orders_works_where_the_agent_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its worktree, as confined as it is, and with a PATH that knows no arsched."""
    space = make_space(tmp_path, time.time)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    orders = (
        "printenv ARSCHED_ASK", "cat NOTES.md", "arsched show c0001", "arsched brief",
        "python -c \"import ast; ast.parse(open('train.py').read())\"", "arsched logs c0001 || true",
    )  # fmt: skip
    proposer = make(make_setup(space.repo.root, {"command": " && ".join(f"{{ {one}; }}" for one in orders)}))
    source = space.ledger.candidates.train_py("c0001")
    proposer.ask(make_ask(source, commit=space.baseline_commit()))
    [found] = collect(proposer)
    proposer.close()
    assert isinstance(found, NoIdea) and found.trouble is ProposalFailure.UNCHANGED, found
    assert "p0001" in found.log and "c0001 baseline" in found.log
    assert "has not run yet" in found.log, "the logs were looked for"


def test_without_a_model_none_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, _, _ = started(root, tmp_path, monkeypatch, preset="codex")
    assert arguments[:-1] == ["exec", "--sandbox", "workspace-write"]


def test_another_program_md_is_not_taken_for_the_manual(root: Path) -> None:
    (root / "program.md").write_text("# autoresearch\n")
    assert manual_for(root) == Path(__file__).resolve().parents[2] / "program.md"


def test_what_the_manual_asks_for_may_be_run() -> None:
    manual = (Path(__file__).resolve().parents[2] / "program.md").read_text()
    part = manual[manual.index("## Asked by arsched") : manual.index("## Driving arsched")]
    commands = [line.split("  ")[0] for line in re.findall(r"^ +((?:arsched|python|cat) .*)$", part, re.MULTILINE)]
    assert len(commands) >= 4
    beginnings = re.findall(r"Bash\((.+?)(?::\*)?\)", TOOLS)
    assert all(command.startswith(tuple(beginnings)) for command in commands), commands
