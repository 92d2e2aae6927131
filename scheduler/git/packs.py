"""Commits and files from one repository into another as packs of bytes, whatever carries them; refs set afterwards.

No transport of git's has a part in it: nothing that a repository configures (remotes, other addresses) is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from scheduler.domain.errors import GitProblem
from scheduler.git import commits

_LOOSE_UP_TO = 100  # objects of a pack that are unpacked, as git does with what it receives: few packs, fast lookups
_BOUNDED = {"GIT_ALLOC_LIMIT": "1g"}  # an object of a few bytes can be a copy of another, many times over


def make_pack(root: Path, wanted: Sequence[str], known: Iterable[str]) -> bytes:
    """A pack of `wanted` (ids of commits and blobs) for a repository that has all of `known`, commits it said it has.

    Raises GitProblem: an object is missing here, or the history is cut off.
    """
    refuse_shallow(root)
    revisions = [*wanted, *(f"^{commit}" for commit in existing(root, known))]
    options = ("--revs", "--thin", "--stdout", "--delta-base-offset", "-q")
    return commits.run_git(root, "pack-objects", *options, data=_lines(revisions))


def refuse_shallow(root: Path) -> None:
    """Raises GitProblem for a clone whose history is cut off: its first commits are not the repository's."""
    if commits.line(commits.run_git(root, "rev-parse", "--is-shallow-repository")) == "true":
        hint = "get the rest once: git fetch --unshallow"
        raise GitProblem(f"{root} is a shallow clone: its history cannot be carried elsewhere", hint)


def take_pack(root: Path, pack: bytes, wanted: Sequence[str], *, as_it_is: bool = False) -> None:
    """Take a pack's objects into the repository, and see that nothing of `wanted` is missing. Sets no ref.

    `as_it_is`: kept as a pack, so that it takes no more of the disk than its bytes, whatever it unfolds to.
    Raises GitProblem. Doing it again changes nothing.
    """
    few = int.from_bytes(pack[8:12], "big") < _LOOSE_UP_TO and not as_it_is
    command = ("unpack-objects", "-q") if few else ("index-pack", "--stdin", "--fix-thin")
    commits.run_git(root, *command, data=pack, environment=_BOUNDED if as_it_is else None)
    commits.run_git(root, "rev-list", "--objects", "--stdin", "--not", "--all", "--quiet", data=_lines(wanted))


def existing(root: Path, ids: Iterable[str]) -> list[str]:
    """Those that are in the repository."""
    asked = list(dict.fromkeys(ids))
    output = commits.run_git(root, "cat-file", "--batch-check", data=_lines(asked)).decode().splitlines()
    return [one for one, answer in zip(asked, output, strict=True) if not answer.endswith(" missing")]


def read_refs(root: Path, *prefixes: str) -> dict[str, str]:
    """Name -> id of all refs below the prefixes."""
    output = commits.run_git(root, "for-each-ref", "--format=%(objectname) %(refname)", *prefixes)
    pairs = (row.partition(" ") for row in output.decode().splitlines())
    return {name: commit for commit, _, name in pairs}


def set_refs(root: Path, refs: Mapping[str, str]) -> None:
    """Set all, or none. Raises GitProblem."""
    steps = [f"update {name} {commit}" for name, commit in refs.items()]
    commits.run_git(root, "update-ref", "-m", "arsched: fetched", "--stdin", data=_lines(steps))


def _lines(texts: Iterable[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()
