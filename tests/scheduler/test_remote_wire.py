"""What laptop and head say to each other: requests, answers, lines; noise, lies, cut links and floods in between.

ssh is a program of the test that runs the head's side here, or plays a bad one.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler.domain.errors import ArschedError, LabProblem, UsageProblem
from scheduler.remote import head, ssh, wire
from scheduler.remote.login import Login
from tests.scheduler.git_kit import git, make_repository, no_configuration  # noqa: F401

LOGIN = Login(Path("cluster.yaml"), "10.99.0.11", "ubuntu", Path("/home/a b/key"))


def test_a_request_is_one_harmless_word_and_comes_out_as_it_was(tmp_path: Path) -> None:
    request = {"ask": "run", "words": ["$(touch x)", "a 'b' \"c\"\n`d`", "ä"], "repository": "; rm -rf /"}
    word = wire.encode(request)
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", word)
    assert wire.decode(word).items() >= request.items()


@pytest.mark.parametrize("word", ["", "x", "e30=", wire.encode({"ask": "look"})[:-8]])
def test_a_request_that_was_cut_off_is_refused(word: str) -> None:
    with pytest.raises(LabProblem, match="cut off"):
        wire.decode(word)


def test_a_head_of_other_code_says_ray_up(monkeypatch: pytest.MonkeyPatch) -> None:
    word = wire.encode({"ask": "look"})
    monkeypatch.setattr(wire, "code_digest", lambda *_: "0" * 12)
    with pytest.raises(LabProblem, match="other code") as problem:
        wire.decode(word)
    assert "ray up cluster.yaml" in problem.value.hint


def test_a_head_whose_verbs_differ_has_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only what a node runs: an option, a rule or the ledger's form that one side lacks."""
    for package in ("harness", "scheduler"):
        shutil.copytree(wire.CODE_ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    word = wire.encode({"ask": "look"})
    monkeypatch.setattr(wire, "CODE_ROOT", tmp_path)
    assert wire.decode(word)["ask"] == "look"
    verb = tmp_path / "scheduler" / "cli" / "status.py"
    verb.write_text(f"{verb.read_text()}\n")
    wire.code_digest.cache_clear()
    with pytest.raises(LabProblem, match="other code"):
        wire.decode(word)


def test_the_heads_problem_is_raised_here_with_its_code() -> None:
    assert wire.read_answer(f"motd\n{wire.answer({'x': 1})}\nbye\n") == {"x": 1}
    assert wire.read_answer("motd\n") is None and wire.read_answer(f"{wire.MARK}{{") is None
    with pytest.raises(ArschedError, match="a slip") as problem:
        wire.read_answer(wire.problem_answer(UsageProblem("a slip", "mend it")))
    assert (problem.value.hint, problem.value.exit_code) == ("mend it", 2)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Login, Path]:
    """An ssh that runs the command here, in a home with a login shell that talks; and the head's repository there."""
    programs, home = tmp_path / "bin", tmp_path / "home"
    programs.mkdir()
    (programs / "ssh").write_text(
        "#!/bin/sh\necho welcome\necho '{\"error\": 1}'\nprintf '\\033]0;title\\007'\n"
        'for word; do :; done\ncd && exec sh -c "$word"\n'
    )
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(home))
    place = home / "labs" / "x-0123456789ab"
    place.mkdir(parents=True)
    return Login(LOGIN.path, "h", "u", None, str(Path(sys.executable).parent)), place


def followed(login: Login, **more: Any) -> tuple[int, str, str]:
    said: tuple[list[str], list[str]] = ([], [])
    request = {
        "ask": "run", "repository": "x-0123456789ab", "verb": "labs", "words": ["--json"], "programs": login.programs,
        "environ": {}, "typed_as": "arsched", "goes_on": False, "json": True, "listener": "me", "spelt": {}, **more,
    }  # fmt: skip
    code = ssh.follow(login, request, said[0].append, said[1].append)
    return code, "".join(said[0]), "".join(said[1])


@pytest.mark.parametrize("goes_on", [False, True])
def test_what_a_login_shell_says_is_no_part_of_the_data(shell: tuple[Login, Path], goes_on: bool) -> None:
    login, place = shell
    make_repository(place.parent / "made").rename(place)
    code, out, _ = followed(login, goes_on=goes_on)
    assert code in (0, 1) and isinstance(json.loads(out), dict), out
    assert ssh.ask(login, {"ask": "look", "repository": place.name, "tag": None, "make": False, "heard": ""})["root"]


def test_a_request_that_the_head_refuses_is_no_success(shell: tuple[Login, Path]) -> None:
    login, _ = shell
    with pytest.raises(ArschedError, match="other code"):
        followed(login, code="0" * 12)


def test_a_head_whose_shell_ends_before_the_verb_is_no_success(
    shell: tuple[Login, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bin" / "ssh").write_text("#!/bin/sh\necho this account is closed >&2\n")
    with pytest.raises(LabProblem, match="gave no answer: this account is closed"):
        followed(shell[0])


def test_programs_named_from_the_home_are_found_in_any_folder(shell: tuple[Login, Path]) -> None:
    login, place = shell
    (place.parents[1] / "own").symlink_to(Path(login.programs).parent)
    make_repository(place.parent / "made").rename(place)
    code, out, errors = followed(replace(login, programs="own/bin"))
    assert code in (0, 1) and isinstance(json.loads(out), dict), errors


def test_on_a_terminal_a_request_that_is_refused_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert head.main([wire.encode({"ask": "run", "code": "0" * 12})]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: the head runs other code") and not said.out


def test_answers_of_a_strange_shape_are_none_or_a_plain_failure() -> None:
    assert wire.read_answer(f"{wire.MARK}[1]") is None and wire.read_answer(f"{wire.MARK}3") is None
    for more in ("", ', "exit_code": "x"', ', "exit_code": 0', ', "exit_code": 999', ', "hint": 3'):
        with pytest.raises(ArschedError, match="a slip") as problem:
            wire.read_answer(f'{wire.MARK}{{"error": "a slip"{more}}}')
        assert problem.value.exit_code == 1 and isinstance(problem.value.hint, str)


EVIL = "\x1b]0;title\x07\x1b[2Ja\x9b1mb\x1b[1;31mred\x1b[0m \u202eb\x08"


def plays(tmp_path: Path, script: str) -> None:
    """Have the ssh be this script of Python."""
    (tmp_path / "bin" / "ssh").write_text(f"#!{sys.executable}\nimport os, sys\n{script}\n")


def test_no_head_moves_this_terminals_cursor(shell: tuple[Login, Path], tmp_path: Path) -> None:
    begin = f"print({wire.answer({})!r}, flush=True)"
    plays(tmp_path, f"{begin}\nfor one in (sys.stdout, sys.stderr): print({EVIL!r}, file=one)\nsys.exit(3)")
    code, out, err = followed(shell[0])
    assert (code, out, err) == (3, *["a1mb\x1b[1;31mred\x1b[0m b\n"] * 2)
    for said in (f"sys.stderr.write({EVIL!r}); sys.exit(1)", f"print({wire.problem_answer(LabProblem(EVIL, EVIL))!r})"):
        plays(tmp_path, said)
        with pytest.raises(ArschedError) as problem:
            ssh.ask(shell[0], {"ask": "look"})
        text = problem.value.message + problem.value.hint
        assert "red" in text and text.replace("\x1b[1;31m", "").replace("\x1b[0m", "").isprintable()


def test_a_line_without_end_is_handed_on_in_parts(shell: tuple[Login, Path], tmp_path: Path) -> None:
    begin = f"print({wire.answer({})!r}, flush=True)"
    plays(tmp_path, f"{begin}\nsys.stdout.write('ä' * 200_000)")
    said: list[str] = []
    assert ssh.follow(shell[0], {"ask": "run"}, said.append, said.append) == 0
    assert "".join(said) == "ä" * 200_000 and max(map(len, said)) <= ssh.LINE_CHARACTERS


def test_an_answer_without_end_is_left(
    shell: tuple[Login, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "MOST_BYTES", 1 << 20)
    plays(tmp_path, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\nwhile True: print('x' * 4096)")
    with pytest.raises(LabProblem, match="answers with more than 1 MiB"):
        ssh.ask(shell[0], {"ask": "look"}, b"x" * 1_000_000)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


@pytest.mark.parametrize("cut", [1, 10, 1000])
def test_a_link_that_breaks_in_an_answer_is_a_lost_connection(
    shell: tuple[Login, Path], tmp_path: Path, cut: int
) -> None:
    whole = wire.answer({"pack": "A" * 5000})
    lost = "sys.stderr.write('client_loop: send disconnect: Broken pipe'); sys.exit(255)"
    plays(tmp_path, f"sys.stdout.write({whole[:-cut]!r}); sys.stdout.flush()\n{lost}")
    with pytest.raises(LabProblem, match=r"no connection to u@h: client_loop"):
        ssh.ask(shell[0], {"ask": "give"})


def test_errors_without_end_do_not_stop_an_answer(shell: tuple[Login, Path], tmp_path: Path) -> None:
    plays(tmp_path, f"sys.stderr.write('e' * 3_000_000)\nprint({wire.answer({'x': 1})!r})")
    assert ssh.ask(shell[0], {"ask": "look"}) == {"x": 1}


@pytest.mark.parametrize("problem", [BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.ENOSPC, "full")])
def test_output_that_can_go_nowhere_ends_the_ssh_and_is_the_reason(
    shell: tuple[Login, Path], tmp_path: Path, problem: OSError, capfd: pytest.CaptureFixture[str]
) -> None:
    """As into `| head -1`, or a file on a full disk: no trace of a thread's, no lost connection."""

    def refuse(text: str) -> None:
        raise problem

    pid = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    plays(tmp_path, f"{pid}\nprint({wire.answer({})!r}, flush=True)\nwhile True: print('x', flush=True)")
    with pytest.raises(OSError) as raised:
        ssh.follow(shell[0], {"ask": "run"}, refuse, lambda text: None)
    assert raised.value is problem and not capfd.readouterr().err
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()
