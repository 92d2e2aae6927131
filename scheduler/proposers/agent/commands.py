"""Command lines of well-known coding agents, without a terminal and without questions; the user installs and pays them.

Each reads its task from $ARSCHED_PROMPT. Versions differ in their flags: `command` takes any other line.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from scheduler.domain.errors import ProposerProblem
from scheduler.proposers.setup import Options

PRESETS: Mapping[str, str] = {
    "claude": 'claude -p "$ARSCHED_PROMPT" --permission-mode acceptEdits',
    "codex": 'codex exec --sandbox workspace-write "$ARSCHED_PROMPT"',
    "gemini": 'gemini --skip-trust --approval-mode auto_edit -p "$ARSCHED_PROMPT"',
    "opencode": 'opencode run "$ARSCHED_PROMPT"',
}
PROMPT = (
    "You improve train.py, which trains a small GPT within a fixed budget; the score is val_bpb, lower is better. "
    "Read NOTES.md first: it says what was tried, what held and what counts as real. Then make one well-founded change "
    "to train.py, and to no other file. Do not train: the change is measured for you. Finally write IDEA.json with the "
    'strings "title" (one short line), "hypothesis" (why it should help) and "theme" (one or two words).'
)


def command_of(options: Options) -> str:
    """The shell command the options ask for. Raises UsageProblem, and ProposerProblem without the preset's program."""
    command, preset = options.text("command"), options.text("preset")
    if bool(command) == bool(preset):
        either = "give command='...', any shell command that edits train.py in the current folder"
        raise options.problem(
            "wants a command or a preset, not both" if command else "wants a command",
            f"{either}, or preset={'|'.join(PRESETS)}",
        )
    if command:
        return command
    if preset not in PRESETS:
        raise options.problem(f"has no preset {preset!r}", f"presets: {', '.join(PRESETS)}")
    if shutil.which(preset) is None:
        hint = f"install and log in to {preset} first, then see that `{preset} --version` works here"
        raise ProposerProblem(f"the program {preset} is not on the PATH", hint)
    return PRESETS[preset]
