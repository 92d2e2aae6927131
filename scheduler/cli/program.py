"""How this very program is typed in the user's shell, whether or not its .venv is active there.

For talk and hints. Tables and pages on stdout are the same for everybody and say `arsched`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

NAME = "arsched"


def program(folder: Path) -> str:
    """What to type in `folder`: `arsched` where the PATH has this program, else the shorter one of its two paths."""
    running = _running()
    if running is None:
        return NAME
    found = shutil.which(NAME)
    if found and os.path.isabs(found) and os.path.samefile(found, running):
        return NAME
    relative = os.path.relpath(running, folder)
    if os.sep not in relative:
        relative = os.path.join(os.curdir, relative)
    return shlex.quote(min(relative, str(running), key=len))


def typable(text: str) -> str:
    """The text with every command line of ours as it can be typed in the current folder."""
    from scheduler.cli.main import VERBS

    try:
        typed = program(Path.cwd())
    except OSError:  # the current folder was deleted
        return text
    return re.sub(rf"(?<![\w./-]){NAME} (?=({'|'.join(VERBS)})\b)", lambda found: f"{typed} ", text)


def _running() -> Path | None:
    """The script that was called, or the one beside the Python that runs this; None where neither is there."""
    for path in (Path(sys.argv[0]), Path(sys.executable).with_name(NAME)):
        if path.name == NAME and path.is_file():
            return path.absolute()
    return None
