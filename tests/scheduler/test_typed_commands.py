"""Commands that messages name are typed as the user's shell needs them: with or without the .venv's bin on its PATH."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.cli.output import program, spell_address, typable

Program = Path


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """This program at a clone's .venv/bin/arsched, which is not on the PATH; the clone is the current folder."""
    path = make_program(tmp_path / "clone" / ".venv" / "bin")
    monkeypatch.setattr(sys, "argv", [str(path), "status"])
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path / "clone")
    return path


def make_program(folder: Path) -> Program:
    folder.mkdir(parents=True)
    path = folder / "arsched"
    path.write_text("#!/bin/sh\necho ran\n")
    path.chmod(0o755)
    return path


def type_it(command: str, folder: Path) -> str:
    return subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True).stdout


@pytest.mark.parametrize("where", [".", "candidates/an idea", ".venv/bin", "..", "/"])
def test_it_runs_from_anywhere(running: Program, where: str) -> None:
    folder = Path(where).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    typed = program(folder)
    assert type_it(typed, folder) == "ran\n" and len(typed) <= len(str(running)), typed


def test_the_shorter_path_is_taken(running: Program) -> None:
    assert program(Path.cwd()) == ".venv/bin/arsched"
    far = Path.cwd().joinpath(*["deep"] * 40)
    assert program(far) == str(running)


def test_the_path_of_uv_run_is_not_the_users(running: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV", "UV_RUN_RECURSION_DEPTH", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{running.parent}{os.pathsep}/usr/bin:/bin")
    assert program(Path.cwd()) == "arsched"
    monkeypatch.setenv("UV", "/usr/bin/uv")  # as below uvx
    assert program(Path.cwd()) == ".venv/bin/arsched"
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)  # activated by someone who has UV set
    assert program(Path.cwd()) == "arsched"
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert program(Path.cwd()) == ".venv/bin/arsched"


def test_a_blank_in_the_path_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: Program) -> None:
    path = make_program(tmp_path / "my clone" / "bin")
    monkeypatch.setattr(sys, "argv", [str(path)])
    assert type_it(program(tmp_path), tmp_path) == "ran\n"


def test_a_relative_call_is_understood(running: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [".venv/bin/arsched"])
    assert type_it(program(Path("/")), Path("/")) == "ran\n"


def test_its_name_is_enough_where_the_path_has_this_program(
    running: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{running.parent}:/bin")
    assert program(tmp_path) == "arsched"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "arsched").symlink_to(running)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin")
    assert program(tmp_path) == "arsched"


def test_another_program_of_that_name_is_not_this_one(
    running: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{make_program(tmp_path / 'other').parent}:/bin")
    assert program(Path.cwd()) == ".venv/bin/arsched"


def test_a_relative_entry_of_the_path_does_not_count(running: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the program in this folder only."""
    monkeypatch.setenv("PATH", ".venv/bin:/bin")
    assert program(Path.cwd() / "demo") == "../.venv/bin/arsched"


def test_only_commands_are_spelt_anew(running: Program) -> None:
    typed = typable(
        "next:\n  arsched new NAME\n  `arsched submit x`; arsched needs, another arsched command, my-arsched new"
    )
    assert typed == (
        "next:\n  .venv/bin/arsched new NAME\n  `.venv/bin/arsched submit x`; "
        "arsched needs, another arsched command, my-arsched new"
    )
    assert typable(typed) == typed


def test_a_command_that_runs_on_slots_names_the_cluster_that_was_named(running: Program) -> None:
    """Without it the hint would start a second Ray, for this machine alone."""
    spell_address("10.0.0.1:6379")
    typed = typable("next: arsched new NAME, or `arsched submit x`\narsched search --address auto")
    assert typed == (
        "next: .venv/bin/arsched new NAME, or `.venv/bin/arsched submit --address 10.0.0.1:6379 x`\n"
        ".venv/bin/arsched search --address auto"
    )
    assert typable(typed) == typed
    spell_address("")
    assert typable("arsched submit x") == ".venv/bin/arsched submit x"


def test_a_deleted_folder_is_no_second_problem(
    running: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert typable("see: arsched show last") == "see: arsched show last"


def test_a_hint_of_the_installed_program_can_be_typed(tmp_path: Path) -> None:
    installed = Path(sys.executable).with_name("arsched")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    environ = {**os.environ, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([installed, "status"], cwd=tmp_path, env=environ, capture_output=True, text=True)
    hint = done.stderr.partition("create one: ")[2].strip()
    assert hint.endswith("arsched init --tag TAG"), done.stderr
    again = subprocess.run(["sh", "-c", f"{hint} --help"], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert again.returncode == 0 and "Start a lab" in again.stdout


def test_a_start_that_a_laptop_gave_is_used_and_not_handed_on() -> None:
    """An agent that a search starts types where it runs, not where the person sits."""
    code = (
        "import os; from scheduler.cli.output import spell_address, typable; spell_address('auto'); "
        "print(typable('arsched submit'), os.environ.get(NAME))"
    )
    code = code.replace("NAME", "'ARSCHED_TYPED_AS'")
    environ = {**os.environ, "ARSCHED_TYPED_AS": "arsched --cluster c.yaml"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "arsched --cluster c.yaml submit None\n"
