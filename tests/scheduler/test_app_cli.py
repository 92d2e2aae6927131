"""The command line: one message and the right code for every slip, one JSON value when asked, no trace."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from scheduler.cli.main import main
from scheduler.cli.output import EXAMPLES, VERBS
from scheduler.domain.errors import MEANINGS
from scheduler.lab import open_workspace
from scheduler.queue.runtime import SchedulerLock
from tests.scheduler.git_kit import git, make_repository, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import make_space

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    space = make_space(tmp_path, time.time)
    space.ledger.close()
    monkeypatch.chdir(space.repo.root)
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "cache"))
    return space.repo.root


def arsched(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_file_of_its_name_help_and_json(verb: str) -> None:
    command = main.get_command(click.Context(main), verb)  # type: ignore[arg-type]
    assert isinstance(command, click.Command) and command.help and command.short_help
    assert any("--json" in option.opts for option in command.params)
    shown = arsched(verb, "--help")
    assert shown.exit_code == 0 and f"Usage: arsched {verb}" in shown.output


@pytest.mark.parametrize("verb", ["init", "new", "submit", "promote", "cancel", "prepare"])
def test_every_verb_that_changes_something_has_a_dry_run(verb: str) -> None:
    command = main.get_command(click.Context(main), verb)  # type: ignore[arg-type]
    assert any("--dry-run" in option.opts for option in command.params)  # type: ignore[union-attr]


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_shows_examples_that_can_be_typed(verb: str) -> None:
    shown = arsched(verb, "--help").stdout
    for line in EXAMPLES[verb]:
        assert f"\n    {line}\n" in shown
        words = shlex.split(line)
        assert words[:2] == ["arsched", verb]
        command = main.get_command(click.Context(main), verb)  # type: ignore[arg-type]
        assert command is not None
        command.make_context(verb, words[2:])  # raises for what its parser refuses
    assert len(EXAMPLES[verb]) >= 1 and "Examples:" in shown


def test_help_and_version_are_there_under_every_usual_name() -> None:
    assert arsched().stdout == arsched("help").stdout == arsched("--help").stdout == arsched("-h").stdout
    assert arsched().exit_code == 0
    assert arsched("help", "logs").stdout == arsched("logs", "--help").stdout
    assert arsched("-V").stdout == arsched("--version").stdout and "arsched" in arsched("-V").stdout


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-m", "scheduler", "-V"], capture_output=True, text=True, env=environ)
    assert said.returncode == 0 and said.stdout == arsched("-V").stdout


def rows_of(document: str) -> dict[int, str]:
    """The table of exit codes in a document: code -> meaning."""
    rows = re.findall(r"^\| (\d+) \| ([^|]+?) \|", (ROOT / document).read_text(encoding="utf-8"), re.M)
    return {int(code): meaning.replace("`", "") for code, meaning in rows}


@pytest.mark.parametrize("document", ["docs/commands.md", "program.md"])
def test_the_documents_show_the_exit_codes_as_the_program_has_them(document: str) -> None:
    assert rows_of(document) == {int(code): meaning for code, meaning in MEANINGS.items()}
    shown = arsched("--help").stdout
    assert all(f"    {code.value:<3}  {meaning}\n" in shown for code, meaning in MEANINGS.items())


@pytest.mark.parametrize("verb", VERBS)
def test_every_number_is_finite(verb: str) -> None:
    """nan as a budget would never be reached."""
    command = main.get_command(click.Context(main), verb)  # type: ignore[arg-type]
    assert command is not None
    for option in (one for one in command.params if isinstance(one.type, click.types.FloatParamType)):
        for value in ("nan", "inf", "-inf"):
            done = arsched(verb, option.opts[0], value)
            assert done.exit_code == 2 and option.opts[0] in done.stderr, done.stderr


def test_no_verb_has_an_exit_code_of_its_own() -> None:
    """Each code is written as ExitCode, or comes from another program."""
    for path in (ROOT / "scheduler" / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant):
                assert node.value.value not in (2, 3, 4, 130), f"{path.name}:{node.lineno}"


def completions(line: str) -> list[str]:
    """What bash is offered for the last word of a line."""
    words = line.split(" ")
    environ = {"_ARSCHED_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    said = CliRunner().invoke(main, [], env=environ)
    return [offer.partition(",")[2] for offer in said.stdout.splitlines() if offer]


def offered(line: str, at: int) -> list[tuple[str, str]]:
    """What zsh is offered for a word of a line, with what it says of it."""
    environ = {"_ARSCHED_COMPLETE": "zsh_complete", "COMP_WORDS": line, "COMP_CWORD": str(at)}
    said = CliRunner().invoke(main, [], env=environ).stdout.splitlines()
    return list(zip(said[1::3], said[2::3], strict=True))


def test_shells_complete_commands_options_ids_names_and_labs(lab: Path) -> None:
    (lab / "idea.py").write_text("SCORE = 1.8\n")
    arsched("submit", "idea.py", "--no-wait")
    assert completions("arsched sub") == ["submit"]
    assert completions("arsched show c") == ["c0001", "c0002"]
    assert completions("arsched explain id") == ["idea"]
    assert completions("arsched logs r0004") == ["r0004"]
    assert offered("arsched sea", 1) == [("search", VERBS["search"])], "as zsh and fish show it"
    assert completions("arsched labs ") == completions("arsched status --tag ") == ["t"]


def test_nothing_is_completed_and_nothing_said_where_there_is_no_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert completions("arsched show c") == completions("arsched labs t") == []


def test_labs_are_listed_and_switched(lab: Path) -> None:
    with open_workspace() as space:
        space.ledger.labs.create(replace(space.lab, tag="u", branch="autoresearch/u", lab_id="lab-u"))
    said = json.loads(arsched("labs", "--json").stdout)
    assert said["current"] == "u" and [(one["tag"], one["is_current"]) for one in said["labs"]] == [
        ("t", False),
        ("u", True),
    ]
    assert arsched("labs", "t").stdout == "lab t is the current one\n"
    shown = arsched("labs").stdout
    assert "▶ t " in shown and "▶ u" not in shown and " u " in shown


def test_help_lists_every_verb_in_the_order_of_a_labs_life() -> None:
    said = arsched("--help").output
    places = [said.index(f"\n  {verb} ") for verb in VERBS]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--jsonn"], 2, ["no option '--jsonn'", "did you mean '--json'?", "arsched status --json"]),
        (["--verion"], 2, ["did you mean '--version'?"]),
        (["help", "submti"], 2, ["did you mean 'submit'?"]),
        (["new", "My Idea"], 2, ["cannot name a candidate"]),
        (["labs", "u"], 1, ["no lab 'u'"]),
        (["submti"], 2, ["no command 'submti'", "did you mean 'submit'?"]),
        (["qqqq"], 2, ["no command 'qqqq'", "--help"]),
        (["submit", "--agian"], 2, ["--agian", "--again"]),
        (["submit", "x.py", "--slots", "0"], 2, ["--slots"]),
        (["new"], 2, ["NAME", "arsched new --help"]),
        (["init"], 1, ["not prepared", "arsched prepare --contract cpu"]),
        (["init", "--tag", "a b"], 2, ["cannot be a tag", "nov23"]),
        (["init", "--tag", "x", "--preset", "wild"], 2, ["wild", "bold"]),
        (["init", "--tag", "x", "--contract", "cpuu"], 2, ["cpuu", "cpu"]),
        (["init", "--tag", "x"], 1, ["not prepared", "arsched prepare --contract cpu"]),
        (["init", "--tag", "t"], 2, ["exists already", "arsched submit --tag t"]),
        (["new", "c7"], 2, ["reads like an id"]),
        (["new", "My Idea"], 2, ["cannot name a candidate", "wider-mlp"]),
        (["submit", "nowhere"], 2, ["nothing to submit in nowhere", "arsched new NAME"]),
        (["submit", "README.md"], 2, ["nothing to submit"]),
        (["submit", "x.py", "--address", "http://127.0.0.1:8265"], 2, ["Ray's dashboard", "127.0.0.1:6379"]),
        (["submit", "x.py", "--address", "head"], 2, ["no address of a Ray cluster", "HOST:6379"]),
        (["submit", "--no-wait"], 2, ["no paths"]),
        (["submit", "--title", "x"], 2, ["no paths", "arsched submit candidates/*"]),
        (["submit", "--again"], 2, ["no paths"]),
        (["submit", "x", "--tag", "u"], 1, ["no lab 'u'", "labs here: t"]),
        (["promote", "basline"], 2, ["no candidate 'basline'", "did you mean 'baseline'?"]),
        (["promote", "baseline"], 3, ["is baseline, nothing was changed"]),
        (["cancel", "baseline"], 3, ["nothing was changed"]),
        (["cancel", "r0099"], 2, ["no run 'r0099'"]),
        (["prepare", "--contract", "cpu", "--from", "nowhere"], 2, []),
        (["prepare", "--contract", "cpu5", "--dry-run"], 2, ["no contract 'cpu5'", "cpu"]),
        (["prepare", "--contract", "README.md", "--dry-run"], 2, ["README.md"]),
    ],
)
def test_a_slip_is_one_message_with_the_right_code_and_a_next_step(
    lab: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    done = arsched(*arguments)
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    for word in words:
        assert word in done.output
    if words:
        assert done.stderr.count("error: ") == 1 and done.stdout == ""


@pytest.mark.parametrize("arguments", [["submti"], ["new", "c7"], ["submit", "nowhere"], ["init"], ["cancel", "c9"]])
def test_with_json_a_problem_is_the_one_value_too(lab: Path, arguments: list[str]) -> None:
    done = arsched(*arguments, "--json")
    assert set(json.loads(done.stdout)) == {"error", "hint"}
    assert "did you mean" not in arsched("--json").stdout, "it is one, in another place"
    assert done.exit_code in (1, 2, 3)


def test_outside_a_repository_and_without_a_lab_the_next_step_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no git repository" in arsched("new", "x").stderr
    monkeypatch.chdir(make_repository(tmp_path / "fresh"))
    done = arsched("new", "x")
    assert done.exit_code == 1 and "arsched init --tag" in done.stderr
    assert not (tmp_path / "fresh" / ".arsched").exists()


def test_a_ledger_of_a_newer_program_or_none_at_all_is_a_sentence(lab: Path) -> None:
    (lab / ".git" / "arsched" / "ledger.db").write_bytes(b"not a database, for sure\n" * 100)
    done = arsched("new", "x")
    assert done.exit_code == 1 and "ledger.db" in done.stderr and "hint:" in done.stderr


def test_new_makes_a_worktree_and_says_the_next_steps(lab: Path) -> None:
    done = arsched("new", "wider", "--json")
    said = json.loads(done.stdout)
    assert (lab / "candidates" / "wider" / "train.py").is_file()
    assert said["branch"] == "arsched/t/wider" and said["base"] == "c0001"
    for more in ([], ["--dry-run"]):
        again = arsched("new", "wider", *more)
        assert again.exit_code == 2 and "arsched submit wider" in again.stderr
    shown = arsched("new", "other", "--dry-run")
    assert "arsched submit candidates/other" in shown.stderr
    assert not (lab / "candidates" / "other").exists()


def test_candidates_star_queues_the_good_skips_the_notes_refuses_the_bad(lab: Path) -> None:
    folder = lab / "candidates"
    folder.mkdir()
    (folder / "README.md").write_text("what lies here\n")
    (folder / "good.py").write_text("SCORE = 1.8\n")
    (folder / "bad.py").write_text("SCORE = \n")
    tried = arsched("submit", str(folder / "good.py"), "--no-wait", "--dry-run")
    assert "would be queued" in tried.stderr and "run the queue" not in tried.stderr
    done = arsched("submit", *sorted(map(str, folder.iterdir())), "--no-wait", "--json")
    said = json.loads(done.stdout)
    assert done.exit_code == 3
    assert [one["name"] for one in said["candidates"]] == ["good"]
    assert [one["state"] for one in said["candidates"]] == ["open"]
    assert [Path(one["path"]).name for one in said["refused"]] == ["bad.py"]
    assert len(said["skipped"]) == 1 and "README.md" in said["skipped"][0]
    again = arsched("submit", str(folder / "good.py"), "--no-wait")
    assert again.exit_code == 0 and "known     c0002" in again.stderr


def test_a_candidate_and_a_run_are_cancelled_by_any_of_their_names(lab: Path) -> None:
    (lab / "idea.py").write_text("SCORE = 1.8\n")
    arsched("submit", "idea.py", "--no-wait")
    assert json.loads(arsched("cancel", "last", "--dry-run", "--json").stdout)["runs"] == ["r0004"]
    assert json.loads(arsched("cancel", "r0001", "--json").stdout)["runs"] == ["r0001"]
    assert json.loads(arsched("cancel", "r0004", "--json").stdout)["candidate"] == "c0002"
    assert arsched("cancel", "idea").exit_code == 3


def test_names_of_candidates_cannot_write_on_the_terminal(lab: Path) -> None:
    path = lab / "evil.py"
    path.write_text("x = '\x1b]0;owned\x07' (\n")
    assert "\x1b" not in arsched("submit", str(path), "--no-wait").output


def test_prepare_runs_the_referees_own_program_for_the_labs_contract(lab: Path) -> None:
    said = json.loads(arsched("prepare", "--contract", "standard", "--from", "x", "--dry-run", "--json").stdout)
    assert said["command"][-5:] == ["--contract", "standard", "--from", "x", "--json"]
    assert "harness.prepare" in said["command"]
    said = json.loads(arsched("prepare", "--calibrate", "--dry-run", "--json").stdout)
    assert said["command"][-1] == "--calibrate"


def test_an_address_prepares_nothing_unless_all_nodes_are_meant(lab: Path) -> None:
    said = arsched("prepare", "--address", "auto")
    assert said.exit_code == 2 and "--all-nodes" in said.output


@pytest.mark.parametrize("contract", ["cpu4", "README.md"])
def test_prepare_of_no_contract_is_refused_in_a_dry_run_too(lab: Path, contract: str) -> None:
    assert arsched("prepare", "--contract", contract, "--dry-run").exit_code == 2
    assert arsched("prepare", "--contract", contract).exit_code == 2


def test_prepare_outside_a_repository_is_for_the_cpu_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert json.loads(arsched("prepare", "--dry-run", "--json").stdout)["contract"] == "cpu"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EAGAIN, errno.EROFS, errno.ENOMEM])
def test_a_machine_that_says_no_is_quoted(lab: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/some/place")

    monkeypatch.setattr("scheduler.cli.new.new_worktree", refuse)
    done = arsched("new", "x")
    assert done.exit_code == 1 and f"error: {os.strerror(number)}: /some/place" in done.stderr


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_disk_that_refuses_the_cache_is_named_with_the_variable_that_moves_it(
    lab: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: str) -> str:
        def fail(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number), path)

        monkeypatch.setattr("scheduler.cli.new.new_worktree", fail)
        return arsched("new", "x").stderr

    assert "ARSCHED_CACHE=" in refuse(os.environ["ARSCHED_CACHE"] + "/spool/x")
    assert "ARSCHED_CACHE" not in refuse("/some/place")


def test_a_defect_is_named_as_one_and_the_trace_is_there_on_request(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("scheduler.cli.new.new_worktree", fail)
    done = arsched("new", "x")
    assert done.exit_code == 1 and "arsched has a defect: ZeroDivisionError" in done.stderr
    monkeypatch.setenv("ARSCHED_DEBUG", "1")
    assert isinstance(arsched("new", "x").exception, ZeroDivisionError)


def test_the_lock_is_one_processes_and_is_freed_by_its_death(tmp_path: Path) -> None:
    lock = tmp_path / "deep" / "scheduler.lock"
    hold = "import sys; from pathlib import Path; from scheduler.queue.runtime import SchedulerLock\n"
    hold += f"t = SchedulerLock(Path({str(lock)!r})); print(t.try_take(), flush=True); sys.stdin.read()"
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
    )
    assert process.stdout is not None and process.stdout.readline() == "True\n"
    own = SchedulerLock(lock)
    assert not own.try_take()
    process.kill()
    process.communicate()
    assert own.try_take()
    own.release()


def test_a_checkout_in_the_middle_of_something_is_still_a_lab(lab: Path) -> None:
    git(lab, "switch", "-q", "--detach")
    assert arsched("new", "x").exit_code == 0
