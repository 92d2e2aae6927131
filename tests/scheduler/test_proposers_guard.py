"""An agent's command can change its own worktree, and nothing of the installation, the lab or other worktrees."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.sandbox.levels import levels_here
from scheduler.domain.search import ProposerChoice
from scheduler.proposers.guard import view_of
from scheduler.proposers.process import EndKind, ManagedProcess
from scheduler.queue.runtime import Runtime
from scheduler.search import options
from tests.waiting import wait_until

HERE = levels_here()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two worktrees, a ledger and a cache with rows."""
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache/tiny/judge").mkdir(parents=True)
    (tmp_path / "cache/tiny/judge/val.u16").write_text("rows")
    (tmp_path / "repo/.arsched").mkdir(parents=True)
    (tmp_path / "repo/.git/arsched").mkdir(parents=True)
    (tmp_path / "repo/.git/arsched/ledger.db").write_text("truth")
    (tmp_path / "repo/train.py").write_text("x = 1\n")
    for command in (
        "init -q -b main", "add train.py", "-c user.name=a -c user.email=a@b commit -qm first",
        "worktree add -q --detach .arsched/own", "worktree add -q --detach ../other",
    ):  # fmt: skip
        subprocess.run(["git", *command.split()], cwd=tmp_path / "repo", check=True)
    return tmp_path


def run(lab: Path, level: str, command: str) -> tuple[EndKind, int, str, str]:
    own = lab / "repo/.arsched/own"
    view = view_of(lab / "repo", own, level)
    process = ManagedProcess(["/bin/sh", "-c", command], log=lab / "log", folder=own, view=view)
    wait_until(lambda: process.poll() is not None, "its end")
    end = process.end()
    return end.how, end.code, end.problem, process.printed()


ATTACKS = {
    "the ledger": "echo lie > {lab}/repo/.git/arsched/ledger.db",
    "a new file in the lab": "touch {lab}/repo/.arsched/planted",
    "the user's checkout": "echo 'x = 2' > {lab}/repo/train.py",
    "another worktree": "touch {lab}/other/planted",
    "a hook": "touch {lab}/repo/.git/hooks/post-commit",
    "git's configuration": "git config core.fsmonitor evil",
    "a branch": "git update-ref refs/heads/main HEAD~0 && git branch planted",
    "rows of a cache": "echo lie > {lab}/cache/tiny/judge/val.u16",
    "a file next to the rows": "touch {lab}/cache/tiny/planted",
    "the harness": "touch {harness}/planted.py",
    "the interpreter's packages": "touch {site}/planted.pth",
}


@pytest.mark.parametrize("level", ["full", "weak"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_what_is_not_its_own_stays_as_it_is(lab: Path, level: str, attack: str) -> None:
    if HERE[level]:
        pytest.skip(str(HERE[level]))
    import harness

    code_folder, site = Path(harness.__file__).parent, Path(pytest.__file__).parents[1]
    command = attack.format(lab=lab, harness=code_folder, site=site)
    how, code, problem, printed = run(lab, level, command)
    for planted in (code_folder / "planted.py", site / "planted.pth"):
        planted.unlink(missing_ok=True)
    assert (how, problem) == (EndKind.EXIT, "")
    assert code != 0, printed


def test_without_a_view_the_same_attack_succeeds(lab: Path) -> None:
    """Else the test above could not fail."""
    assert run(lab, "off", ATTACKS["the ledger"].format(lab=lab))[1] == 0
    assert "lie" in (lab / "repo/.git/arsched/ledger.db").read_text()


@pytest.mark.parametrize("level", ["full", "weak"])
def test_its_own_worktree_home_and_commits_work(lab: Path, level: str) -> None:
    if HERE[level]:
        pytest.skip(str(HERE[level]))
    commit = "git -c user.name=a -c user.email=a@b commit -qam mine && git log -1 --format=%s"
    how, code, problem, printed = run(lab, level, f"echo 'x = 3' > train.py && touch new && {commit}")
    assert (how, code, problem) == (EndKind.EXIT, 0, ""), printed
    assert "mine" in printed
    assert (lab / "repo/.arsched/own/train.py").read_text() == "x = 3\n"


def test_rows_of_every_cache_are_out_of_sight(lab: Path) -> None:
    if HERE["full"]:
        pytest.skip(str(HERE["full"]))
    _, code, _, printed = run(lab, "full", f"ls -A {lab}/cache/tiny/judge; cat {lab}/repo/.git/arsched/ledger.db")
    assert (code, printed.strip()) == (0, "truth")


def test_an_agents_level_is_its_labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(options, "make", lambda choice, setup: made.append(setup))
    paths = SimpleNamespace(proposals=tmp_path)
    space = SimpleNamespace(repo=SimpleNamespace(root=tmp_path), paths=paths, lab=SimpleNamespace(sandbox="weak"))
    settings = SimpleNamespace(proposers=(ProposerChoice("agent", 1.0),), seed=0)
    options.make_proposers(space, settings, Runtime(), print)  # type: ignore[arg-type]
    assert [setup.sandbox for setup in made] == ["weak"]
