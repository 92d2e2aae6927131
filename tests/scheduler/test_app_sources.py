"""What people type after `arsched submit`: names, patterns, links, worktrees that tools and moves have been at."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from scheduler.actions.candidate import new_worktree
from scheduler.actions.sources import can_name_branch, name_for
from scheduler.actions.submit import Submission, SubmitRequest, last_sentence, submit
from scheduler.cli.main import main
from scheduler.domain.candidate import CandidateState
from scheduler.domain.run import RunKind
from scheduler.lab import open_workspace
from scheduler.policy.source import left_by_tools
from tests.scheduler.git_kit import git, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import PlayedLab

LEFT = (
    "uv.lock", ".venv/bin/python", "__pycache__/train.cpython-311.pyc", ".aider.chat.history.md", ".python-version",
    ".aider.tags.cache.v4/cache.db", ".ruff_cache/x", "run.log", "results.tsv", ".train.py.swp", "train.py~",
    ".DS_Store", ".claude/settings.local.json", ".gitignore",
)  # fmt: skip
AS_A_USER = ("-c", "user.name=a", "-c", "user.email=b")


@pytest.fixture
def played(tmp_path: Path) -> PlayedLab:
    return PlayedLab(tmp_path)


def send(played: PlayedLab, *paths: Path | str, **more: object) -> Submission:
    return submit(played.space, SubmitRequest(tuple(map(Path, paths)), **more))  # type: ignore[arg-type]


def worktree(played: PlayedLab, name: str, source: str) -> Path:
    path = new_worktree(played.space, name).path
    (path / "train.py").write_text(source)
    return path


def typed(played: PlayedLab, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a command typed in the main checkout."""
    monkeypatch.chdir(played.space.repo.root)
    done = CliRunner().invoke(main, list(arguments))
    return done.exit_code, done.stderr


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("идея.py", "idea"), ("a..b.py", "a.b"), ("c7.py", "idea-c7"), ("x.lock.py", "x"), ("-rf.py", "rf"),
        ("two words.py", "two-words"), ("a" * 63 + ".b.py", "a" * 63), ("$(touch x).py", "touch-x"), ("....py", "idea"),
        ("wider" + "r" * 59 + ".py", "wider" + "r" * 59), ("line\nbreak.py", "line-break"),
    ],
)  # fmt: skip
def test_a_name_made_of_a_path_can_name_a_worktree(file: str, name: str) -> None:
    assert name_for(Path(file)) == name and can_name_branch(name, longest=64)


def leave(folder: Path) -> None:
    for name in LEFT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("a") as file:
            file.write("left\n")


@pytest.mark.parametrize("committed", ["nothing", "all in one", "after train.py"])
def test_what_tools_leave_is_no_reason_to_refuse_and_does_not_travel(played: PlayedLab, committed: str) -> None:
    root = played.space.repo.root
    (root / ".git" / "info" / "exclude").write_text("")  # nothing of it is ignored
    path = worktree(played, "wider", "SCORE = 1.8\n")
    if committed == "after train.py":
        git(path, *AS_A_USER, "commit", "-qam", "three layers")
    leave(path)
    if committed != "nothing":
        git(path, "add", "--force", "--all")
        git(path, *AS_A_USER, "commit", "-qm", "three layers")
    (one,) = send(played, path).queued
    assert one.candidate is not None
    changed = git(root, "diff-tree", "-r", "--name-only", played.space.baseline_commit(), one.candidate.commit)
    assert changed == "train.py\n"
    assert one.candidate.title == ("wider" if committed == "nothing" else "three layers")
    assert (path / "uv.lock").is_file()
    played.run()
    assert played.state("wider") is CandidateState.BASELINE
    (path / "train.py").write_text("SCORE = 1.7\n")
    (again,) = send(played, path).queued
    assert again.candidate is not None
    kept = git(root, "diff-tree", "-r", "--name-only", f"{again.candidate.commit}^", again.candidate.commit)
    assert kept == "train.py\n"


def test_what_tools_leave_in_a_plain_folder_does_not_count_either(played: PlayedLab) -> None:
    folder = played.folder / "plain"
    leave(folder)
    (folder / "train.py").write_text("SCORE = 1.8\n")
    assert len(send(played, folder).queued) == 1


@pytest.mark.parametrize(
    "path",
    ["helper.py", "harness/judge.py", ".gitattributes", "pyproject.toml", "uv.lock.py", "sitecustomize.py", ".env"],
)
def test_what_could_be_meant_to_travel_is_not_taken_for_a_left_over(path: str) -> None:
    assert not left_by_tools(path)


def test_a_candidate_is_submitted_by_its_name(played: PlayedLab, monkeypatch: pytest.MonkeyPatch) -> None:
    worktree(played, "wider", "SCORE = 1.8\n")
    code, said = typed(played, monkeypatch, "submit", "wider", "candidates/wider", "--no-wait")
    assert code == 0 and said.count("c0002 wider") == 1
    shutil.rmtree(played.space.paths.candidates)
    assert [one.id for one in send(played, "wider").known] == ["c0002"]
    for ref in ("c0002", "wider"):
        (one,) = send(played, ref, again=True).queued
        assert one.candidate is not None and one.candidate.id == "c0002"
    kinds = [run.kind for run in played.space.ledger.runs.of_candidate("c0002")]
    assert kinds == [RunKind.NEW, RunKind.REPEAT, RunKind.REPEAT]


def test_a_file_of_that_name_comes_before_the_candidate(played: PlayedLab, monkeypatch: pytest.MonkeyPatch) -> None:
    worktree(played, "wider", "SCORE = 1.8\n")
    monkeypatch.chdir(played.folder)
    (played.folder / "wider").mkdir()
    (played.folder / "wider" / "train.py").write_text("SCORE = 1.75\n")
    send(played, "wider")
    assert played.space.ledger.candidates.train_py("c0002") == b"SCORE = 1.75\n"


def test_what_is_not_there_is_named_once_with_what_to_do(played: PlayedLab, monkeypatch: pytest.MonkeyPatch) -> None:
    worktree(played, "two-layers", "SCORE = 1.8\n")
    candidates = played.space.paths.candidates
    (candidates / "broken-link").symlink_to("/nowhere/at-all")
    (candidates / "empty").mkdir()
    for given, words, hint in [
        ("two-layer", "no such file", "did you mean two-layers?"),
        ("candidates/two-layer", "no such file", "did you mean candidates/two-layers?"),
        ("candidates/broken-link", "a link to /nowhere/at-all", "mend the link"),
        ("candidates/idea-*", "nothing matches this pattern", "arsched new NAME"),
        ("candidates/empty", "holds no train.py", "holds its train.py"),
        ("nowhere/x", "no such file", "there is no folder nowhere"),
    ]:
        code, said = typed(played, monkeypatch, "submit", given, "--no-wait")
        refused, hinted = said.splitlines()[:2]
        assert code != 0 and words in refused and refused.count(given) == 1, said
        assert hint in hinted and "new idea" not in said, said


def test_a_worktree_of_a_clone_that_was_moved_is_the_machines_fault_and_healed(played: PlayedLab) -> None:
    worktree(played, "a", "SCORE = 1.8\n")
    played.space.ledger.close()
    root = played.space.repo.root
    there = root.rename(root.with_name("moved here"))
    path = there / "candidates" / "a"
    with open_workspace(start=there) as space:
        done = submit(space, SubmitRequest((path, path / "train.py")))
        assert not done.refused and len(done.failed) == 2
        command = done.failed[0].hint.partition(": ")[2]
        assert "git worktree repair candidates/*/" in command
        (there / "candidates" / "README.md").touch()
        assert subprocess.run(["sh", "-c", command], capture_output=True).returncode == 0, "as it is printed"
        assert len(submit(space, SubmitRequest((path,))).queued) == 1


def test_a_worktree_of_a_copied_clone_still_belongs_to_the_first(played: PlayedLab) -> None:
    worktree(played, "a", "SCORE = 1.8\n")
    root = played.space.repo.root
    copy = shutil.copytree(root, root.with_name("copy"), symlinks=True)
    with open_workspace(start=copy) as space:
        (refusal,) = submit(space, SubmitRequest((copy / "candidates" / "a",))).refused
    assert "another repository" in refusal.reason and "repair" not in refusal.hint


def test_a_measurement_more_does_not_end_with_the_old_decision(played: PlayedLab) -> None:
    played.submit("first", "SCORE = 1.7\n")
    played.run()
    played.submit("second", "SCORE = 1.5\n")
    played.run()
    (one,) = played.submit("first", "SCORE = 1.7\n", again=True).queued
    assert one.candidate is not None
    played.run()
    assert last_sentence(played.space, one.candidate).startswith("promoted")
    assert last_sentence(played.space, one.candidate, one.verdicts) == ""
    (worse,) = played.submit("worse", "SCORE = 2.0\n").queued
    played.run()
    assert worse.candidate is not None and last_sentence(played.space, worse.candidate, worse.verdicts)
