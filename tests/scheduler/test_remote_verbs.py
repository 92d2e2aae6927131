"""Verbs carried out on a head: their command lines spelt anew, what they carry, what is a slip. No head answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from scheduler.cli import cluster, output
from scheduler.cli.main import main
from scheduler.cli.output import VERBS
from scheduler.domain.errors import GitProblem, LabProblem
from scheduler.remote import ssh
from scheduler.remote.carry import HeadState
from tests.scheduler.git_kit import git, make_repository, no_configuration  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The shipped cluster.yaml with a head of one's own."""
    raw = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    (tmp_path / "key").write_text("a key")
    raw["provider"]["head_ip"], raw["auth"]["ssh_private_key"] = "10.99.0.11", str(tmp_path / "key")
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


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
        return {"files": {"index.html": "cGFnZQ==", "train.py": "eA=="}}

    monkeypatch.setattr(ssh, "follow", lambda login, request, *_: sent.append(request) or 0)
    monkeypatch.setattr(cluster.RemoteLab, "ask", files)
    assert arsched(config, "report", "--out", str(tmp_path / "out" / "r")).exit_code == 0
    (request,) = (one for one in sent if isinstance(one, dict))
    word = next(one for one in request["words"] if isinstance(one, dict))
    assert word == {"report": "--out=", "listener": request["listener"]}
    assert asked == [("files", {"listener": request["listener"]})]
    assert (tmp_path / "out" / "r" / "index.html").read_text() == "page"
    assert [path.name for path in (tmp_path / "out" / "r").iterdir()] == ["index.html"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["r"]


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


@pytest.mark.parametrize("verb", [["init", "--tag", "n"], ["search", "--runs", "9", "--contract", "cpu"], ["prepare"]])
def test_a_dry_run_is_tried_in_a_repository_that_is_dropped(
    config: Path, sent: list[Any], monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    looks: list[tuple[str, bool]] = []

    def look(self: Any, tag: str | None, *, make: bool, **_: Any) -> HeadState:
        looks.append((self.name, make))
        return HeadState(make, "/labs/x" if make else "", {}, problem=LabProblem("no lab"))

    monkeypatch.setattr(cluster.RemoteLab, "look", look)
    monkeypatch.setattr(cluster.RemoteLab, "ask", lambda self, what, **_: sent.append((what, self.name)))
    assert arsched(config, *verb, "--dry-run").exit_code == 3
    (request,) = (one for one in sent if isinstance(one, dict))
    name = request["repository"]
    assert name.startswith("dry-run-") and sent[-1] == ("drop", name)
    assert [made for made, make in looks if make] == [name], "no other is made"
    assert sent[0][1] == git(Path.cwd(), "rev-parse", "HEAD").strip(), "HEAD is carried there"


@pytest.mark.parametrize(("code", "heard"), [(4, True), (130, False)])
def test_on_a_terminal_the_head_draws_and_only_an_end_that_was_seen_is_confirmed(
    config: Path, sent: list[Any], monkeypatch: pytest.MonkeyPatch, code: int, heard: bool
) -> None:
    state, looks = cluster.RemoteLab.look(None, None, make=False), []  # type: ignore[arg-type]
    monkeypatch.setattr(cluster, "_has_terminal", lambda: True)
    monkeypatch.setattr(cluster.RemoteLab, "look", lambda *_, **how: looks.append(how.get("heard")) or state)
    monkeypatch.setattr(ssh, "show", lambda login, request: sent.append(request) or code)
    Path("idea.py").write_text("SCORE = 1\n")
    assert arsched(config, "submit", "idea.py").exit_code == code
    (request,) = (one for one in sent if isinstance(one, dict))
    assert list(request["spelt"].values()) == [str(Path.cwd() / "idea.py")] or list(request["spelt"].values()) == [
        "idea.py"
    ]
    assert request["goes_on"] and f"--cluster {config} watch" in request["leaving"]
    assert looks == [None, request["listener"]][: 1 + heard]


def test_a_request_too_long_for_a_command_line_is_followed_without_a_screen(
    config: Path, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_has_terminal", lambda: True)
    monkeypatch.setattr(ssh, "show", lambda *_: pytest.fail("E2BIG"))
    assert arsched(config, "wait", *(f"candidate-{number:060}" for number in range(2000))).exit_code == 3
