"""The real command, as processes, under odd users, networks, streams, paths and variables: all works as elsewhere.

Not covered: settings of git (test_git_surroundings), encodings and widths (test_screens_encodings), Ray (tests/ray).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest

from harness.contract import load_contract
from tests.harness.judging import TINY, build_cache
from tests.scheduler.git_kit import make_repository, no_configuration  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
UID = 12345
WITHOUT_A_NAME = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
WITHOUT_LOOPBACK = ("unshare", "--net", *(() if os.geteuid() == 0 else ("--map-root-user",)))
Done = subprocess.CompletedProcess[str]


@dataclass
class Place:
    """A repository, a contract with its cache, and the command run there: below `prefix`, with `environment` added."""

    root: Path
    folder: Path
    prefix: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)
    program: str = sys.executable
    base: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def arsched(self, *arguments: str, code: int = 0) -> Done:
        ours = {"ARSCHED_CACHE": str(self.folder / "cache"), "PYTHONPATH": str(ROOT)}
        environment = {**self.base, **ours, **self.environment}
        command = [*self.prefix, self.program, "-m", "scheduler", *arguments]
        done = subprocess.run(
            command, cwd=self.root, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=240,
        )  # fmt: skip
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert "defect" not in done.stderr and "Traceback" not in done.stderr, done.stderr
        return done

    def begin(self) -> None:
        self.arsched("init", "--tag", "t", "--contract", str(self.folder / "tiny.json"), "--no-wait")

    def queue(self, name: str, train_py: bytes = b"DEPTH = 6\n") -> str:
        """A candidate, made and queued by commands; its id."""
        self.arsched("new", name)
        (self.root / "candidates" / name / "train.py").write_bytes(train_py)
        sent = self.arsched("submit", f"candidates/{name}", "--no-wait", "--json")
        return str(json.loads(sent.stdout)["candidates"][0]["candidate"])


@pytest.fixture(scope="module")
def prepared() -> Iterator[Path]:
    """A contract with its cache, where every user may read it."""
    folder = Path(tempfile.mkdtemp(prefix="arsched-test-"))
    folder.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARSCHED_CACHE", str(folder / "cache"))
        (folder / "tiny.json").write_text(TINY.to_json())
        build_cache(load_contract(str(folder / "tiny.json")))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def place(tmp_path: Path, prepared: Path) -> Place:
    return Place(make_repository(tmp_path / "lab"), prepared)


def needs(*command: str) -> None:
    if not shutil.which(command[0]) or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip(f"{command[0]} may not do that here")


def python_for_all(path: str) -> str:
    """An interpreter of this version that user may run with our packages: this one may lie in root's home."""
    environment = {**os.environ, "PYTHONPATH": path}
    starts_itself = "import click, git, numpy, subprocess, sys; subprocess.run([sys.executable, '-V'], check=True)"
    for program in (sys.executable, f"/usr/bin/python3.{sys.version_info[1]}"):
        command = [*WITHOUT_A_NAME, program, "-c", starts_itself]
        if shutil.which(program) and not subprocess.run(command, env=environment, capture_output=True).returncode:
            return program
    pytest.skip("that user may read no Python here")


def test_a_user_id_without_a_name_and_without_a_home_runs_a_lab(prepared: Path) -> None:
    """As in containers that are started with any user id."""
    needs(*WITHOUT_A_NAME)
    path = os.pathsep.join([str(ROOT), str(Path(click.__file__).parents[1])])
    program = python_for_all(path)
    root = make_repository(prepared / "nameless")
    for one in (root, *root.rglob("*")):
        os.chown(one, UID, UID)
    homeless = {"HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in homeless}
    place = Place(root, prepared, WITHOUT_A_NAME, {"PYTHONPATH": path}, program, environment)
    place.begin()
    place.arsched("new", "wider")
    (root / "candidates" / "wider" / "train.py").write_bytes(b"DEPTH = 6\n")
    dry = json.loads(place.arsched("submit", "candidates/wider", "--dry-run", "--json").stdout)
    assert [one["name"] for one in dry["dry_run"]] == ["wider"]
    place.arsched("submit", "candidates/wider", "--no-wait")
    assert "author     unknown" in place.arsched("show", "c0002").stdout
    assert json.loads(place.arsched("status", "--json").stdout)["tag"] == "t"
    place.arsched("search", "--runs", "2", "--proposer", "tpe", "--dry-run")
    assert {one.lstat().st_uid for one in root.rglob("*")} == {UID}


def test_without_a_loopback_interface_what_needs_ray_says_so_at_once_and_the_rest_works(place: Place) -> None:
    needs(*WITHOUT_LOOPBACK)
    place.prefix = WITHOUT_LOOPBACK
    place.begin()
    assert place.queue("wider") == "c0002"
    place.arsched("status")
    place.arsched("show", "c0002")
    place.arsched("search", "--runs", "2", "--proposer", "tpe", "--dry-run")
    said = place.arsched("submit", code=1).stderr
    assert said.count("error: ") == 1 and "does not reach itself at 127.0.0.1: Network is unreachable" in said
    assert "ip link set lo up" in said
    assert len(json.loads(place.arsched("status", "--json").stdout)["queued"]) == 4, "nothing is lost"


VARIABLES = {
    "of git's Python, and another clock": {
        "GIT_PYTHON_GIT_EXECUTABLE": "/nowhere/git", "GIT_PYTHON_REFRESH": "error", "GIT_PYTHON_TRACE": "full",
        "GIT_AUTHOR_DATE": "no date", "GIT_COMMITTER_DATE": "2001-01-01T00:00:00Z", "GIT_TRACE": "1",
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "diff.external", "GIT_CONFIG_VALUE_0": "/nowhere/diff",
    },
    "of a shell without much": {
        "TERM": "dumb", "COLUMNS": "0", "LINES": "x", "CDPATH": "/tmp", "PAGER": "/nowhere", "NO_COLOR": "1",
        "LC_ALL": "tr_TR", "TZ": "Nowhere/Bad", "TMPDIR": "/proc/nowhere", "HOME": "/proc/nowhere",
        "BASH_ENV": "/nowhere",
    },
    "of Python": {
        "PYTHONSAFEPATH": "1", "PYTHONOPTIMIZE": "2", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSTARTUP": "/nowhere",
        "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONINTMAXSTRDIGITS": "640",
    },
}  # fmt: skip


@pytest.mark.parametrize("variables", VARIABLES.values(), ids=VARIABLES)
def test_variables_of_others_change_nothing(place: Place, variables: dict[str, str]) -> None:
    place.environment = variables
    place.begin()
    assert place.queue("wider") == "c0002"
    assert len(json.loads(place.arsched("status", "--json").stdout)["queued"]) == 4
    assert "c0002 wider" in place.arsched("show", "c0002").stdout
    said = place.arsched("report").stderr.strip().splitlines()
    assert len(said) == 4 and all(line.startswith("wrote report/") for line in said), said
    at = subprocess.run(
        ["git", "log", "-1", "--format=%ct", "refs/arsched/t/c0002"], cwd=place.root, capture_output=True, text=True
    ).stdout
    assert int(at) > 1_700_000_000, "dated by this machine's clock"


def test_a_path_of_any_bytes_is_a_path(place: Place) -> None:
    there = os.fsdecode(os.fsencode(place.root.parent) + b'/it\'s "a"\n$(x) \xff %s')
    os.rename(place.root, there)
    place.root = Path(there)
    place.begin()
    assert place.queue("wider") == "c0002"
    assert "c0002" in place.arsched("leaderboard").stdout
    assert (place.root / "report" / "index.html").is_file() or place.arsched("report")


def shell(place: Place, words: str, before: str = "") -> Done:
    """The command, with redirections, by a shell."""
    command = f"{before}{sys.executable} -m scheduler {words}"
    environment = {**os.environ, "ARSCHED_CACHE": str(place.folder / "cache"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, shell=True, cwd=place.root, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_no_reason_to_fail(place: Place, closed: str) -> None:
    begun = shell(place, f"init --tag t --contract {place.folder}/tiny.json --no-wait {closed}")
    assert begun.returncode == 0, begun
    assert shell(place, f"status --json {closed}").returncode == 0
    assert json.loads(shell(place, "status --json").stdout)["tag"] == "t"


def test_a_parent_that_ignores_the_end_of_children_is_no_reason_to_hang(place: Place) -> None:
    """Inherited: each command of git would seem to succeed, and some would be waited for without end."""
    begun = shell(place, f"init --tag t --contract {place.folder}/tiny.json --no-wait", "trap '' CHLD; exec ")
    assert begun.returncode == 0 and "c0001" in begun.stdout, begun


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_what_finds_no_room_on_stderr_is_dropped_and_on_stdout_named(place: Place) -> None:
    """A log on a full disk ends no search; data that cannot be written is an error, whatever was done stays done."""
    begun = shell(place, f"init --tag t --contract {place.folder}/tiny.json --no-wait 2>/dev/full")
    assert (begun.returncode, begun.stderr) == (0, "") and "c0001" in begun.stdout
    for words in ("status", "status --json", "show c0001", "show typo --json", "--help"):
        said = shell(place, f"{words} >/dev/full")
        assert said.returncode in (1, 2) and said.stderr.count("error: ") == 1, said
        assert "Traceback" not in said.stderr and "ignored" not in said.stderr
        assert "typo" in said.stderr or "No space left on device" in said.stderr
        assert "stdout cannot be written" in said.stderr or "typo" in said.stderr or words == "--help"
    assert shell(place, "status | true").stderr == ""
