"""The way to the head: what cluster.yaml names, the ssh line, every failure in words, requests, command lines."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from scheduler.cli import cluster, output
from scheduler.cli.main import main
from scheduler.cli.output import VERBS
from scheduler.domain.errors import ArschedError, GitProblem, LabProblem, UsageProblem
from scheduler.remote import head, ssh, wire
from scheduler.remote.carry import HeadState
from scheduler.remote.login import Login, read_login, refuse_other_cluster
from scheduler.remote.ssh import command, failure
from tests.scheduler.git_kit import git, make_repository, no_configuration  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
LOGIN = Login(Path("cluster.yaml"), "10.99.0.11", "ubuntu", Path("/home/a b/key"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The shipped cluster.yaml with a head of one's own."""
    raw = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    (tmp_path / "key").write_text("a key")
    raw["provider"]["head_ip"], raw["auth"]["ssh_private_key"] = "10.99.0.11", str(tmp_path / "key")
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def changed(config: Path, section: str, **values: Any) -> Path:
    raw = yaml.safe_load(config.read_text())
    raw[section] = {**raw.get(section, {}), **values}
    config.write_text(yaml.safe_dump(raw))
    return config


def test_the_shipped_file_names_all_that_is_needed(config: Path) -> None:
    login = read_login(config)
    assert (login.target, login.key) == ("ubuntu@10.99.0.11", config.with_name("key"))
    assert login.programs == "~/arsched/.venv/bin" and login.environ == {"RAY_AUTH_MODE": "token"}


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("provider", {"head_ip": "192.0.2.10"}, "still has the example's address 192.0.2.10"),
        ("provider", {"head_ip": None}, "no provider.head_ip"),
        ("provider", {"head_ip": None, "type": "aws"}, "its provider is 'aws'"),
        ("provider", {"head_ip": "-oProxyCommand=touch x"}, "ssh could not use"),
        ("provider", {"head_ip": "a b"}, "ssh could not use"),
        ("auth", {"ssh_user": None}, "no auth.ssh_user"),
        ("auth", {"ssh_user": "-lx"}, "ssh could not use"),
        ("auth", {"ssh_private_key": "/no/such/key"}, "/no/such/key does not exist here"),
    ],
)
def test_a_file_that_names_no_head_is_refused_in_words(config: Path, section: str, values: Any, said: str) -> None:
    with pytest.raises(UsageProblem, match=re.escape(said)) as problem:
        read_login(changed(config, section, **values))
    assert problem.value.hint and problem.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "[]", "provider: 3", "auth: [1]\nprovider: {head_ip: 3}", ": :", "\0"])
def test_what_is_no_cluster_yaml_is_refused_in_words(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(UsageProblem):
        read_login(path)
    with pytest.raises(UsageProblem, match="cannot be read"):
        read_login(tmp_path / "none.yaml")


@pytest.mark.parametrize("line", ["/opt/a b/ray start --head", "$HOME/x/bin/ray start --head", "ray start --head", ""])
def test_programs_lie_where_the_file_starts_ray(config: Path, line: str) -> None:
    raw = yaml.safe_load(config.read_text())
    raw["head_start_ray_commands"] = [line]
    config.write_text(yaml.safe_dump(raw))
    expected = {"$": "~/x/bin", "r": "~/arsched/.venv/bin", "": "~/arsched/.venv/bin"}.get(line[:1])
    assert expected is None or read_login(config).programs == expected


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("export ARSCHED_CACHE=/shared/a; ~/x/ray start --head", "/shared/a"),
        ("export ARSCHED_CACHE=/shared/a&&~/x/ray start --head", "/shared/a"),
        ("export ARSCHED_CACHE='/shared/a b' && ~/x/ray start --head", "/shared/a b"),
        ('ARSCHED_CACHE="$HOME/cache" ~/x/ray start --head', "/home/u/cache"),
        ("ARSCHED_CACHE=~/cache ~/x/ray start --head", "/home/u/cache"),
        ("ARSCHED_CACHE=/a ~/x/ray start --labels='it's'", "/a"),
    ],
)
def test_variables_of_the_file_are_read_as_a_shell_reads_them(
    config: Path, monkeypatch: pytest.MonkeyPatch, line: str, value: str
) -> None:
    raw = yaml.safe_load(config.read_text())
    raw["head_start_ray_commands"] = ["~/x/ray stop || true", line]
    config.write_text(yaml.safe_dump(raw))
    environ = read_login(config).environ
    monkeypatch.setenv("HOME", "/home/u")  # from here on as on the head
    request = {"programs": "~/x", "environ": environ, "typed_as": ""}
    assert head.environ_of(request)["ARSCHED_CACHE"] == value


def test_the_screen_there_is_as_this_terminals_person_wants_it(
    config: Path, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    arsched(config, "status")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    arsched(config, "status")
    plain, wanted = (one["environ"] for one in sent if isinstance(one, dict))
    assert wanted == {**plain, "NO_COLOR": "1", "COLUMNS": "60"} and "NO_COLOR" not in plain
    monkeypatch.setattr(cluster, "_has_terminal", lambda: True)  # ssh passes its size on
    assert cluster._of_this_terminal().keys() == {"NO_COLOR"}


@pytest.mark.parametrize("folder", ["~/arsched/.venv/bin", "/opt/x; touch evil/bin", "~/a b/$(touch evil)"])
def test_a_shell_reads_the_program_as_one_word(tmp_path: Path, folder: str) -> None:
    login = Login(LOGIN.path, "h", "u", None, folder)
    line = f'printf "%s|" {login.program("python")} x'
    said = subprocess.run(["sh", "-c", line], env={"HOME": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True)
    assert said.stdout == f"{folder.replace('~', str(tmp_path), 1)}/python|x|"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [None, "", "auto", "10.99.0.11:6379", "ray://10.99.0.11:10001", "10.99.0.11"])
def test_the_heads_own_address_is_no_other_cluster(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.setenv("RAY_ADDRESS", value or "")
    refuse_other_cluster(LOGIN, value)


def test_another_cluster_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageProblem, match=r"--address is 10\.0\.0\.9:6379") as problem:
        refuse_other_cluster(LOGIN, "10.0.0.9:6379")
    assert "leave --address out" in problem.value.hint
    monkeypatch.setenv("RAY_ADDRESS", "ray://elsewhere:10001")
    with pytest.raises(UsageProblem, match="RAY_ADDRESS is ray://elsewhere") as problem:
        refuse_other_cluster(LOGIN, None)
    assert "unset RAY_ADDRESS" in problem.value.hint


def test_the_ssh_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "_at_terminal", lambda: False)
    words = command(LOGIN, terminal=False)
    options = {words[place + 1] for place, word in enumerate(words) if word == "-o"}
    assert {"BatchMode=yes", "ControlMaster=no", "StrictHostKeyChecking=accept-new", "IdentitiesOnly=yes"} <= options
    assert words[-4:-1] == ["ubuntu", "--", "10.99.0.11"] and "-T" in words and "/home/a b/key" in words
    assert "BatchMode=yes" not in command(LOGIN, terminal=True) and "-tt" in command(LOGIN, terminal=True)


def test_settings_of_ones_own_for_that_host_do_not_stand_in_the_way(tmp_path: Path) -> None:
    """As OpenSSH itself reads them: a command of one's own, ports that a first connection holds already."""
    own = tmp_path / "config"
    own.write_text(
        "Host *\n RemoteCommand tmux\n LocalForward 8265 localhost:8265\n ExitOnForwardFailure yes\n ForwardAgent yes\n"
    )
    words = command(LOGIN, terminal=False)
    read = subprocess.run(["ssh", "-F", str(own), "-G", *words[1:]], capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    settings = dict(line.partition(" ")[::2] for line in read.stdout.splitlines())
    assert settings["clearallforwardings"] == "yes" and settings["forwardagent"] == "no"
    assert settings.get("remotecommand", "none") == "none"


@pytest.mark.parametrize("said", ["Permission denied (publickey).", "UNPROTECTED PRIVATE KEY FILE!"])
def test_without_a_key_in_the_file_no_hint_names_one(said: str) -> None:
    problem = failure(Login(LOGIN.path, "h", "u", None), 255, said)
    assert "ssh offers" not in problem.hint and "None" not in problem.message + problem.hint
    spaced = failure(LOGIN, 255, said)
    assert "'/home/a b/key'" in spaced.hint, "a hint is typed as it stands"


SAID = {
    "Permission denied (publickey).": ("refuses the key /home/a b/key", "ssh-add"),
    "ssh: Could not resolve hostname x: Name or service not known": ("no machine is known", "head_ip in cluster.yaml"),
    "ssh: connect to host 10.99.0.11 port 22: Connection refused": ("no sshd listens", "sshd runs"),
    "ssh: connect to host 10.99.0.11 port 22: No route to host": ("cannot be reached", "VPN"),
    "ssh: connect to host 10.99.0.11 port 22: Connection timed out": ("cannot be reached", "VPN"),
    "Host key verification failed.": ("another host key", "ssh-keygen -R 10.99.0.11"),
    "Permissions 0644 for 'key' are too open.\nUNPROTECTED PRIVATE KEY FILE!": ("others may read it", "chmod 600"),
    "kex_exchange_identification: Connection closed by remote host": ("kex_exchange", "when the network is back"),
    "": ("no connection to ubuntu@10.99.0.11", "same command again"),
}


@pytest.mark.parametrize("said", SAID)
def test_every_failure_of_ssh_is_said_with_what_to_do(said: str) -> None:
    problem = failure(LOGIN, 255, said)
    assert SAID[said][0] in problem.message and SAID[said][1] in problem.hint
    assert "{" not in problem.message + problem.hint


@pytest.mark.parametrize(
    ("code", "said", "what", "hint"),
    [
        (127, "sh: 1: exec: /home/u/python: not found", "arsched is not installed", "ray up cluster.yaml"),
        (126, "Permission denied", "arsched is not installed", "ray up cluster.yaml"),
        (1, "python: No module named scheduler.remote", "arsched is not installed", "ray up cluster.yaml"),
        (1, "OSError: [Errno 28] No space left on device", "the disk of ubuntu@10.99.0.11 is full", "make room there"),
        (1, "this account is closed", "gave no answer: this account is closed", "ssh ubuntu@10.99.0.11 true"),
    ],
)  # fmt: skip
def test_a_head_that_cannot_answer(code: int, said: str, what: str, hint: str) -> None:
    problem = failure(LOGIN, code, said)
    assert what in problem.message and hint in problem.hint


def test_a_connection_that_is_lost_says_that_the_head_goes_on() -> None:
    problem = failure(LOGIN, 255, "Timeout, server 10.99.0.11 not responding.", begun=True)
    assert "what was begun there goes on" in problem.hint and "not responding" in problem.message


@pytest.mark.parametrize("line", ["    15 s  h1/cpu0 r0020 train", "result: it timed out", "hint: Permission denied"])
def test_what_a_verb_said_is_no_reason_of_ssh(line: str) -> None:
    problem = failure(LOGIN, 255, line, begun=True)
    assert problem.message == "the connection to ubuntu@10.99.0.11 was lost"
    known = "ssh: connect to host 10.99.0.11 port 22: No route to host"
    assert "cannot be reached" in failure(LOGIN, 255, f"{line}\n{known}", begun=True).message


@pytest.mark.parametrize("said", [one for one in SAID if one])
def test_what_ssh_said_is_known_among_other_lines(said: str) -> None:
    assert SAID[said][0] in failure(LOGIN, 255, f"result c0001\n{said}\n12 s of 30 s", begun=True).message


def test_what_a_verb_said_before_the_link_broke_is_no_cause_of_it() -> None:
    said = "refused   x.py cannot be read: Permission denied\nTimeout, server 10.99.0.11 not responding.\n"
    problem = failure(LOGIN, 255, said, begun=True)
    assert "the connection to ubuntu@10.99.0.11 was lost: Timeout" in problem.message and "key" not in problem.hint


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
        "environ": {}, "typed_as": "arsched", "goes_on": False, "json": True, "listener": "me", **more,
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


# The command line, with what would go over ssh looked at instead.


@pytest.fixture
def sent(config: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    root = make_repository(config.parent / "laptop")
    requests: list[Any] = []
    tip = git(root, "rev-parse", "HEAD").strip()
    monkeypatch.chdir(root)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(output, "_spelt_as", [""])
    monkeypatch.setattr(
        cluster.RemoteLab, "look", lambda *_, **__: HeadState(False, "/labs/x", {}, "t", (("c0001", tip),))
    )
    monkeypatch.setattr(cluster.RemoteLab, "fetch", lambda *_: [])
    monkeypatch.setattr(
        cluster.RemoteLab, "send", lambda self, state, wanted, head=None: requests.append((wanted, head))
    )
    monkeypatch.setattr(ssh, "follow", lambda login, request, *_: requests.append(request) or 3)
    return requests


def arsched(config: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--cluster", str(config), *words])


@pytest.mark.parametrize(
    ("typed", "there", "goes_on"),
    [
        (["status"], [], False),
        (["status", "--json", "--tag", "-x"], ["--tag=-x", "--json"], False),
        (["logs", "r0001", "--tail", "4"], ["--tail=4", "--", "r0001"], False),
        (["wait", "a", "b c", "--timeout", "1.5"], ["--timeout=1.5", "--", "a", "b c"], False),
        (["search", "--runs", "9", "--proposer", "tpe:2", "--proposer", "lines"],
         ["--runs=9", "--proposer=tpe:2", "--proposer=lines", "--address=auto"], True),
        (["search", "--runs", "9", "--command", "python '$x'; y", "--detach"],
         ["--runs=9", "--command=python '$x'; y", "--detach", "--address=auto"], False),
        (["search", "--runs", "9", "--dry-run"], ["--runs=9", "--dry-run", "--address=auto"], False),
        (["init", "--tag", "n", "--no-wait"], ["--tag=n", "--no-wait", "--address=auto"], False),
        (["init", "--tag", "n", "--address", "auto"], ["--tag=n", "--address=auto"], True),
        (["submit"], ["--address=auto"], True),
        (["submit", "c0001", "--again", "--title", "a $(b)"],
         ["--title=a $(b)", "--again", "--address=auto", "--", "c0001"], True),
        (["doctor", "--quick"], ["--quick", "--address=auto"], False),
        (["cancel", "c0002"], ["--", "c0002"], False),
        (["prepare", "--contract", "cpu"], ["--contract=cpu"], True),
        (["prepare", "--all-nodes"], ["--all-nodes", "--address=auto"], True),
        (["calibrate", "--runs", "2"], ["--runs=2", "--address=auto"], True),
    ],
)  # fmt: skip
def test_a_command_line_is_spelt_anew_for_the_head(
    config: Path, sent: list[Any], typed: list[str], there: list[str], goes_on: bool
) -> None:  # fmt: skip
    result = arsched(config, *typed)
    assert result.exit_code == 3, result.output
    request = next(one for one in sent if isinstance(one, dict))
    words = [*there, "--"] if "--" not in there else there
    assert (request["verb"], request["words"], request["goes_on"]) == (typed[0], words, goes_on)
    assert request["typed_as"].endswith(f" --cluster {config}") and request["json"] == ("--json" in typed)


def test_files_are_carried_as_blobs(config: Path, sent: list[Any]) -> None:
    Path("my train.py").write_text("DEPTH = 3\n")
    Path("own.yaml").write_text("name: own\n")
    assert arsched(config, "init", "--train", "my train.py", "--contract", "own.yaml").exit_code == 3
    request = next(one for one in sent if isinstance(one, dict))
    named = {one["before"]: one["name"] for one in request["words"] if isinstance(one, dict)}
    assert named == {"--train=": "my train.py", "--contract=": "own.yaml"}
    assert len(sent[0][0]) == 2 and sent[0][1], "two blobs, and HEAD"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["demo"], "runs on this machine alone"),
        (["prepare", "--from", "shards"], "names something on this machine"),
        (["init", "--train", "none.py"], "No such file"),
        (["submit", "--no-wait"], "no paths to queue"),
        (["submit", "nothing/here"], "nothing to submit"),
        (["submit", "--address", "10.0.0.9:6379"], "--address is 10.0.0.9:6379"),
        (["status", "--no-such"], "No such option"),
    ],
)
def test_what_cannot_be_done_there_is_a_slip(config: Path, sent: list[Any], typed: list[str], said: str) -> None:
    result = arsched(config, *typed)
    assert result.exit_code == 2 and said in result.output, result.output
    assert not any(isinstance(one, dict) for one in sent)


@pytest.mark.parametrize("verb", ["stop", "status", "watch"])
def test_what_git_here_refuses_stops_no_verb_that_does_without(
    config: Path, sent: list[Any], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def full(*_: object) -> list[Any]:
        raise GitProblem("git unpack-objects failed: No space left on device")

    monkeypatch.setattr(cluster.RemoteLab, "fetch", full)
    result = arsched(config, verb)
    assert result.exit_code == 3 and "No space left" in result.output, result.output
    assert [one["verb"] for one in sent if isinstance(one, dict)] == [verb]
    assert arsched(config, "submit", "c0001").exit_code == 1, "its base could be missing here"


def test_the_option_behind_the_verb_is_named(sent: list[Any]) -> None:
    result = CliRunner().invoke(main, ["status", "--cluster", "cluster.yaml"])
    assert result.exit_code == 2 and "arsched --cluster FILE status" in result.output


def test_uncommitted_changes_begin_no_lab(config: Path, sent: list[Any]) -> None:
    Path("train.py").write_text("DEPTH = 8\n")
    result = arsched(config, "init", "--tag", "n")
    assert result.exit_code == 1 and "uncommitted changes" in result.output and not sent


@pytest.mark.parametrize("verb", sorted(set(VERBS)))
def test_help_is_the_verbs_own_and_asks_no_head(config: Path, sent: list[Any], verb: str) -> None:
    result = arsched(config, verb, "--help")
    assert result.exit_code == 0 and f"Usage: arsched {verb}" in result.output and not sent


def test_leaving_says_what_becomes_of_it(config: Path, sent: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def left(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(ssh, "follow", left)
    going_on, read = arsched(config, "search", "--runs", "9"), arsched(config, "wait")
    assert going_on.exit_code == read.exit_code == 130
    assert "it goes on at ubuntu@10.99.0.11" in going_on.output and f"--cluster {config} stop" in going_on.output
    assert "goes on" not in read.output


def test_a_report_is_made_there_for_this_call_and_written_here(
    config: Path, sent: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []

    def files(self: Any, what: str, **more: Any) -> Any:
        asked.append((what, more))
        return {"files": {"../index.html": "cGFnZQ=="}}

    monkeypatch.setattr(ssh, "follow", lambda login, request, *_: sent.append(request) or 0)
    monkeypatch.setattr(cluster.RemoteLab, "ask", files)
    assert arsched(config, "report", "--out", str(tmp_path / "out" / "r")).exit_code == 0
    (request,) = (one for one in sent if isinstance(one, dict))
    word = next(one for one in request["words"] if isinstance(one, dict))
    assert word == {"report": "--out=", "listener": request["listener"]}
    assert asked == [("files", {"listener": request["listener"]})]
    assert (tmp_path / "out" / "r" / "index.html").read_text() == "page", "no name leads out of the folder"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["r"]
