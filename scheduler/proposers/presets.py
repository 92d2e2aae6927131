"""Coding agents whose command lines are known, and the command that a search's options ask for.

Each is started without a terminal and without questions: what would be asked is refused. Not covered: running it
(agent.py, process.py).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from scheduler.domain.errors import ProposerProblem
from scheduler.proposers.answers import NOTES
from scheduler.proposers.process import ensure_runnable, path_with_arsched
from scheduler.proposers.registry import Options

# What the manual (program.md, "Asked by arsched") has an agent run: exactly these, and what begins like those.
_EXACT, _BEGINNINGS = (
    ("printenv ARSCHED_ASK", f"cat {NOTES}"),
    ("arsched show", "arsched logs", "arsched brief", "python -c"),
)
_ALLOWED_BASH = {"*": "deny", **{one: "allow" for one in (*_EXACT, *(f"{start}*" for start in _BEGINNINGS))}}
# Nothing here is "ask": opencode refuses what it would ask for, and then ends the session or waits.
_OPENCODE_PERMISSION = {
    "edit": "allow", "bash": _ALLOWED_BASH, "read": {"*": "allow", "*.env": "deny", "*.env.*": "deny"},
    **{name: "deny" for name in ("webfetch", "websearch", "external_directory", "doom_loop", "question")},
}  # fmt: skip
_VERSION_S = 20.0


@dataclass(frozen=True, slots=True)
class AgentPreset:
    """A well-known coding agent without a terminal and without questions; the user installs and pays it.

    Its command line: its name, `options`, `from_second` where `NAME --version` says 2 or later, the model, the user's
    arguments, `last`, the prompt. `settings` is a variable that holds JSON, and what is put into it. It may edit files
    in its worktree and run what the manual asks for; codex has no list of commands, its sandbox confines any. gemini
    calls --allowed-tools deprecated, and takes rules otherwise from files alone. aider runs no command at all.
    """

    options: tuple[str, ...]
    last: tuple[str, ...] = ()
    from_second: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    settings: tuple[str, Mapping[str, object]] | None = None


PRESETS: Mapping[str, AgentPreset] = {
    "claude": AgentPreset(
        ("--permission-mode", "acceptEdits", "--allowedTools",
         ",".join([*(f"Bash({one})" for one in _EXACT), *(f"Bash({one}:*)" for one in _BEGINNINGS)])),
        ("-p",),
    ),
    "codex": AgentPreset(("exec", "--sandbox", "workspace-write")),
    "gemini": AgentPreset(
        ("--skip-trust", "--approval-mode", "auto_edit", "--allowed-tools",
         ",".join(f"run_shell_command({one})" for one in (*_EXACT, *_BEGINNINGS))),
        ("-p",),
    ),
    "opencode": AgentPreset(
        ("run",),
        from_second=("--standalone",),  # else a service that already runs does the work, without these settings
        environment=(("OPENCODE_PERMISSION", json.dumps(_OPENCODE_PERMISSION)),),  # of version 1 alone
        settings=("OPENCODE_CONFIG_CONTENT", {"permission": _OPENCODE_PERMISSION}),
    ),
    # --yes-always says yes to whatever is asked: to a browser, a web page, .gitignore or statistics as well.
    "aider": AgentPreset(
        ("--yes-always", "--no-auto-commits", "--no-dirty-commits", "--no-gitignore", "--no-check-update",
         "--no-show-release-notes", "--no-analytics", "--no-detect-urls", "--no-suggest-shell-commands",
         "--no-fancy-input", "--no-pretty", "--no-stream", "--file", "train.py", "--read", NOTES),
        ("--message",),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class AgentCommand:
    """What to run for an ask: words, into which the prompt is put last for a preset, and variables set for it."""

    words: tuple[str, ...]
    takes_prompt: bool = False
    environment: tuple[tuple[str, str], ...] = ()


def command_of(options: Options) -> AgentCommand:
    """What the options ask for. Raises UsageProblem, and ProposerProblem where its program is not there."""
    command, preset = options.text("command"), options.text("preset")
    if bool(command) == bool(preset):
        either = "give --command '…', any shell command that edits train.py in the current folder"
        raise options.problem(
            "wants a command or a known agent, not both" if command else "wants a command",
            f"{either}, or --agent {'|'.join(PRESETS)}",
        )
    model, arguments = options.text("model"), options.text("arguments")
    if command:
        if model or arguments:
            raise options.problem("knows --model and --agent-args with --agent alone", "write them into --command")
        ensure_runnable(command, options.name)
        return AgentCommand(("/bin/sh", "-c", command))
    if preset not in PRESETS:
        raise options.problem(f"has no preset {preset!r}", f"presets: {', '.join(PRESETS)}")
    program = shutil.which(preset, path=path_with_arsched())
    if program is None:
        hint = f"install and log in to {preset} first, then see that `{preset} --version` works here"
        raise ProposerProblem(f"the program {preset} is not on the PATH", hint)
    try:
        extra = shlex.split(arguments)
    except ValueError as problem:
        raise options.problem(f"cannot read --agent-args {arguments!r}: {problem}", "mind the quotes") from None
    known = PRESETS[preset]
    newer = known.from_second if known.from_second and _major_version(program) >= 2 else ()
    chosen = ("--model", model) if model else ()
    words = (preset, *known.options, *newer, *chosen, *extra, *known.last)
    return AgentCommand(words, True, (*known.environment, *_with_settings(known)))


def _major_version(program: str) -> int:
    """The first number that `PROGRAM --version` prints; 2 where it says nothing: today's."""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_VERSION_S,
            env={**os.environ, "PATH": path_with_arsched()},
        )  # fmt: skip
        found = re.search(rb"\d+", done.stdout)
        return int(found[0]) if found else 2
    return 2


def _with_settings(known: AgentPreset) -> tuple[tuple[str, str], ...]:
    """The variable of `settings` with the user's own JSON in it kept, where it is an object."""
    if known.settings is None:
        return ()
    name, ours = known.settings
    theirs: object = None
    with suppress(ValueError, RecursionError):
        theirs = json.loads(os.environ.get(name, ""))
    return ((name, json.dumps({**(theirs if isinstance(theirs, dict) else {}), **ours})),)
