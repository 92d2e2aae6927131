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
from scheduler.domain.search import Ask, NoIdea, ProposalFailure, Proposed
from scheduler.proposers.agent import make, manual_for, prompt_for
from scheduler.proposers.presets import PRESETS
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
    "opencode": ["run", "--standalone", "--model", "M 1", "--max", "4 0"],
    "aider": ["--yes-always", "--no-auto-commits", "--no-dirty-commits", "--no-gitignore", "--no-check-update",
              "--no-show-release-notes", "--no-analytics", "--no-detect-urls", "--no-suggest-shell-commands",
              "--no-fancy-input", "--no-pretty", "--no-stream", "--file", "train.py", "--read", "NOTES.md",
              "--model", "M 1", "--max", "4 0", "--message"],
}  # fmt: skip
FAKE = """#!{python}
import json, os, subprocess, sys
if sys.argv[1:] == ["--version"]:
    sys.exit(print({version!r}))
seen = dict(os.environ)
found = subprocess.run(["arsched", "--version"], capture_output=True, text=True).stdout
json.dump([sys.argv[1:], seen, found], open({out!r}, "w"))
"""


def started(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, agent_version: str = "2.0.32", **options: str
) -> tuple[list, dict, str]:
    """Arguments and environment of a stand-in of a known agent, and what `arsched --version` printed there."""
    program, out = folder / options["preset"], folder / "seen.json"
    program.write_text(FAKE.format(python=sys.executable, out=str(out), version=agent_version))
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


def test_opencode_may_do_what_the_manual_asks_and_is_never_to_ask(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 1 reads the one variable, version 2 the other, in which the user's own settings stay."""
    monkeypatch.setenv("OPENCODE_CONFIG_CONTENT", '{"model": "a/b", "permission": {"bash": "allow"}}')
    _, environment, _ = started(root, tmp_path, monkeypatch, preset="opencode")
    settings = json.loads(environment["OPENCODE_CONFIG_CONTENT"])
    allowed = json.loads(environment["OPENCODE_PERMISSION"])
    assert settings == {"model": "a/b", "permission": allowed}
    assert '"ask"' not in environment["OPENCODE_PERMISSION"]
    refused = ("webfetch", "websearch", "external_directory", "doom_loop", "question")
    assert {allowed[name] for name in refused} == {"deny"}
    assert allowed["edit"] == "allow" and next(iter(allowed["bash"].items())) == ("*", "deny")
    assert [one for one in allowed["bash"] if one.startswith("arsched")] == [
        *("arsched show*", "arsched logs*", "arsched brief*")
    ]


@pytest.mark.parametrize("theirs", ["", "{ // of the user", "[]", "null"])
def test_settings_of_opencode_that_are_no_json_object_are_replaced(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: str
) -> None:
    monkeypatch.setenv("OPENCODE_CONFIG_CONTENT", theirs)
    _, environment, _ = started(root, tmp_path, monkeypatch, preset="opencode")
    assert list(json.loads(environment["OPENCODE_CONFIG_CONTENT"])) == ["permission"]


@pytest.mark.parametrize(
    ("version", "more"),
    [("1.18.29", []), ("v0.15.31", []), ("opencode 2.0.3", ["--standalone"]), ("", ["--standalone"])],
)
def test_an_opencode_of_version_1_is_given_no_option_that_it_refuses(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, more: list[str]
) -> None:
    arguments, _, _ = started(root, tmp_path, monkeypatch, version, preset="opencode")
    assert arguments[:-1] == ["run", *more]


def test_what_aider_leaves_is_no_reason_to_refuse_its_idea(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes its history next to train.py, and stages the files that it makes."""
    program = tmp_path / "aider"
    program.write_text(AIDER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    proposer = make(make_setup(root, {"preset": "aider"}))
    proposer.ask(ask_of(root))
    [found] = collect(proposer)
    proposer.close()
    assert isinstance(found, Proposed) and (found.title, found.train_py) == ("Deeper", b"DEPTH = 8\n"), found


AIDER = """#!/bin/sh
set -e
mkdir .aider.tags.cache.v4
touch .aider.chat.history.md .aider.input.history .aider.tags.cache.v4/cache.db
echo 'DEPTH = 8' > train.py
echo '{"title": "Deeper"}' > IDEA.json
git add IDEA.json
"""


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
