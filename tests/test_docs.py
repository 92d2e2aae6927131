"""The documents tell the truth about names: verbs and their options, make targets, files and links. Programs they show
work as they stand.

Does not check figures: those have the command that makes them next to them.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import pytest

from scheduler.cli.main import main
from scheduler.cli.output import VERBS
from scheduler.domain.search import Answer, Ask, NoIdea, ProposalFailure, Proposed, ProposerChoice, Trial
from scheduler.proposers import registry
from scheduler.proposers.lines import encode_ask, read_answer, read_line
from scheduler.proposers.registry import ProposerSetup
from tests.walk.manual import keys

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "program.md", ROOT / "candidates" / "README.md", *(ROOT / "docs").rglob("*.md")]
)
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)")


def commands(text: str) -> list[str]:
    """Every inline or fenced piece of the text that starts like a command line of ours."""
    lines = [line.strip().removeprefix("$ ") for block in FENCE.findall(text) for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    return [line.partition(" #")[0].strip() for line in (*lines, *inline) if line.startswith(("arsched ", "make "))]


def verbs() -> dict[str, click.Command]:
    assert isinstance(main, click.Group)
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in main.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def options(command: click.Command) -> set[str]:
    shared = {"--help"}
    return shared | {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)}


@pytest.mark.parametrize("name", NAMES)
def test_every_verb_and_option_exists(name: str) -> None:
    known = verbs()
    for line in commands((ROOT / name).read_text(encoding="utf-8")):
        program, verb, *rest = line.split()
        if program != "arsched" or verb.startswith("-") or not verb.isalpha():
            continue
        assert verb in known, f"{name}: `{line}` names no verb of arsched"
        for option in (word.partition("=")[0] for word in rest if word.startswith("--")):
            assert option in options(known[verb]), f"{name}: `{line}`: {verb} has no option {option}"


@pytest.mark.parametrize("name", NAMES)
def test_every_make_target_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in commands((ROOT / name).read_text(encoding="utf-8")):
        if line.startswith("make "):
            wanted = [word for word in line.split()[1:] if "=" not in word]
            assert set(wanted) <= targets, f"{name}: `{line}`"


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_resolves(name: str) -> None:
    document = ROOT / name
    links = [link for link in LINK.findall(document.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_verb_is_in_the_list_of_commands() -> None:
    listed = re.findall(r"`(?:arsched )?([a-z]+)[^`]*`", (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"))
    assert set(verbs()) <= set(listed)


def test_the_readme_leads_to_every_page() -> None:
    """It is short: what is not about the first result is on a page of its own."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {Path(link).name for link in LINK.findall(text)}


def test_every_verb_has_help() -> None:
    assert [name for name, command in verbs().items() if not (command.help or command.short_help)] == []


def test_the_checks_see_a_made_up_command() -> None:
    assert commands("text `arsched fly` text\n```\n$ make rocket\n```\n") == ["make rocket", "arsched fly"]


def hinted(source: str) -> list[tuple[str, list[str]]]:
    """Verb and options of each command line of ours in the texts of a program, whose values are left out."""
    texts = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    found = [re.findall(r"\barsched ([a-z]+)\b([^`;,()\n]*)", text) for text in texts]
    return [(verb, re.findall(r"(?<!\S)--[a-z-]+", rest)) for pairs in found for verb, rest in pairs if verb in VERBS]


def test_every_command_that_a_hint_names_has_its_options() -> None:
    known, seen = verbs(), 0
    for path in sorted([*(ROOT / "scheduler").rglob("*.py"), *(ROOT / "harness").rglob("*.py")]):
        for verb, named in hinted(path.read_text(encoding="utf-8")):
            seen += 1
            wrong = set(named) - options(known[verb])
            assert not wrong, f"{path.relative_to(ROOT)}: `arsched {verb}` has no option {wrong}"
    assert seen > 150 and ("stop", ["--hard"]) in hinted('f"try: arsched stop {x} --hard; then"')


# Reaching the command: no one's PATH has it before the .venv is active.


def test_the_readme_activates_the_venv_before_it_uses_arsched() -> None:
    blocks = [block.splitlines() for block in FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8"))]
    first = next(block for block in blocks if any(line.startswith("arsched ") for line in block))
    typed = [line.partition(" #")[0].strip() for line in first]
    assert typed.index("make install") < typed.index("source .venv/bin/activate")
    assert typed.index("source .venv/bin/activate") < min(
        place for place, line in enumerate(typed) if line.startswith("arsched ")
    )
    assert "VENV   ?= .venv\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("where", [".", "candidates", "candidates/an-idea"])
def test_the_manual_reaches_the_command_from_a_clone_and_its_worktrees(tmp_path: Path, where: str) -> None:
    clone = tmp_path / "a clone"
    (clone / "candidates").mkdir(parents=True)
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "start"]):
        subprocess.run([*git, *words], check=True)
    subprocess.run([*git, "worktree", "add", "-q", "--detach", "candidates/an-idea"], check=True)
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "arsched").write_text('#!/bin/sh\necho "found: $1"\n')
    (clone / ".venv" / "bin" / "arsched").chmod(0o755)
    (line,) = re.findall(r"`(export PATH=[^`\n]+)`", (ROOT / "program.md").read_text(encoding="utf-8"))
    done = subprocess.run(
        ["sh", "-c", f"{line} && arsched status"], cwd=clone / where,
        env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "found: status\n", done.stderr


def programs(name: str) -> list[str]:
    """The fenced Python programs of a document."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def ask(number: int) -> Ask:
    train_py = (ROOT / "train.py").read_bytes()
    return Ask(f"p{number:04d}", "c0001", "0" * 40, train_py, brief="", trials=(), round=1, seed=number)


def test_the_documented_program_of_json_lines_answers_each_ask_with_an_idea(tmp_path: Path) -> None:
    (tmp_path / "rates.py").write_text(programs("docs/proposers.md")[0])
    asks = [ask(number) for number in range(3)]
    done = subprocess.run(
        [sys.executable, "rates.py"], cwd=tmp_path, input=b"".join(map(encode_ask, asks)), capture_output=True
    )
    read = [read_line(line) for line in done.stdout.splitlines()]
    assert [ask_id for ask_id, _ in read] == ["p0000", "p0001", "p0002"], done.stderr
    ideas = [read_answer(one, answer) for one, (_, answer) in zip(asks, read, strict=True)]
    assert all(isinstance(idea, Proposed) and idea.title.startswith("MATRIX_LR") for idea in ideas), ideas


def test_the_protocol_of_json_lines_is_the_documented_one() -> None:
    text = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
    said = json.loads(next(line for line in text.splitlines() if line.startswith('{"ask"')))
    trial = Trial("c0003", "c0001", b"", 1.7353, False, "tpe")
    assert keys(said) == keys(json.loads(encode_ask(replace(ask(12), trials=(trial,)))))
    answers = [json.loads(code) for code in re.findall(r"^\| `({.*?})` \|", text, re.MULTILINE)]
    read = [read_answer(ask(12), answer) for answer in answers]
    assert [type(answer) for answer in read] == [Proposed, Proposed, NoIdea]


def test_the_documented_plug_in_is_found_and_is_a_proposer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ideas.py").write_text(programs("docs/proposers.md")[1])
    about = tmp_path / "ideas-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ideas\nVersion: 1.0\n")
    group, line = re.findall(
        r'`\[project\.entry-points\."([^"`]+)"\]`\s`([^`]+)`', (ROOT / "docs" / "proposers.md").read_text()
    )[0]
    (about / "entry_points.txt").write_text(f"[{group}]\n{line}\n".replace('"', ""))
    monkeypatch.syspath_prepend(str(tmp_path))
    setup = ProposerSetup("ideas", {}, tmp_path, tmp_path, slots=2, seed=0, clock=time.monotonic, report=print)
    proposer = registry.make(ProposerChoice("ideas"), setup)
    answers: list[Answer] = []
    for number in range(4):
        proposer.ask(ask(number))
        answers += proposer.poll()
    assert [answer.ask_id for answer in answers] == ["p0000", "p0001", "p0002", "p0003"]
    ideas = [answer for answer in answers if isinstance(answer, Proposed)]
    assert len({idea.train_py for idea in ideas} | {ask(0).train_py}) == 4, "three ideas, none of them the baseline"
    assert isinstance(answers[-1], NoIdea) and answers[-1].trouble is ProposalFailure.EXHAUSTED
    assert proposer.poll() == () and proposer.capacity == 1 and proposer.name == "ideas"
    proposer.close()
