"""What every git command runs under: no other program is started, and no setting of the user's changes an answer.

A candidate that is not sandboxed may write to .git/config, .git/info/attributes and a worktree's .gitattributes, and
git would run what they name as the user, outside every sandbox. Not covered: programs of that name before git on PATH,
and a driver that is added in the milliseconds between its listing and the command.
"""

from __future__ import annotations

import os
import re

from scheduler.domain.errors import GitProblem

# Set by git for its hooks, or by a person: they would lead every command to another repository, index or git than the
# one named, or date our commits, whose order counts, by another clock.
_INHERITED = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX"),
    *("GIT_NAMESPACE", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_CEILING_DIRECTORIES", "GIT_EXTERNAL_DIFF"),
    *("GIT_CONFIG", "GIT_IMPLICIT_WORK_TREE", "GIT_GRAFT_FILE", "GIT_SHALLOW_FILE", "GIT_QUARANTINE_PATH"),
    *("GIT_REPLACE_REF_BASE", "GIT_NO_REPLACE_OBJECTS", "GIT_ATTR_SOURCE", "GIT_DEFAULT_HASH", "GIT_DIFF_OPTS"),
    *("GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS", "GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"),
    *("GIT_PYTHON_GIT_EXECUTABLE", "GIT_PYTHON_REFRESH", "GIT_PYTHON_TRACE"),  # read by GitPython as it is imported
)
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "",
    "core.attributesFile": "/dev/null",
    "core.pager": "cat",
    "core.editor": "false",
    "core.askPass": "false",
    "core.sshCommand": "false",
    "core.gitProxy": "",
    "core.alternateRefsCommand": "false",
    "credential.helper": "",
    "diff.external": "",
    "gpg.program": "false",
    "gpg.openpgp.program": "false",
    "gpg.x509.program": "false",
    "gpg.ssh.program": "false",
    "gpg.ssh.defaultKeyCommand": "false",
    "log.showSignature": "false",
    "commit.gpgSign": "false",
    "submodule.recurse": "false",
    "gc.auto": "0",
    "gc.recentObjectsHook": "",
    "maintenance.auto": "false",
    "advice.detachedHead": "false",
    "safe.bareRepository": "all",  # no command is led into a bare repository: each runs in a work tree
    "core.quotePath": "false",
    "core.safecrlf": "false",  # line ends are git's business here, and no reason to refuse a file
    "color.ui": "false",
    "color.diff": "false",
    "color.status": "false",
    "column.ui": "never",
    "i18n.commitEncoding": "UTF-8",
    "i18n.logOutputEncoding": "UTF-8",
    "merge.conflictStyle": "merge",
    "diff.relative": "false",
    "commit.template": "",
    "commit.cleanup": "default",
    "commit.verbose": "false",
    "core.commentChar": "#",
    "init.templateDir": "",
    "user.useConfigOnly": "true",  # a commit without a configured user fails, rather than guess one
}
OPTIONS = ("--no-pager", *(word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")))
ENVIRONMENT = {
    **{"GIT_TERMINAL_PROMPT": "0", "GIT_LITERAL_PATHSPECS": "1", "GIT_ATTR_NOSYSTEM": "1"},
    **{"GIT_PAGER": "cat", "GIT_EDITOR": "false", "GIT_SEQUENCE_EDITOR": "false", "GIT_ASKPASS": "false"},
    # An object that is missing is not fetched: not even by a partial clone, whose remote names programs.
    **{"GIT_SSH_COMMAND": "false", "GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1"},
}
# These read no file of a checkout, write none and show no difference of contents: no driver has a part in them.
STORE_COMMANDS = frozenset({
    "cat-file", "check-ignore", "check-ref-format", "commit-tree", "config", "diff-tree", "for-each-ref", "init",
    "log", "index-pack", "ls-tree", "merge-base", "merge-file", "mktree", "pack-objects", "rev-list", "rev-parse",
    "symbolic-ref", "unpack-objects", "update-ref", "version",
})  # fmt: skip
LIST_CONFIGURATION = ("config", "--list", "--name-only", "-z")
_OFF = {
    "filter": {"clean": "", "smudge": "", "process": "", "required": "false"},
    "diff": {"command": "false", "textconv": "false"},
    "merge": {"driver": "false"},
}
_DRIVER = re.compile(r"(filter|diff|merge)\.(.+)\.[a-z]+", re.DOTALL)


def drivers_off(names: bytes) -> list[str]:
    """Options of git that take their programs from all drivers among the `names` of a configuration (ended by NUL).

    An empty filter passes contents on as they are. Raises GitProblem for a driver that no option can name.
    """
    found = (_DRIVER.fullmatch(os.fsdecode(name)) for name in names.split(b"\0"))
    options: list[str] = []
    for section, driver in sorted({(one[1], one[2]) for one in found if one}):
        if "=" in driver or "\n" in driver:
            hint = "take that section out of .git/config"
            raise GitProblem(f"git's configuration has a {section} driver of a strange name: {driver!r}", hint)
        for key, value in _OFF[section].items():
            options += ["-c", f"{section}.{driver}.{key}={value}"]
    return options


def forget_inherited() -> None:
    """Take git's own variables from this process's environment."""
    for name in _INHERITED:
        os.environ.pop(name, None)
