"""The way to the head: what cluster.yaml names, the ssh line, every failure in words."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.domain.errors import UsageProblem
from scheduler.remote import head, ssh
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
        ("auth", {"ssh_private_key": '/a"b/key'}, "ssh cannot be given the key"),
        ("auth", {"ssh_private_key": "/a\nProxyCommand x"}, "ssh cannot be given the key"),
        ("auth", {"ssh_private_key": "/${HOME}/key"}, "ssh cannot be given the key"),
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
    percent = command(replace(LOGIN, key=Path("/keys/%d 100%/key")), terminal=False)
    assert 'IdentityFile="/keys/%%d 100%%/key"' in percent
    assert words[-4:-1] == ["ubuntu", "--", "10.99.0.11"] and "-T" in words
    assert 'IdentityFile="/home/a b/key"' in options
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
