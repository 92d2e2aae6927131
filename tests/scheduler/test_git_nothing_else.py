"""A repository whose configuration and attributes name programs for everything: scheduler/git runs none of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from scheduler.domain.errors import ArschedError, GitProblem
from scheduler.git import Repo, begin_empty, create_repo, git_version
from scheduler.git.nothing_else import drivers_off
from tests.scheduler.git_kit import TRAIN, git, make_repository, no_configuration  # noqa: F401

HOOKS = (
    "pre-commit",
    "post-commit",
    "post-checkout",
    "reference-transaction",
    "post-index-change",
    "fsmonitor-watchman",
)
ATTRIBUTES = "* filter=evil diff=evil merge=evil\n*.py filter=na.me\n"


class Hostile:
    """A repository in which every program that git could start leaves a file in `marks`."""

    def __init__(self, folder: Path) -> None:
        self.marks = folder / "marks"
        self.marks.mkdir()
        self.root = make_repository(folder / "repository")
        git(self.root, "commit", "--allow-empty", "-qm", "second")
        self.idea = self.root / "candidates" / "idea"
        git(self.root, "worktree", "add", "-q", "-b", "idea", str(self.idea))
        self.repo = Repo.open(self.root)
        self.old, self.new = (git(self.root, "rev-parse", name).strip() for name in ("HEAD~1", "HEAD"))
        self.poison()

    def program(self, name: str) -> str:
        path = self.marks.parent / f"evil-{name}"
        path.write_text(f"#!/bin/sh\ntouch {self.marks}/{name}\nexit 1\n")
        path.chmod(stat.S_IRWXU)
        return str(path)

    def poison(self) -> None:
        evil = self.program
        settings = {
            "core.fsmonitor": evil("fsmonitor"), "core.hooksPath": str(self.hooks()), "core.sshCommand": evil("ssh"),
            "core.pager": evil("pager"), "core.editor": evil("editor"), "core.askPass": evil("askpass"),
            "core.alternateRefsCommand": evil("alternate"), "credential.helper": evil("credential"),
            "diff.external": evil("external"), "gpg.program": evil("gpg"), "commit.gpgSign": "true",
            "log.showSignature": "true", "sequence.editor": evil("sequence"), "pager.log": evil("log-pager"),
            "submodule.recurse": "true", "extensions.partialClone": "origin", "remote.origin.url": f"{self.root}/.git",
            "remote.origin.promisor": "true", "remote.origin.uploadpack": evil("uploadpack"),
            "protocol.ext.allow": "always", "protocol.file.allow": "always", "gc.auto": "1",
            "alias.status": f"!{evil('alias')}", "trailer.x.cmd": evil("trailer"), "core.repositoryformatversion": "1",
        }  # fmt: skip
        for driver in ("evil", "na.me", "b c"):
            settings |= {f"filter.{driver}.{key}": evil(f"filter-{key}") for key in ("clean", "smudge", "process")}
            settings |= {f"filter.{driver}.required": "true", f"merge.{driver}.driver": evil("merge")}
            settings |= {f"diff.{driver}.{key}": evil(f"diff-{key}") for key in ("command", "textconv")}
        for name, value in settings.items():
            git(self.root, "config", name, value)
        (self.root / ".git" / "info").mkdir(exist_ok=True)
        for path in (self.root / ".git/info/attributes", self.root / ".gitattributes", self.idea / ".gitattributes"):
            path.write_text(ATTRIBUTES)
        self.touch()

    def hooks(self) -> Path:
        for folder in (self.marks.parent / "hooks", self.root / ".git" / "hooks"):
            folder.mkdir(exist_ok=True)
            for name in HOOKS:
                (folder / name).write_text(f"#!/bin/sh\ntouch {self.marks}/hook-{name}\n")
                (folder / name).chmod(stat.S_IRWXU)
        return self.marks.parent / "hooks"

    def touch(self) -> None:
        """Files that look changed: git has to read them, through a filter where there is one."""
        for path in (self.root / "README.md", self.idea / "README.md", self.idea / "train.py"):
            path.write_text(path.read_text())
            os.utime(path, (1, 1))

    def ran(self) -> list[str]:
        return sorted(path.name for path in self.marks.iterdir())


@pytest.fixture
def hostile(tmp_path: Path) -> Hostile:
    return Hostile(tmp_path)


def test_the_trap_works(hostile: Hostile) -> None:
    """Plain git runs what the repository names, so that a command of ours that did would be seen."""
    git(hostile.root, "status", check=False)
    git(hostile.root, "worktree", "add", "-q", "--detach", str(hostile.marks.parent / "other"), check=False)
    git(hostile.root, "cat-file", "-p", "cafe" * 10, check=False)
    git(hostile.root, "update-ref", "refs/heads/x", hostile.old, check=False)
    assert {"fsmonitor", "filter-process", "hook-reference-transaction", "uploadpack"} <= set(hostile.ran())


def moved(hostile: Hostile) -> None:
    commit = hostile.repo.commit_train_py(hostile.new, b"DEPTH = 9\n", "m", {})
    hostile.repo.move_branch("main", commit, hostile.new)
    assert (hostile.root / "train.py").read_text() == "DEPTH = 9\n"


def edited(hostile: Hostile) -> None:
    (hostile.idea / "train.py").write_text("DEPTH = 5\n")
    commit, data = hostile.repo.commit_worktree(hostile.idea, "an edit")
    assert data == b"DEPTH = 5\n" == hostile.repo.read(commit, "train.py")


def missing(hostile: Hostile) -> None:
    """A partial clone would fetch it, with the programs of its remote."""
    blob = git(hostile.root, "rev-parse", f"{hostile.new}:train.py").strip()
    (hostile.root / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with suppress(ArschedError):
        hostile.repo.read(hostile.new, "train.py")
    with suppress(ArschedError):
        hostile.repo.read("cafe" * 10, "train.py")
    with suppress(ArschedError):
        hostile.repo.keep_ref("t", "c0001", "cafe" * 10)


def added(hostile: Hostile) -> None:
    place = hostile.root / "candidates" / "other"
    hostile.repo.add_worktree(place, hostile.new, "other")
    assert (place / "train.py").read_bytes() == TRAIN
    assert hostile.repo.uncommitted(place) == (hostile.new, ())
    assert place in hostile.repo.worktrees_in(place.parent)
    assert not hostile.repo.remove_worktree(place, place.with_name(".removed.x"), lambda hidden: False)
    assert hostile.repo.remove_worktree(place, place.with_name(".removed.x"), lambda hidden: hidden.is_dir())
    hostile.repo.forget_worktrees(place.parent)
    hostile.repo.add_worktree(place, hostile.new, "other")
    hostile.repo.drop_worktree(place)


def created(hostile: Hostile) -> None:
    """Git reads the configuration of the person, too, and a folder may bring attributes."""
    for name in ("clean", "smudge", "process"):
        git(hostile.root, "config", "--global", f"filter.evil.{name}", hostile.program("global"))
    folder = hostile.marks.parent / "fresh"
    folder.mkdir()
    (folder / ".gitattributes").write_text(ATTRIBUTES)
    (folder / "train.py").write_bytes(TRAIN)
    create_repo(folder, "first")
    assert git(folder, "show", "HEAD:train.py").encode() == TRAIN


def inspected(hostile: Hostile) -> None:
    for path in (hostile.root, hostile.idea):
        assert hostile.repo.inspect(path, hostile.old, hostile.new).changed == (".gitattributes",)


def carried(hostile: Hostile) -> None:
    """To a repository that is made for it, and back."""
    repo, there = hostile.repo, hostile.marks.parent / "there"
    begin_empty(there, "laptop", 40)
    for name, value in (("core.fsmonitor", "fsmonitor"), ("core.alternateRefsCommand", "alternate")):
        git(there, "config", name, hostile.program(name.replace(".", "-") + value))
    blob = repo.add_blob(b"a file\n")
    wanted = [repo.head_commit(), repo.root_commit(), blob]
    other = Repo.open(there)
    other.take_pack(repo.make_pack(wanted, []), wanted)
    other.set_refs({"refs/heads/main": hostile.new})
    assert other.read_refs("refs/heads/") == {"refs/heads/main": hostile.new}
    assert other.existing(wanted) == wanted and other.read_blob(blob) == b"a file\n"
    repo.take_pack(other.make_pack([hostile.new], [hostile.old]), [hostile.new])


CALLS: dict[str, Callable[[Hostile], object]] = {
    "open": lambda h: (Repo.open(h.root), Repo.open(h.idea), git_version(), h.repo.keep_main()),
    "read": lambda h: (h.repo.read(h.new, "train.py"), h.repo.subject(h.new), h.repo.head_commit()),
    "branches": lambda h: (h.repo.current_branch(), h.repo.branch_commit("main"), h.repo.create_branch("b", h.new)),
    "refs": lambda h: (h.repo.check_free(h.new, "refs/x/y"), h.repo.keep_ref("t", "c0001", h.new), h.repo.kept_tags()),
    "files": lambda h: (h.repo.find_files(h.new, "train.py"), h.repo.is_cut_off(h.idea)),
    "places": lambda h: (h.repo.place_of(h.idea), h.repo.checkout_of("main")),
    "kept": lambda h: h.repo.kept_refs("t"),
    "record": lambda h: (h.repo.create_branch("autoresearch/t", h.new), h.repo.kept_tags(), h.repo.history([h.new])),
    "carried": lambda h: carried(h),
    "check_out": lambda h: (h.repo.check_out("laptop", h.old), h.repo.check_out("laptop", h.new)),
    "of a commit": lambda h: (h.repo.inspect_commit(h.new, h.old), h.repo.is_ancestor(h.old, h.new)),
    "commit_train_py": lambda h: h.repo.commit_train_py(h.new, b"DEPTH = 7\n", "m", {"A": "b"}),
    "merge_train_py": lambda h: h.repo.merge_train_py(b"a\nb\nc\n", b"a\nb\n", b"b\n"),
    "exclude": lambda h: h.repo.exclude(("/x/", "/y/*")),
    "has_worktree": lambda h: h.repo.has_worktree(h.idea),
    "inspect": inspected,
    "commit_worktree": edited,
    "move_branch": moved,
    "add and drop a worktree": added,
    "a missing object": missing,
    "create_repo": created,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_no_program_of_the_repositorys_runs(hostile: Hostile, call: Callable[[Hostile], object]) -> None:
    call(hostile)
    assert hostile.ran() == []


def test_every_function_of_the_repository_is_tried() -> None:
    """A new one has to be added above."""
    public = {name for name in vars(Repo) if not name.startswith("_")} - {"root", "common_dir"}
    tried = {"open", "read", "subject", "head_commit", "current_branch", "branch_commit", "create_branch", "keep_ref"}
    tried |= {"kept_tags", "commit_train_py", "merge_train_py", "exclude", "has_worktree", "inspect", "keep_main"}
    tried |= {"find_files", "check_free", "is_cut_off", "place_of", "checkout_of"}
    tried |= {"kept_refs", "history", "uncommitted", "worktrees_in", "remove_worktree", "forget_worktrees"}
    tried |= {"root_commit", "is_ancestor", "add_blob", "read_blob", "make_pack", "take_pack"}
    tried |= {"existing", "read_refs", "set_refs", "check_out", "inspect_commit"}
    assert public == tried | {"commit_worktree", "move_branch", "add_worktree", "drop_worktree"}


def test_a_submodules_own_filters_do_not_run(tmp_path: Path) -> None:
    root, mark = make_repository(tmp_path / "outer"), tmp_path / "mark"
    inner = make_repository(root / "inner")
    git(root, "add", "inner")
    git(root, "commit", "-qm", "with a submodule")
    git(inner, "config", "filter.inner.clean", f"touch {mark}; cat")
    (inner / ".gitattributes").write_text("* filter=inner\n")
    os.utime(inner / "train.py", (1, 1))
    repo = Repo.open(root)
    assert repo.inspect(root, repo.head_commit()).changed == ()
    assert not mark.exists()
    git(root, "status")
    assert mark.exists()


@pytest.mark.parametrize("name", ["filter.a=b.clean", "filter.a\nb.smudge"])
def test_a_driver_that_no_option_can_name_is_refused(name: str) -> None:
    with pytest.raises(GitProblem, match="strange name"):
        drivers_off(f"core.bare\0{name}\0".encode())


def test_harmless_keys_get_no_option() -> None:
    assert drivers_off(b"core.bare\0diff.renames\0merge.ff\0diff.external\0user.name\0") == []
