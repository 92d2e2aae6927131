"""Three-way merge of one file, as git does it for a commit; no worktree, index or object is touched."""

from __future__ import annotations

import tempfile
from pathlib import Path

from scheduler.domain.errors import GitProblem
from scheduler.git.plumbing import try_git

MOST_CONFLICTS = 127  # git counts no further; a higher status is a failure


def merge_file(ours: bytes, base: bytes, theirs: bytes) -> bytes | None:
    """`ours` with the changes from `base` to `theirs`; None when both changed the same lines to different ones.

    Raises GitProblem when git cannot do it: no text, no git, no room.
    """
    with tempfile.TemporaryDirectory(prefix="arsched-merge-") as folder:
        names = ("ours", "base", "theirs")
        for name, data in zip(names, (ours, base, theirs), strict=True):
            Path(folder, name).write_bytes(data)
        status, merged, errors = try_git(Path(folder), "merge-file", "-p", *names)
    if status == 0:
        return merged
    if 0 < status <= MOST_CONFLICTS:
        return None
    raise GitProblem(f"git merge-file failed: {errors.strip().removeprefix('error: ') or f'status {status}'}")
