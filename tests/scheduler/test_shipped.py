"""What ships with the packages, the repository that an empty folder becomes, and the versions that are locked."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scheduler import shipped
from scheduler.cli.main import main
from scheduler.domain.errors import LabProblem
from scheduler.shipped import SHIPPED, begin_repository, may_begin, shipped_folder

CHECKOUT = Path(__file__).resolve().parents[2]


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_a_checkout_ships_its_own_files() -> None:
    assert shipped_folder() == CHECKOUT


def fake_install(monkeypatch: pytest.MonkeyPatch, folder: Path, names: tuple[str, ...]) -> Path:
    """An installed wheel whose files below share/arsched are these, and packages that lie elsewhere."""

    class File(type(Path())):  # type: ignore[misc]
        def locate(self) -> Path:
            return folder / self

    share = Path("share") / "arsched"
    for name in names:
        path = folder / share / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.setattr(shipped, "CODE_ROOT", folder / "site-packages")
    monkeypatch.setattr(shipped.metadata, "files", lambda name: [File(share / one) for one in names])
    return folder / share


def test_a_wheel_ships_them_below_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fake_install(monkeypatch, tmp_path, SHIPPED) == shipped_folder()


@pytest.mark.parametrize("names", [(), SHIPPED[1:], SHIPPED[:1]])
def test_an_installation_without_them_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    fake_install(monkeypatch, tmp_path, names)
    with pytest.raises(LabProblem, match=r"has no train\.py") as raised:
        shipped_folder()
    assert "pip install" in raised.value.hint


def test_the_wheel_carries_what_a_repository_begins_with() -> None:
    data = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    carried = {f"{folder}/{Path(name).name}" for folder, names in data.items() for name in names}
    assert carried == {f"share/arsched/{name}" for name in SHIPPED}


def test_an_empty_folder_becomes_a_repository_that_is_clean(tmp_path: Path) -> None:
    assert may_begin(tmp_path)
    begin_repository(tmp_path)
    assert git(tmp_path, "status", "--porcelain") == ""
    assert sorted(git(tmp_path, "ls-files").split()) == sorted([".gitignore", *SHIPPED])
    assert (tmp_path / "train.py").read_bytes() == (CHECKOUT / "train.py").read_bytes()
    assert not may_begin(tmp_path)


def test_other_folders_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert not may_begin(tmp_path / "full")
    git(tmp_path, "init", "--quiet")
    (tmp_path / "inside").mkdir()
    assert not may_begin(tmp_path / "inside")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a cache elsewhere in which nothing is prepared."""
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "empty"


def init(*words: str) -> Result:
    return CliRunner().invoke(main, ["init", "--no-wait", "--sandbox", "off", *words])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tag", "a b"), "cannot be a tag"),
        (("--contract", "cpuu"), "no contract 'cpuu'"),
        (("--contract", "standard"), "arsched prepare --contract standard"),
        (("--train", "gone.py"), "no such file"),
    ],
)
def test_a_refused_init_leaves_an_empty_folder_empty(empty: Path, words: tuple[str, ...], said: str) -> None:
    refused = init(*words)
    assert refused.exit_code in (1, 2) and said in refused.output
    assert not any(empty.iterdir())


@pytest.mark.parametrize("code", [1, 130])
def test_in_an_empty_folder_the_cache_comes_first_and_nothing_without_it(
    empty: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    run: list[list[str]] = []
    monkeypatch.setattr("scheduler.cli.prepare.run_program", lambda command: run.append(command) or code)
    assert init().exit_code == code
    (command,) = run
    assert "harness.prepare" in command and command[command.index("--contract") + 1] == "cpu"
    assert not any(empty.iterdir())
    assert init("--dry-run").exit_code == 1 and len(run) == 1


def test_uv_and_pip_install_the_same_versions() -> None:
    lock = tomllib.loads((CHECKOUT / "uv.lock").read_text())["package"]
    locked = {one["name"]: one["version"] for one in lock if "version" in one}
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    pinned = [line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#")]
    assert {name: locked.get(name) for name, _ in pinned} == dict(pinned)
