"""Submitting: whatever a path holds, it becomes one candidate, a refusal with its reason, or a note; never a crash."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from scheduler.actions.candidate import new_worktree
from scheduler.cli.submit import is_settled
from scheduler.domain.candidate import CandidateState
from scheduler.domain.errors import NameTaken, UsageProblem
from scheduler.domain.run import RunKind
from scheduler.git import Repo
from scheduler.queue.runner import run_queue
from scheduler.queue.runtime import SchedulerLock, StopReason
from tests.scheduler.git_kit import break_every_hook, git, git_that_dies, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import BASELINE, PlayedLab, send, worktree
from tests.scheduler.ledger_kit import broken_invariants


@pytest.fixture
def played(tmp_path: Path) -> PlayedLab:
    return PlayedLab(tmp_path)


def test_a_dirty_worktree_is_committed_on_its_branch_and_its_ref_is_kept(played: PlayedLab) -> None:
    path = worktree(played, "wider", "SCORE = 1.8\n")
    (one,) = send(played, path).queued
    assert one.candidate is not None
    commit = one.candidate.commit
    assert git(path, "rev-parse", "HEAD").strip() == commit
    assert git(path, "status", "--porcelain") == ""
    assert git(played.space.repo.root, "rev-parse", "refs/arsched/t/c0002").strip() == commit
    assert one.candidate.base_id == "c0001"
    assert played.space.ledger.candidates.train_py("c0002") == b"SCORE = 1.8\n"


def test_a_commit_of_ones_own_gives_the_title(played: PlayedLab) -> None:
    path = worktree(played, "wider", "SCORE = 1.8\n")
    git(path, "-c", "user.name=a", "-c", "user.email=b", "commit", "-qam", "twice the width\n\nand a long story")
    (one,) = send(played, path).queued
    assert one.candidate is not None and one.candidate.title == "twice the width"


def test_a_folder_and_a_file_are_candidates_on_the_baseline(played: PlayedLab) -> None:
    folder = played.folder / "plain"
    folder.mkdir()
    (folder / "train.py").write_text("SCORE = 1.81\n")
    (folder / "NOTES.md").write_text("what I thought\n")
    file = played.folder / "from scratch!.py"
    file.write_text("SCORE = 1.82\n")
    queued = send(played, folder, file, played.folder / "plain" / "train.py").queued
    assert [one.name for one in queued] == ["plain", "from-scratch"]
    root = played.space.repo.root
    for one in queued:
        assert one.candidate is not None
        parent = git(root, "rev-parse", f"{one.candidate.commit}~1").strip()
        assert parent == played.space.baseline_commit()
        assert git(root, "diff", "--name-only", parent, one.candidate.commit).split() == ["train.py"]


def test_only_the_bad_ones_are_refused(played: PlayedLab) -> None:
    def file(name: str, data: bytes) -> Path:
        path = played.folder / name
        path.write_bytes(data)
        return path

    bad = {
        "empty.py": (b"", "empty"),
        "syntax.py": (b"x = (\n", "does not parse"),
        "latin.py": (b"# caf\xe9\nx = 1\n", "not UTF-8"),
        "nul.py": (b"x = 1\0\n", "NUL"),
        "huge.py": (b"x = 1\n" * 40_000, "240,000 bytes"),
    }
    paths = [file(name, data) for name, (data, _) in bad.items()]
    good = file("good.py", b"SCORE = 1.8\n")
    done = send(played, *paths, good, played.folder / "godo.py", played.folder)
    assert [one.name for one in done.queued] == ["good"]
    reasons = {refusal.path.name: refusal for refusal in done.refused}
    for name, (_, words) in bad.items():
        assert words in reasons[name].reason
    assert "good.py" in reasons["godo.py"].hint
    assert "no train.py" in reasons[played.folder.name].reason
    assert all(refusal.hint for refusal in done.refused)
    assert not done.matched_nothing


def test_what_cannot_be_read_is_refused(played: PlayedLab) -> None:
    fifo = played.folder / "pipe" / "train.py"
    fifo.parent.mkdir()
    os.mkfifo(fifo)
    dangling = played.folder / "dangling.py"
    dangling.symlink_to(played.folder / "nowhere")
    done = send(played, fifo.parent, dangling)
    assert len(done.refused) == 2 and not done.queued


def test_notes_next_to_the_candidates_are_skipped(played: PlayedLab) -> None:
    readme = played.folder / "README.md"
    readme.write_text("candidates\n")
    done = send(played, readme)
    assert done.matched_nothing and len(done.skipped) == 1
    assert send(played, played.folder / "gone").matched_nothing


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: (path / "harness" / "judge.py").write_text("SCORE = 0\n"),
        lambda path: (path / "helper.py").write_text("x = 1\n"),
        lambda path: (path / "README.md").unlink(),
    ],
)
@pytest.mark.parametrize("committed", [False, True])
def test_a_change_outside_train_py_is_refused_committed_or_not(
    played: PlayedLab, harm: object, committed: bool
) -> None:
    path = worktree(played, "sly", "SCORE = 0.1\n")
    harm(path)  # type: ignore[operator]
    if committed:
        git(path, "add", "-A")
        git(path, "-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "nothing to see")
    before = git(path, "rev-parse", "HEAD")
    (refusal,) = send(played, path).refused
    assert "also changes" in refusal.reason
    assert git(path, "rev-parse", "HEAD") == before
    assert len(played.space.ledger.candidates.list("t")) == 1


def test_code_next_to_train_py_in_a_plain_folder_is_refused(played: PlayedLab) -> None:
    folder = played.folder / "plain"
    (folder / "harness").mkdir(parents=True)
    (folder / "train.py").write_text("SCORE = 1.8\n")
    (refusal,) = send(played, folder).refused
    assert "harness" in refusal.reason


def test_the_same_thing_again_is_known_and_nothing_is_queued_twice(played: PlayedLab) -> None:
    path = worktree(played, "wider", "SCORE = 1.8\n")
    send(played, path)
    again = send(played, path, path)
    assert [candidate.id for candidate in again.known] == ["c0002"] and not again.queued
    assert len(played.space.ledger.runs.of_candidate("c0002")) == 1


def test_another_name_for_the_same_program_is_refused_naming_the_first_and_its_result(played: PlayedLab) -> None:
    played.submit("first", "SCORE = 2.0  # an idea\n")
    played.run()
    (refusal,) = played.submit("second", "# the same idea\nSCORE   =  2.0\n").refused
    assert "c0002 first" in refusal.reason and "discarded, val_bpb" in refusal.reason
    (refusal,) = played.submit("copy", BASELINE).refused
    assert "c0001 baseline" in refusal.reason


def test_twice_the_same_program_in_one_command_is_one_candidate(played: PlayedLab) -> None:
    for name in ("a", "b"):
        (played.folder / f"{name}.py").write_text("SCORE = 1.8\n")
    paths = (played.folder / "a.py", played.folder / "b.py")
    assert [len(send(played, *paths, dry_run=True).queued), len(send(played, *paths).queued)] == [1, 1]


def test_an_edit_under_an_old_name_gets_a_number(played: PlayedLab) -> None:
    path = worktree(played, "wider", "STATUS = 'crash'\n")
    send(played, path)
    played.run()
    (path / "train.py").write_text("SCORE = 1.8\n")
    (one,) = send(played, path).queued
    assert one.name == "wider-2" and "c0002 (failed)" in one.note
    assert send(played, path).known[0].name == "wider-2"


@pytest.mark.parametrize(
    ("source", "state"),
    [("SCORE = 2.0\n", CandidateState.CONTENDER), ("STATUS = 'crash'\n", CandidateState.OPEN)],
)
def test_again_measures_once_more_and_opens_the_case_again(
    played: PlayedLab, source: str, state: CandidateState
) -> None:
    played.submit("idea", source)
    played.run()
    decided = played.state("idea")
    (one,) = played.submit("idea", source, again=True).queued
    assert one.candidate is not None and one.candidate.state is state
    played.run()
    assert played.state("idea") is decided
    runs = played.space.ledger.runs.of_candidate("c0002")
    assert [run.kind for run in runs] == [RunKind.NEW, RunKind.REPEAT]
    assert not broken_invariants(played.space.paths.ledger)


def test_again_on_the_baseline_is_one_more_of_its_runs(played: PlayedLab) -> None:
    played.run()
    played.submit("baseline", BASELINE, again=True)
    played.run()
    assert len(played.space.ledger.board("t").baseline.scores) == 4


def test_a_dry_run_changes_nothing(played: PlayedLab) -> None:
    path = worktree(played, "wider", "SCORE = 1.8\n")
    before = git(path, "status", "--porcelain"), git(path, "rev-parse", "HEAD")
    done = send(played, path, dry_run=True)
    assert [one.name for one in done.queued] == ["wider"] and done.candidates == ()
    assert (git(path, "status", "--porcelain"), git(path, "rev-parse", "HEAD")) == before
    assert len(played.space.ledger.candidates.list("t")) == 1


def test_a_candidate_keeps_the_baseline_it_was_made_from(played: PlayedLab) -> None:
    late = worktree(played, "late", "SCORE = 1.85\n")
    played.submit("better", "SCORE = 1.5\n")
    played.run()
    fresh = worktree(played, "fresh", "SCORE = 1.4\n")
    bases = {one.name: one.candidate.base_id for one in send(played, late, fresh).queued if one.candidate}
    assert bases == {"late": "c0001", "fresh": "c0002"}


def test_the_users_own_checkout_is_read_and_never_committed_to(played: PlayedLab) -> None:
    root = played.space.repo.root
    head = git(root, "rev-parse", "HEAD")
    (root / "train.py").write_text("SCORE = 1.8\n")
    (one,) = send(played, root).queued
    assert git(root, "rev-parse", "HEAD") == head
    assert git(root, "status", "--porcelain").split() == ["M", "train.py"]
    assert one.candidate is not None


def test_a_refusing_hook_of_the_user_does_not_stop_a_submission(played: PlayedLab) -> None:
    break_every_hook(played.space.repo.root)
    path = worktree(played, "wider", "SCORE = 1.8\n")
    assert len(send(played, path).queued) == 1


def test_an_edit_in_the_moment_of_submitting_is_not_taken_for_what_was_checked(
    played: PlayedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = worktree(played, "restless", "SCORE = 1.8\n")
    commit = Repo.commit_worktree

    def edit_first(repo: Repo, folder: Path, message: str) -> tuple[str, bytes]:
        (folder / "train.py").write_text("SCORE = \n")
        return commit(folder, message)

    monkeypatch.setattr(Repo, "commit_worktree", edit_first)
    assert len(send(played, path).refused) == 1
    assert len(played.space.ledger.candidates.list("t")) == 1


@pytest.mark.parametrize("name", ["", ".hidden", "a b", "../up", "c7", "r12", "last", "x.lock", "a..b", "-flag", "ü"])
def test_a_name_that_cannot_be_one_is_refused(played: PlayedLab, name: str) -> None:
    with pytest.raises(UsageProblem):
        new_worktree(played.space, name)
    assert not played.space.paths.candidates.exists()


def test_a_folder_that_is_there_is_not_touched(played: PlayedLab) -> None:
    path = worktree(played, "wider", "SCORE = 1.8\n")
    with pytest.raises(NameTaken, match="exists already"):
        new_worktree(played.space, "wider")
    assert (path / "train.py").read_text() == "SCORE = 1.8\n"


def test_an_earlier_idea_of_that_name_is_not_taken_up_by_accident(played: PlayedLab) -> None:
    path = worktree(played, "wider", "SCORE = 1.8\n")
    send(played, path)
    shutil.rmtree(path)
    with pytest.raises(NameTaken, match="earlier idea") as raised:
        new_worktree(played.space, "wider")
    assert "git worktree add" in raised.value.hint and not path.exists()


def test_files_named_like_ids_get_a_name_of_their_own(played: PlayedLab) -> None:
    (one,) = played.submit("c0001", "SCORE = 1.8\n").queued
    assert one.name == "idea-c0001"


@pytest.mark.parametrize("committed", [False, True])
def test_a_worktree_with_foreign_line_ends_becomes_a_normalised_candidate(played: PlayedLab, committed: bool) -> None:
    path = worktree(played, "windows")
    (path / "train.py").write_bytes(b"\xef\xbb\xbfSCORE = 1.8\r\nDEPTH = 3\r\n")
    if committed:
        git(path, "-c", "user.name=a", "-c", "user.email=b", "commit", "-qam", "from a Windows editor")
    (one,) = send(played, path).queued
    assert one.candidate is not None
    plain, repo = b"SCORE = 1.8\nDEPTH = 3\n", played.space.repo
    assert played.space.ledger.candidates.train_py(one.candidate.id) == plain
    assert repo.read(one.candidate.commit, "train.py") == plain
    assert git(repo.root, "rev-parse", f"{one.candidate.commit}^").strip() == played.space.baseline_commit()
    assert send(played, path).known == (one.candidate,)
    played.run()
    assert repo.read(played.space.baseline_commit(), "train.py") == plain, "promoted, it is the same"


def test_a_source_is_parsed_once(played: PlayedLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the bytes that were submitted; once more where git holds others (line ends, for one)."""
    dirty, file = worktree(played, "wider", "SCORE = 1.8\n"), played.folder / "plain.py"
    file.write_text("SCORE = 1.81\n")
    parsed, parse = [], ast.parse
    monkeypatch.setattr(ast, "parse", lambda *args, **more: parsed.append(args) or parse(*args, **more))
    assert len(send(played, dirty, file).queued) == len(parsed) == 2


def git_commands(played: PlayedLab, monkeypatch: pytest.MonkeyPatch, *paths: Path) -> list[str]:
    """The git commands of a submit; programs that are started otherwise count as well."""
    commands: list[str] = []
    started = subprocess.Popen.__init__

    def note(self: subprocess.Popen[bytes], command: list[str], *args: object, **more: object) -> None:
        commands.append(" ".join(command))
        started(self, command, *args, **more)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", note)
        assert len(send(played, *paths).queued) == len(paths)
    return commands


def test_a_submit_costs_a_few_git_commands_however_many_baselines_there_were(
    played: PlayedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    played.submit("better", "SCORE = 1.7\n")
    played.run()
    assert len(played.space.lineage()) == 2
    dirty, committed = worktree(played, "dirty", "SCORE = 1.6\n"), worktree(played, "committed", "SCORE = 1.5\n")
    git(committed, "-c", "user.name=a", "-c", "user.email=b", "commit", "-qam", "an idea")
    file = played.folder / "plain.py"
    file.write_text("SCORE = 1.81\n")
    for path in (dirty, committed, file):
        commands = git_commands(played, monkeypatch, path)
        assert 0 < len(commands) <= 11, commands


def test_a_submit_without_paths_is_settled_when_everything_is(played: PlayedLab) -> None:
    """While another process runs the queue it watches until then."""
    played.submit("idea", "SCORE = 1.8\n")
    assert not is_settled(played.space, ())
    other = SchedulerLock(played.space.paths.scheduler_lock)
    assert other.try_take()
    looks = 0

    def run_at_the_third_look() -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:
            other.release()
            played.run()
            assert other.try_take()
        return is_settled(played.space, ())

    assert run_queue(played.space, played.screen, played.means, run_at_the_third_look) is StopReason.DONE
    assert looks == 3 and is_settled(played.space, ())
    other.release()
