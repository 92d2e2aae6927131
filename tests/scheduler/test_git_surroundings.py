"""Commands in unusual repositories and under hostile settings of git: the answers are those of a plain clone.

Not covered: programs that a configuration names (test_git_nothing_else).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.contract import load_contract
from scheduler.cli.main import main
from scheduler.domain.errors import GitProblem, LabProblem
from scheduler.git import Repo
from scheduler.lab import open_workspace
from scheduler.queue.decide import follow_ledger
from tests.harness.judging import TINY, build_cache
from tests.scheduler.git_kit import git, make_repository, no_configuration  # noqa: F401

TITLE = "Größer: three layers"
IDEA = b"DEPTH = 3\n"
_SAFELY = ("user.name=a", "user.email=b", "commit.gpgSign=false", "core.safecrlf=false", "core.hooksPath=/dev/null")
_PLAINLY = ("i18n.commitEncoding=UTF-8", "core.attributesFile=/dev/null")
AS_A_USER = [word for setting in (*_SAFELY, *_PLAINLY) for word in ("-c", setting)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A contract with its cache, which no test changes."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARSCHED_CACHE", str(folder / "cache"))
        (folder / "tiny.json").write_text(TINY.to_json())
        build_cache(load_contract(str(folder / "tiny.json")))
    return folder


@pytest.fixture
def contract(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ARSCHED_CACHE", str(prepared / "cache"))
    return str(prepared / "tiny.json")


def arsched(folder: Path, *arguments: str) -> dict[str, Any]:
    """The JSON that a command answers with; it has to succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = CliRunner().invoke(main, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, (arguments, done.stdout, done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def first_hour(root: Path, contract: str, *, inside: bool = False) -> dict[str, object]:
    """What a lab's first commands bring, without times and ids of commits. `inside`: of the candidate's worktree."""
    arsched(root, "init", "--tag", "t", "--contract", contract, "--no-wait")
    home = root / "candidates" / "wider"
    arsched(root, "new", "wider")
    (home / "train.py").write_bytes(IDEA)
    git(home, *AS_A_USER, "commit", "-qam", TITLE)
    arsched(root, "new", "dirty")
    (root / "candidates" / "dirty" / "train.py").write_bytes(b"DEPTH = 5\n")
    here = home if inside else root
    sent = [arsched(here, "submit", path, "--no-wait") for path in (str(home), str(root / "candidates" / "dirty"))]
    shown = arsched(here, "show", "c0002")
    status = arsched(here, "status")
    repo = Repo.open(here)
    assert repo.root == root
    with open_workspace(start=here) as space:
        candidates = space.ledger.candidates.list("t")
        sources = [space.ledger.candidates.train_py(one.id) for one in candidates]
        for one in candidates[1:]:
            assert repo.read(f"refs/arsched/t/{one.id}", "train.py") == space.ledger.candidates.train_py(one.id)
            base = space.baseline_commit()
            changed = git(root, "diff-tree", "-r", "--name-only", base, f"refs/arsched/t/{one.id}")
            assert changed == "train.py\n"
        follow_ledger(space)
    return {
        "sources": sources, "titles": [one.title for one in candidates], "states": [one.state for one in candidates],
        "submitted": [answer["candidates"][0]["candidate"] for answer in sent], "diff": shown["diff"],
        "status": sorted(status), "queued": [row["run"] for row in status["queued"]],
        "ignored": git(root, *AS_A_USER, "status", "--porcelain", "--untracked-files=normal"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> dict[str, object]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARSCHED_CACHE", str(prepared / "cache"))
        patch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
        root = make_repository(tmp_path_factory.mktemp("plain") / "lab")
        return first_hour(root, str(prepared / "tiny.json"))


MISSING_FILTER = {f"filter.lfs.{key}": "git-no-such-program" for key in ("clean", "smudge", "process")}
SETTINGS: dict[str, dict[str, str]] = {
    "bare repositories only by name": {"safe.bareRepository": "explicit", "core.quotePath": "true"},
    "signatures": {"log.showSignature": "true", "commit.gpgSign": "true", "gpg.format": "ssh", "tag.gpgSign": "true"},
    "no signing program, no guessed user": {
        "commit.gpgSign": "true", "gpg.program": "/nowhere/gpg", "user.signingKey": "ABC", "user.useConfigOnly": "true",
    },
    "line ends converted, strictly": {"core.autocrlf": "true", "core.safecrlf": "true"},
    "line ends on input": {"core.autocrlf": "input", "core.safecrlf": "true", "core.eol": "crlf"},
    "colours, columns, dates": {
        "color.ui": "always", "color.status": "always", "column.ui": "always", "core.pager": "/nowhere/pager",
        "log.date": "relative", "log.decorate": "full", "format.pretty": "fuller",
    },
    "another diff": {
        "diff.external": "/nowhere/diff", "diff.noprefix": "true", "diff.renames": "copies", "diff.relative": "true",
        "diff.mnemonicPrefix": "true", "diff.algorithm": "histogram", "merge.conflictStyle": "diff3",
    },
    "file system monitor": {"core.fsmonitor": "true", "core.untrackedCache": "true", "feature.manyFiles": "true"},
    "hooks elsewhere, branches that track": {
        "core.hooksPath": "HOOKS", "branch.autoSetupMerge": "always", "submodule.recurse": "true",
    },
    "latin-1 commits, templates": {
        "i18n.commitEncoding": "ISO-8859-1", "i18n.logOutputEncoding": "ISO-8859-1", "core.commentChar": "D",
        "commit.template": "/nowhere/template", "commit.cleanup": "scissors", "init.defaultBranch": "trunk",
    },
    "untracked files not shown": {
        "status.showUntrackedFiles": "no", "status.branch": "true", "status.short": "true",
        "status.submoduleSummary": "true", "status.relativePaths": "true",
    },
    "a filter that is not installed": {**MISSING_FILTER, "filter.lfs.required": "true", "core.attributesFile": "ATTRS"},
}  # fmt: skip


def configure(home: Path, settings: dict[str, str]) -> None:
    hooks, attributes = home / "hooks", home / "attributes"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / name).write_text("#!/bin/sh\nexit 1\n")
        (hooks / name).chmod(0o755)
    attributes.write_text("* filter=lfs\n")
    for name, value in settings.items():
        git(home, "config", "--global", name, {"HOOKS": str(hooks), "ATTRS": str(attributes)}.get(value, value))


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Gives the user these settings."""

    def apply(settings: dict[str, str]) -> None:
        home = tmp_path / "home"
        home.mkdir()
        (home / "gitconfig").touch()
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / "gitconfig"))
        configure(home, settings)

    return apply


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_the_users_settings_of_git_change_no_answer(
    tmp_path: Path, contract: str, plain: dict[str, object], configured: Callable[..., None], settings: dict[str, str]
) -> None:
    root = make_repository(tmp_path / "lab")
    configured(settings)
    assert first_hour(root, contract) == plain


def test_variables_that_git_sets_for_its_hooks_change_no_answer(
    tmp_path: Path, contract: str, plain: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_repository(tmp_path / "lab")
    elsewhere = tmp_path / "elsewhere"
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_CONFIG", "GIT_SHALLOW_FILE", "GIT_QUARANTINE_PATH"):
        monkeypatch.setenv(name, str(elsewhere))
    monkeypatch.setenv("GIT_ICASE_PATHSPECS", "1")
    for name in ("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"):
        monkeypatch.setenv(name, "no date")
    Repo.open(root)  # takes them from this process: the test's own commands follow
    assert first_hour(root, contract) == plain


def test_a_signature_is_no_part_of_a_title(tmp_path: Path, configured: Callable[..., None]) -> None:
    root = make_repository(tmp_path / "lab")
    checker = tmp_path / "gpg"
    checker.write_text("#!/bin/sh\necho Good signature >&2\n")
    checker.chmod(0o755)
    head, _, rest = git(root, "cat-file", "commit", "HEAD").partition("\ncommitter ")
    signature = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n abc\n -----END PGP SIGNATURE-----"
    who, _, _ = rest.partition("\n")
    (tmp_path / "signed").write_text(f"{head}\ncommitter {who}\n{signature}\n\n{TITLE}\n")
    signed = git(root, "hash-object", "-t", "commit", "-w", str(tmp_path / "signed")).strip()
    configured({"log.showSignature": "true", "gpg.program": str(checker)})
    assert "Good signature" in git(root, "log", "-1", "--format=%s", signed)
    assert Repo.open(root).subject(signed) == TITLE


# Where the work tree is


def submodule(folder: Path) -> Path:
    inner, outer = make_repository(folder / "inner"), make_repository(folder / "super")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner), "ar")
    return outer / "ar"


def separate(folder: Path) -> Path:
    (folder / "lab").mkdir()
    git(folder / "lab", "init", "-q", "--initial-branch=main", "--separate-git-dir", str(folder / "store"))
    return make_repository(folder / "lab")


def bare_with_worktrees(folder: Path) -> Path:
    source, place = make_repository(folder / "source"), folder / "place"
    place.mkdir()
    git(place, "clone", "-q", "--bare", str(source), ".bare")
    (place / ".git").write_text("gitdir: ./.bare\n")
    git(place, "worktree", "add", "-q", "main", "main")
    git(place, "worktree", "add", "-q", "-b", "other", "other", "main")
    return place / "main"


def with_settings_of_worktrees(layout: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """As `git sparse-checkout` leaves it: what is the main worktree's alone moves to a file of its own."""

    def make(folder: Path) -> Path:
        root = layout(folder)
        common = Repo.open(root).common_dir
        git(root, "config", "extensions.worktreeConfig", "true")
        for name in ("core.bare", "core.worktree"):
            value = git(root, "config", "--file", str(common / "config"), "--get", name, check=False).strip()
            if value:
                git(root, "config", "--file", str(common / "config.worktree"), name, value)
                git(root, "config", "--file", str(common / "config"), "--unset", name)
        return root

    make.__name__ = f"{layout.__name__} with settings of worktrees"
    return make


LAYOUTS = (submodule, separate, bare_with_worktrees)


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("layout", [*LAYOUTS, *map(with_settings_of_worktrees, (submodule, bare_with_worktrees))])
def test_every_command_works_in_a_candidates_worktree_wherever_the_git_folder_is(
    tmp_path: Path,
    contract: str,
    plain: dict[str, object],
    configured: Callable[..., None],
    layout: Callable[[Path], Path],
    explicit: bool,
) -> None:
    root = layout(tmp_path)
    configured({"safe.bareRepository": "explicit"} if explicit else {})
    assert first_hour(root, contract, inside=True) == plain


@pytest.mark.parametrize("layout", [submodule, separate])
def test_a_promotion_reaches_the_work_tree_not_the_git_folder(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    root = layout(tmp_path)
    repo = Repo.open(root)
    better = repo.commit_train_py(repo.head_commit(), IDEA, "better", {})
    branch = repo.current_branch()
    assert branch is not None
    assert repo.move_branch(branch, better, repo.head_commit()) == str(root)
    assert (root / "train.py").read_bytes() == IDEA and git(root, "status", "--porcelain") == ""


def test_the_lab_of_a_bare_repository_is_found_from_another_worktree(tmp_path: Path, contract: str) -> None:
    root = bare_with_worktrees(tmp_path)
    with pytest.raises(LabProblem, match="bare") as raised:
        Repo.open(root.parent)
    assert str(root) in raised.value.hint
    arsched(root, "init", "--tag", "t", "--contract", contract, "--no-wait")
    for place in (root.parent, root.parent / "other", root.parent / ".bare"):
        assert Repo.open(place).root == root
    shutil.rmtree(root)
    assert Repo.open(root.parent / "other").root == root.parent / "other"


def test_a_git_folder_elsewhere_is_found_from_candidates_on_another_disk(tmp_path: Path, contract: str) -> None:
    root, disk = separate(tmp_path), tmp_path / "disk"
    disk.mkdir()
    (root / "candidates").symlink_to(disk)
    first = first_hour(root, contract, inside=True)
    assert Repo.open(disk / "wider").root == root
    assert first["ignored"] == ""


@pytest.mark.parametrize("inside", [".git", ".git/objects", ".git/worktrees/wide"])
def test_it_is_found_from_inside_the_git_folder(tmp_path: Path, configured: Callable[..., None], inside: str) -> None:
    root = make_repository(tmp_path / "lab")
    git(root, "worktree", "add", "-q", "candidates/wide")
    configured({"safe.bareRepository": "explicit"})
    assert Repo.open(root / inside).root == root


@pytest.mark.parametrize("early", [False, True])
def test_candidates_that_are_a_link_to_another_disk_are_ignored_by_git(
    tmp_path: Path, contract: str, early: bool
) -> None:
    root, disk = make_repository(tmp_path / "lab"), tmp_path / "disk"
    (root / ".gitignore").write_text("")
    git(root, "commit", "-qam", "ignores nothing")
    disk.mkdir()
    if early:
        (root / "candidates").symlink_to(disk)
    arsched(root, "init", "--tag", "t", "--contract", contract, "--no-wait")
    if not early:
        (root / "candidates").symlink_to(disk)
    arsched(root, "new", "wider")
    assert git(root, "status", "--porcelain") == ""


def test_a_work_tree_without_a_git_entry_is_refused_with_the_way_out(tmp_path: Path) -> None:
    root, elsewhere = make_repository(tmp_path / "lab"), tmp_path / "elsewhere"
    shutil.copytree(root, elsewhere, ignore=shutil.ignore_patterns(".git"))
    git(root, "config", "core.worktree", str(elsewhere))
    with pytest.raises(LabProblem, match=r"where no \.git is") as raised:
        Repo.open(root)
    assert f"echo 'gitdir: {root}/.git' > {elsewhere}/.git" in raised.value.hint
    (elsewhere / ".git").write_text(f"gitdir: {root}/.git")
    for start in (root, elsewhere):
        assert Repo.open(start).root == elsewhere


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a repository to another user")
def test_a_repository_of_another_user_is_named_with_the_command_that_trusts_it(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "lab")
    for path in (root, root / ".git"):
        os.chown(path, 12345, 12345)
    with pytest.raises(GitProblem, match=f"^the repository {root} belongs to another user$") as raised:
        Repo.open(root)
    assert f"git config --global --add safe.directory {root}" in raised.value.hint
