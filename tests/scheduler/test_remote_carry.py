"""What is carried to a head's repository: the very bytes, once, whole after any kill, never into a local lab."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.actions.submit import SubmitRequest, submit
from scheduler.domain.errors import ArschedError, GitProblem, LabProblem
from scheduler.git import Repo
from scheduler.lab import LabPaths, open_workspace
from scheduler.remote.carry import RemoteLab
from scheduler.remote.wire import decode, encode, translate
from tests.scheduler.git_kit import TRAIN, git, git_that_dies, no_configuration  # noqa: F401
from tests.scheduler.lab_kit import BASELINE
from tests.scheduler.two_machines_kit import IDEA, LOGIN, TwoMachines


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoMachines:
    return TwoMachines(tmp_path, monkeypatch)


def test_the_repository_is_named_by_folder_and_first_commit(two: TwoMachines) -> None:
    first = git(two.root, "rev-list", "--max-parents=0", "HEAD").strip()
    assert two.lab.name == f"my-lab-rm--rf-x-{first[:12]}"
    state = two.lab.look(None, make=True)
    assert state.made and Path(state.root) == two.there and not two.lab.look(None, make=True).made
    git(two.root, "commit", "-q", "--allow-empty", "-m", "later")
    assert RemoteLab.of(LOGIN, Repo.open(two.root)).name == two.lab.name


@pytest.mark.parametrize(
    "name", ["../../x-0123456789ab", "x", "-x-0123456789ab", "a b-0123456789ab", ".-0123456789ab", ""]
)
def test_no_name_leads_out_of_the_folder_for_labs(two: TwoMachines, name: str) -> None:
    lab = replace(two.lab, name=name)
    with pytest.raises(ArschedError, match="names no repository"):
        lab.look(None, make=True)
    assert not (two.home / "labs").exists()


def test_without_a_lab_there_it_says_how_to_make_one(two: TwoMachines) -> None:
    with pytest.raises(ArschedError, match="no lab of this repository yet") as problem:
        two.lab.look(None, make=False)
    assert "arsched init" in problem.value.hint and not two.there.exists()
    two.lab.look(None, make=True)
    assert isinstance(two.lab.look(None, make=False).problem, LabProblem)


def test_head_is_checked_out_there_and_follows(two: TwoMachines) -> None:
    state = two.lab.look(None, make=True)
    two.lab.send(state, [], two.lab.repo.head_commit())
    assert (two.there / "train.py").read_bytes() == TRAIN
    (two.root / "train.py").write_bytes(b"DEPTH = 5\n")
    git(two.root, "commit", "-qam", "deeper")
    two.lab.send(two.lab.look(None, make=True), [], two.lab.repo.head_commit())
    assert (two.there / "train.py").read_bytes() == b"DEPTH = 5\n"
    assert git(two.there, "rev-parse", "HEAD") == git(two.root, "rev-parse", "HEAD")
    (two.there / "train.py").write_bytes(b"DEPTH = 6\n")  # a person at work on the head
    (two.root / "train.py").write_bytes(b"DEPTH = 7\n")
    git(two.root, "commit", "-qam", "deeper still")
    with pytest.raises(ArschedError, match=r"train\.py"):
        two.lab.send(two.lab.look(None, make=True), [], two.lab.repo.head_commit())
    assert (two.there / "train.py").read_bytes() == b"DEPTH = 6\n"


def test_every_kind_of_candidate_arrives_with_its_bytes_and_its_base(two: TwoMachines) -> None:
    state = two.make_lab()
    base = state.lineage[-1][1]
    edited, committed = two.worktree("edited"), two.worktree("committed", b"SCORE = 1.7  # \xc3\xa4\n")
    git(committed, "-c", "user.name=a", "-c", "user.email=b@c", "commit", "-qam", "a title of its own")
    file, folder = two.root / "candidates" / "a file.py", two.root / "candidates" / "plain"
    file.write_bytes(b"SCORE = 1.6\n")
    folder.mkdir()
    (folder / "train.py").write_bytes(b"SCORE = 1.5\n")
    carried, done, stored = two.submit(edited, committed, file, folder)
    assert not done.refused and not done.failed and not done.skipped
    assert stored == {
        "baseline": BASELINE.encode(), "edited": IDEA, "committed": (committed / "train.py").read_bytes(),
        "a-file": b"SCORE = 1.6\n", "plain": b"SCORE = 1.5\n",
    }  # fmt: skip
    assert [one.candidate.base_id for one in done.queued] == ["c0001"] * 4
    assert [one.candidate.title for one in done.queued] == ["edited", "a title of its own", "a-file", "plain"]
    assert set(carried.paths.values()) == {str(path) for path in (edited, committed, file, folder)}
    for one in done.queued:
        assert git(two.there, "rev-parse", f"{one.candidate.commit}^").strip() == base
        assert git(two.there, "diff", "--name-only", base, one.candidate.commit).split() == ["train.py"]
    assert git(edited, "rev-parse", "HEAD").strip() == done.queued[0].candidate.commit


def test_an_older_baseline_stays_the_base(two: TwoMachines) -> None:
    two.make_lab()
    early = two.worktree("early", b"SCORE = 1.75\n")
    with open_workspace(None, two.there) as space:
        first = space.lineage()[-1][1]
        new = space.repo.commit_train_py(first, b"SCORE = 1.85\n", "promoted", {})
    lineage = (("c0001", first), ("c0002", new))
    git(two.there, "update-ref", "refs/heads/autoresearch/t", new)
    two.fetched()
    file = two.lab.carry(SubmitRequest((early,)), lineage)
    assert git(two.root, "rev-parse", f"{file.commits[0]}^").strip() == first


def test_twice_the_same_makes_nothing_twice(two: TwoMachines) -> None:
    two.make_lab()
    place, file = two.worktree("wider"), two.root / "idea.py"
    file.write_bytes(b"SCORE = 1.6\n")
    _, first, stored = two.submit(place, file)
    _, second, again = two.submit(place, file)
    assert len(first.queued) == 2 and not second.queued and [one.id for one in second.known] == ["c0002", "c0003"]
    assert stored == again
    assert len(git(two.root, "log", "--format=%H", "main..arsched/t/wider").split()) == 2  # baseline and candidate


def test_what_is_refused_here_goes_nowhere_and_the_rest_does(two: TwoMachines) -> None:
    two.make_lab()
    good, other, broken = two.worktree("good"), two.worktree("other"), two.root / "broken.py"
    (other / "README.md").write_text("changed as well\n")
    broken.write_text("def f(:\n")
    (two.root / "notes.txt").write_text("x")
    carried, done, _ = two.submit(good, other, broken, two.root / "notes.txt", Path("no/such.py"), Path("c0001"))
    assert len(carried.commits) == 1 and [one.name for one in done.queued] == ["good"]
    assert [one.id for one in done.known] == ["c0001"], "a word that is no path here is the head's"
    assert {refusal.path.name for refusal in carried.rest.refused} == {"other", "broken.py", "such.py"}
    assert carried.rest.skipped and not carried.rest.failed


def test_a_dry_run_leaves_the_worktree_as_it_is(two: TwoMachines) -> None:
    two.make_lab()
    place = two.worktree("wider")
    before = git(place, "rev-parse", "HEAD"), git(place, "status", "--porcelain")
    _, done, stored = two.submit(place, dry_run=True)
    assert (git(place, "rev-parse", "HEAD"), git(place, "status", "--porcelain")) == before
    assert [one.name for one in done.queued] == ["wider"] and list(stored) == ["baseline"]


def test_a_candidate_of_the_longest_name_is_carried(two: TwoMachines) -> None:
    two.make_lab()
    file = two.root / f"c{'1' * 70}.py"  # it reads like an id, so that idea- comes before it
    file.write_bytes(IDEA)
    carried, done, _ = two.submit(file)
    assert carried.words and [one.name for one in done.queued] == [f"idea-c{'1' * 58}"]


def test_a_repository_there_is_whole_or_not_there(two: TwoMachines) -> None:
    (two.there / ".git").mkdir(parents=True)  # `git init` was killed, or its disk was full
    (two.there / ".git" / "HEAD").write_text("ref: refs/heads/laptop\n")
    state = two.lab.look(None, make=True)
    assert state.made and two.make_lab().tag == "t"
    assert not two.lab.look(None, make=True).made and len(list(two.there.parent.iterdir())) == 1


def steps(two: TwoMachines, place: Path) -> None:
    """All git commands of a session, here and there: from nothing to a candidate that is queued and fetched."""
    if problem := two.lab.look(None, make=True).problem:
        raise problem
    _, done, _ = two.submit(place)
    assert not done.failed, done.failed
    two.fetched()


def test_killed_at_any_git_command_and_repeated_it_goes_on(
    two: TwoMachines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    two.make_lab()
    place = two.worktree("wider")
    die_at = git_that_dies(tmp_path, monkeypatch)
    deaths = 0
    for number in range(1, 100):
        die_at(number)
        try:
            steps(two, place)
        except (ArschedError, AssertionError):
            deaths += 1
        else:
            break
    assert 5 < deaths < 99
    die_at(0)
    steps(two, place)
    with open_workspace(None, two.there) as space:
        assert two.stored(space) == {"baseline": BASELINE.encode(), "wider": IDEA}
        assert len(space.ledger.runs.of_candidate("c0002")) == 1
    assert git(two.root, "rev-parse", "refs/cluster/ubuntu@10.99.0.11/candidates/t/c0002")


def test_a_shallow_clone_is_refused_in_words(two: TwoMachines) -> None:
    git(two.root, "commit", "-q", "--allow-empty", "-m", "later")
    clone = two.folder / "clone"
    git(two.folder, "clone", "-q", "--depth", "1", f"file://{two.root}", str(clone))
    with pytest.raises(GitProblem, match="shallow clone") as problem:
        RemoteLab.of(LOGIN, Repo.open(clone)).look(None, make=True)
    assert "git fetch --unshallow" in problem.value.hint
    assert not (two.home / "labs").exists(), "by another name than the whole clone would have"


def test_what_a_dry_run_makes_there_is_dropped_and_nothing_else(two: TwoMachines) -> None:
    two.make_lab()
    labs, names = two.home / "labs", ("a" * 16, "b" * 16, "c" * 16)
    for name in names:
        lab = two.lab.for_a_dry_run(name)
        lab.send(lab.look(None, make=True), [], lab.repo.head_commit())
    own = labs / "dry-run-x-0123456789ab"  # of a folder that a person calls so
    own.mkdir()
    left, fresh = (labs / two.lab.for_a_dry_run(name).name for name in names[1:])
    for place in (left, own):
        os.utime(place, (1, 1))
    two.lab.for_a_dry_run(names[0]).ask("drop")
    assert {*labs.iterdir()} == {two.there, own, fresh}, "a lost link's are dropped a day later"
    two.lab.ask("drop")
    assert (two.there / "train.py").is_file()


ODD = (
    *("é è", "-x", "a'b\"c", ".hidden", "名前", "two\nlines", "\udcff", "$(touch evil)", "c0001", "*"),
    *("x" * 200, "a:b", "%", " ", "~"),
)


def test_files_of_odd_names_arrive_and_are_called_here_what_they_are_called_here(two: TwoMachines) -> None:
    two.make_lab()
    files = [two.root / f"{name}.py" for name in ODD]
    for number, file in enumerate(files):
        file.write_bytes(b"SCORE = 2.%d1\n" % number)
    carried, done, stored = two.submit(*files)
    assert not carried.rest.refused and not carried.rest.failed and len(done.queued) == len(ODD)
    assert sorted(stored.values()) == sorted([BASELINE.encode(), *(file.read_bytes() for file in files)])
    assert set(carried.paths.values()) == set(map(str, files))
    said = encode({"ask": "run", "spelt": carried.paths, "words": list(carried.words)})
    spelt = decode(said)["spelt"]
    for word, file in zip(carried.words, files, strict=True):
        assert translate(f"queued {word} at last", spelt) == f"queued {file} at last"


def test_two_laptops_submit_at_once(two: TwoMachines) -> None:
    two.make_lab()
    clone = two.folder / "clone"
    git(two.folder, "clone", "-q", str(two.root), str(clone))
    other = replace(two.lab, repo=Repo.open(clone), paths=LabPaths(clone))
    ready = threading.Barrier(2)

    def carry(lab: RemoteLab, number: int) -> None:
        state = lab.look(None, make=False)
        lab.fetch(state)
        file = lab.repo.root / f"idea{number}.py"
        file.write_bytes(b"SCORE = 1.%d\n" % number)
        carried = lab.carry(SubmitRequest((file,)), state.lineage)
        ready.wait(60)
        lab.send(state, carried.commits)
        words.extend(carried.words)

    words: list[str] = []
    laptops = [threading.Thread(target=carry, args=(lab, number)) for number, lab in enumerate((two.lab, other))]
    for laptop in laptops:
        laptop.start()
    for laptop in laptops:
        laptop.join()
    with open_workspace(None, two.there) as space:
        done = submit(space, SubmitRequest(tuple(map(Path, words))))
        assert sorted(two.stored(space).values()) == [b"SCORE = 1.0\n", b"SCORE = 1.1\n", BASELINE.encode()]
    assert not done.failed and not done.refused
