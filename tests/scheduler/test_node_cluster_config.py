"""cluster.yaml as shipped, and what its checker must find: above all what Ray accepts although it cannot work."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.domain.errors import UsageProblem
from scheduler.ray.cluster_config import read_cluster_config

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "cluster.yaml"
Settings = dict[str, Any]

GOOD_START = (
    "RAY_enable_autoscaler_v2=0 RAY_worker_niceness=0 RAY_AUTH_MODE=token "
    "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL=minor "
    "~/arsched/.venv/bin/ray start --head --port=6379 --node-ip-address=10.0.0.1 "
    "--autoscaling-config=~/ray_bootstrap_config.yaml"
)
SHIPPED_LINE = (
    "grep -qs '^export PATH=~/arsched/.venv/bin' ~/.bashrc || "
    r"printf '\nexport PATH=~/arsched/.venv/bin:$PATH RAY_AUTH_MODE=token\n' >> ~/.bashrc"
)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The shipped file with a user's addresses and key in place, and its mounts below tmp_path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    loaded: Settings = yaml.safe_load(SHIPPED.read_text())
    for path in (".ssh/id_ed25519", ".ray/auth_token"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    for here in loaded["file_mounts"].values():
        if not here.startswith("~"):
            (tmp_path / here).touch()
    loaded["provider"] |= {"head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}
    return loaded


def problems_of(settings: Settings, folder: Path) -> tuple[str, ...]:
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(settings))
    return read_cluster_config(path).problems


def test_the_shipped_file_needs_only_what_it_says_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = read_cluster_config(SHIPPED)
    assert len(config.problems) == 3
    for problem, word in zip(sorted(config.problems), ("192.0.2.10", "ssh_private_key", "get-auth-token"), strict=True):
        assert word in problem


def test_a_filled_in_file_is_fine(settings: Settings, tmp_path: Path) -> None:
    assert problems_of(settings, tmp_path) == ()
    config = read_cluster_config(tmp_path / "cluster.yaml")
    assert (config.head, config.nodes) == ("10.0.0.1", 2)
    assert "ray start --address=$RAY_HEAD_IP:6379" in config.worker_start_command


def drop_login(settings: Settings) -> None:
    del settings["auth"]


def break_mount(settings: Settings) -> None:
    settings["file_mounts"]["~/data"] = "no/such/folder"


def misspell(settings: Settings) -> None:
    settings["setup_command"] = settings.pop("setup_commands")


def give_one_worker_as_text(settings: Settings) -> None:
    settings["provider"]["worker_ips"] = "10.0.0.2"


def forget_the_head(settings: Settings) -> None:
    del settings["provider"]["head_ip"]


def name_a_node_twice(settings: Settings) -> None:
    settings["provider"]["worker_ips"] = ["10.0.0.2", "10.0.0.1"]


def start_nicely(settings: Settings) -> None:
    settings["worker_start_ray_commands"][-1] = "RAY_AUTH_MODE=token ray start --address=$RAY_HEAD_IP:6379"


def forget_the_token(settings: Settings) -> None:
    settings["head_start_ray_commands"][-1] = "RAY_worker_niceness=0 ray start --head"


def start_with_version_2(key: str) -> Callable[[Settings], None]:
    def spoil(settings: Settings) -> None:
        commands = settings[key]
        commands[-1] = commands[-1].replace("RAY_enable_autoscaler_v2=0 ", "")

    return spoil


def set_the_version_for_another_program(settings: Settings) -> None:
    start_with_version_2("head_start_ray_commands")(settings)
    settings["head_start_ray_commands"][-1] = (
        "RAY_enable_autoscaler_v2=0 true; " + settings["head_start_ray_commands"][-1]
    )


def set_the_version_in_a_shell_of_its_own(settings: Settings) -> None:
    start_with_version_2("head_start_ray_commands")(settings)
    settings["head_start_ray_commands"].insert(0, "export RAY_enable_autoscaler_v2=0")


def leave_a_quote_open(settings: Settings) -> None:
    settings["head_start_ray_commands"][-1] += " --labels='a"


def on_path(*lines: str, key: str = "setup_commands") -> Callable[[Settings], None]:
    """Other lines in the place of the one that writes ~/.bashrc."""

    def change(settings: Settings) -> None:
        settings["setup_commands"] = [line for line in settings["setup_commands"] if "bashrc" not in line]
        settings[key] = [*settings.get(key, []), *lines]

    return change


def start(line: str) -> Callable[[Settings], None]:
    """Another line that starts the head."""

    def change(settings: Settings) -> None:
        settings["head_start_ray_commands"][-1] = line

    return change


def start_no_head(settings: Settings) -> None:
    settings["head_start_ray_commands"] = ["ray stop"]


def use_a_cloud(settings: Settings) -> None:
    settings["provider"]["type"] = "lambda"


def give_the_heads_name(settings: Settings) -> None:
    settings["provider"]["head_ip"] = "gpu1"


def let_ray_refuse_a_patch_level(settings: Settings) -> None:
    commands = settings["worker_start_ray_commands"]
    commands[-1] = commands[-1].replace("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL=minor", "")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_login, "auth.ssh_user is missing"),
        (break_mount, "no/such/folder"),
        (misspell, "did you mean 'setup_commands'"),
        (give_one_worker_as_text, "must be a list"),
        (forget_the_head, "head_ip is missing"),
        (name_a_node_twice, "10.0.0.1 is listed twice"),
        (start_nicely, "RAY_worker_niceness=0"),
        (forget_the_token, "RAY_AUTH_MODE"),
        (start_no_head, "no `ray start` with --head"),
        (start_with_version_2("head_start_ray_commands"), "head_start_ray_commands starts Ray without RAY_enable_auto"),
        (start_with_version_2("worker_start_ray_commands"), "worker_start_ray_commands starts Ray without RAY_enable"),
        (set_the_version_for_another_program, "write RAY_enable_autoscaler_v2=0 in front"),
        (set_the_version_in_a_shell_of_its_own, "write RAY_enable_autoscaler_v2=0 in front"),
        (start(GOOD_START.replace("v2=0", "v2=1")), "write RAY_enable_autoscaler_v2=0 in front"),
        (leave_a_quote_open, "head_start_ray_commands: the shell could not read this line (No closing quotation)"),
        (
            on_path(),
            f"add to setup_commands: {SHIPPED_LINE}",
        ),
        (on_path("export PATH=~/arsched/.venv/bin:$PATH RAY_AUTH_MODE=token"), "no setup command puts"),
        (on_path("echo 'export PATH=~/arsched/.venv/bin:$PATH' >> ~/.bashrc"), "together with RAY_AUTH_MODE=token"),
        (on_path("echo 'export RAY_AUTH_MODE=token' >> ~/.bashrc"), "puts arsched/.venv/bin on the head's PATH"),
        (on_path("echo 'export PATH=~/other/bin:$PATH RAY_AUTH_MODE=token' >> ~/.bashrc"), "puts arsched/.venv/bin"),
        (on_path(SHIPPED_LINE, key="worker_setup_commands"), "no setup command puts"),
        (start(GOOD_START.replace("~/arsched/.venv", "/opt/venv")), "export PATH=/opt/venv/bin:$PATH"),
        (use_a_cloud, "'lambda'"),
        (give_the_heads_name, "head_ip gpu1 is a name: on the head itself it mostly means 127.0.1.1"),
        (let_ray_refuse_a_patch_level, "worker_start_ray_commands starts Ray without RAY_DEFAULT_PYTHON_VERSION"),
        (start(GOOD_START.replace("--node-ip-address=10.0.0.1", "")), "add to `ray start`: --node-ip-address=$(sed"),
    ],
)
def test_what_cannot_work_is_named(
    settings: Settings, tmp_path: Path, spoil: Callable[[Settings], None], words: str
) -> None:
    spoiled = copy.deepcopy(settings)
    spoil(spoiled)
    assert any(words in problem for problem in problems_of(spoiled, tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        start(f"env {GOOD_START}"),
        start("export RAY_enable_autoscaler_v2='0' RAY_worker_niceness=0; " + GOOD_START.partition(" RAY_w")[2][11:]),
        start(f"ulimit -n 65536 && numactl -N 0 env {GOOD_START.replace('v2=0', 'v2=False')}"),
        start(f'bash -lc "{GOOD_START}"'),
        start(f"true # not RAY_enable_autoscaler_v2=1\n{GOOD_START}"),
        start(GOOD_START.replace("~/arsched/.venv/bin/", "")),
        start(GOOD_START.replace("~/a", '"$HOME"/a')),
        start(GOOD_START.replace("--port=6379", "--port 6379").replace("ss=10.0", "ss 10.0")),
        start(GOOD_START.replace(" --port=6379", "")),
        start(GOOD_START.replace("ss=10.0.0.1", "ss=$(hostname -I | cut -d' ' -f1)")),
        start("ulimit -n $(ulimit -Hn); RAY_TMPDIR=$(echo /a) " + GOOD_START),
        on_path(SHIPPED_LINE, key="head_setup_commands"),
        on_path('echo "export RAY_AUTH_MODE=\\"token\\" PATH=\\"\\$HOME/arsched/.venv/bin:$PATH\\"" | tee -a .profile'),
        on_path("echo 'source /home/ubuntu/arsched/.venv/bin/activate' >>~/.bashrc",
                "echo export RAY_AUTH_MODE=token >> $HOME/.bashrc"),
        on_path("printf 'PATH=~/arsched/.venv/bin:$PATH\\nexport RAY_AUTH_MODE=token\\n' > /etc/profile.d/arsched.sh"),
    ],
)  # fmt: skip
def test_the_same_in_other_words_is_fine(
    settings: Settings, tmp_path: Path, change: Callable[[Settings], None]
) -> None:
    change(settings)
    assert problems_of(settings, tmp_path) == ()


def test_one_node_alone_needs_no_address_that_others_reach(settings: Settings, tmp_path: Path) -> None:
    settings["provider"]["worker_ips"] = []
    start(GOOD_START.replace("--node-ip-address=10.0.0.1", ""))(settings)
    assert problems_of(settings, tmp_path) == ()


def test_the_head_is_started_with_the_address_that_the_file_gives(settings: Settings, tmp_path: Path) -> None:
    """As the shell reads the shipped line, from the file as Ray leaves it on the head."""
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(settings))
    (tmp_path / "arsched" / ".venv" / "bin").mkdir(parents=True)
    program = tmp_path / "arsched" / ".venv" / "bin" / "ray"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    printed = as_ray_runs_it(settings["head_start_ray_commands"][-1], tmp_path).split()
    assert "--node-ip-address=10.0.0.1" in printed


def rent(settings: Settings, kind: str) -> None:
    settings["provider"] = {"type": kind, "region": "here"}
    settings["auth"] = {"ssh_user": "ubuntu"}
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        settings[key][-1] = settings[key][-1].replace("RAY_enable_autoscaler_v2=0", "")


@pytest.mark.parametrize("kind", ["aws", "gcp"])
def test_a_rented_cluster_lists_no_addresses_and_brings_no_key(settings: Settings, tmp_path: Path, kind: str) -> None:
    rent(settings, kind)
    assert problems_of(settings, tmp_path) == ()
    config = read_cluster_config(tmp_path / "cluster.yaml")
    assert (config.nodes, config.addresses, config.is_example) == (1, (), False), "the head"
    del settings["worker_start_ray_commands"]
    assert "worker_start_ray_commands has no `ray start`" in problems_of(settings, tmp_path)[0]


def test_a_cluster_without_a_token_needs_none_in_its_shells(settings: Settings, tmp_path: Path) -> None:
    start(GOOD_START.replace("=token", "=disabled"))(settings)
    workers = settings["worker_start_ray_commands"]
    workers[-1] = workers[-1].replace("=token", "=disabled")
    del settings["file_mounts"]["~/.ray/auth_token"]
    on_path("echo 'export PATH=~/arsched/.venv/bin:$PATH RAY_AUTH_MODE=disabled' >> ~/.bashrc")(settings)
    assert problems_of(settings, tmp_path) == ()


@pytest.mark.parametrize("before", [None, "", "alias a='b'", "# arsched/.venv\n", "if true; then :; fi"])
def test_the_shipped_line_puts_ray_on_the_path_of_the_shells_ray_opens(tmp_path: Path, before: str | None) -> None:
    """Once, however often `ray up` is called, and on a line of its own."""
    if before is not None:
        (tmp_path / ".bashrc").write_text(before)
    program = tmp_path / "arsched" / ".venv" / "bin" / "ray"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$0 $1 $RAY_AUTH_MODE"\n')
    program.chmod(0o755)
    lines = [line for line in yaml.safe_load(SHIPPED.read_text())["setup_commands"] if "bashrc" in line]
    for command in (*lines, *lines, "ray stop"):
        printed = as_ray_runs_it(command, tmp_path)
    assert printed == f"{program} stop token\n"
    lines = (tmp_path / ".bashrc").read_text().splitlines()
    assert [line for line in lines if line][:-1] == (before or "").splitlines()
    assert lines[-1] == "export PATH=~/arsched/.venv/bin:$PATH RAY_AUTH_MODE=token"


def as_ray_runs_it(command: str, home: Path) -> str:
    """Ray's own wrapping of a command that it sends by SSH, without the -i that needs a terminal."""
    wrapped = f"source ~/.bashrc; export OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore && ({command})"
    surroundings = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        ["bash", "--login", "-c", wrapped], env=surroundings, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(
    "text",
    ["", "just words", "a: [1", "- a list", "a:\n\tb: 1\n", "a: 2026-13-01", "[" * 4000, "a: 1\n---\nb: 2\n", "\x00"],
)
def test_what_is_no_settings_file_is_a_usage_problem(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(UsageProblem, match=r"cluster\.yaml") as caught:
        read_cluster_config(path)
    assert caught.value.hint


def test_a_missing_file_is_a_usage_problem(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="cannot be read"):
        read_cluster_config(tmp_path / "none.yaml")


def test_what_the_header_says_can_be_typed(settings: Settings) -> None:
    header = SHIPPED.read_text().partition("cluster_name")[0]
    typed = [line.lstrip("# ") for line in header.splitlines()]
    assert header.index("bin/activate") < header.index("ray get-auth-token")
    verbs = [line for line in typed if line.startswith(("arsched doctor", "arsched init", "arsched submit"))]
    assert len(verbs) == 3 and all("--address auto" in line for line in verbs)
    needs = header.partition("Every node needs")[2]
    for need in ("python3-dev", "gcc", "580", "nvidia-smi -pm 1", "/dev/nvidia-uvm", "Python 3.11"):
        assert need in needs


def test_what_a_node_needs_is_in_the_mounts() -> None:
    mounts: dict[str, str] = yaml.safe_load(SHIPPED.read_text())["file_mounts"]
    here = set(mounts.values())
    assert {"harness", "scheduler", "pyproject.toml", "constraints.txt", "Makefile", "README.md", "LICENSE"} <= here
    assert not here & {".", ".git", ".arsched", ".venv"}


@pytest.mark.parametrize(("target", "tools"), [("install", False), ("demo", False), ("test", True), ("lint", True)])
def test_a_node_gets_what_runs_need_and_a_developer_the_tools(tmp_path: Path, target: str, tools: bool) -> None:
    setup = yaml.safe_load(SHIPPED.read_text())["setup_commands"]
    assert [line for line in setup if "make" in line] == ["make -C ~/arsched install"]
    dry = ["make", "--dry-run", "-C", str(ROOT), target, f"VENV={tmp_path / 'venv'}"]
    said = subprocess.run(dry, capture_output=True, text=True, check=True).stdout
    assert ("[dev]" in said) == tools and " -e '.'" in said


def test_a_key_that_ssh_would_read_otherwise_is_named(settings: Settings, tmp_path: Path) -> None:
    key = tmp_path / "50%key"
    key.write_text("a key")
    settings["auth"]["ssh_private_key"] = str(key)
    (problem,) = problems_of(settings, tmp_path)
    assert "50%key" in problem and "rename the file" in problem
