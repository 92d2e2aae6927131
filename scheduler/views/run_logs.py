"""What a run printed: from its artefacts once it is over, before that from this node's spool.

Logs are candidates' words: control characters are taken out line by line. Reads files, never asks a slot; a run that
goes on on another node shows its log when it is over.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from scheduler.domain.errors import LabProblem
from scheduler.domain.run import Cancelled, Finished, Queued, Run
from scheduler.domain.text import clean
from scheduler.node.spool import default_spool_root
from scheduler.workspace import Workspace

CHUNK_BYTES = 1 << 16
LONGEST_LINE = 1 << 14  # characters held back for the end of their line


def log_path(space: Workspace, run: Run) -> Path:
    """The log of a run's latest attempt. Raises LabProblem when there is none to read here, and says why."""
    if not run.attempts:
        raise LabProblem(f"{run.id} has not run yet", f"why it waits: arsched explain {run.id}")
    for path in _places(space, run):
        if path.is_file():
            return path
    raise LabProblem(*_no_log(run, _places(space, run)[0]))


def has_log(space: Workspace, run: Run) -> bool:
    return any(path.is_file() for path in _places(space, run))


def _places(space: Workspace, run: Run) -> tuple[Path, Path]:
    """Where the log of the latest attempt is when it is over, and where while it goes on on this machine."""
    spool = default_spool_root() / space.lab.lab_id / f"{run.id}.{run.attempts}"
    return space.paths.log(run.id, run.attempts), spool / "out" / "run.log"


def read_log(path: Path) -> str:
    """The whole log, cleaned. Raises LabProblem when it cannot be read."""
    try:
        return clean(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as problem:
        raise LabProblem(f"{path} cannot be read: {problem.strerror}") from None


def last_lines(text: str, count: int) -> str:
    return "\n".join(text.splitlines()[-count:]) if count > 0 else ""


def follow_log(file: BinaryIO, is_over: Callable[[], bool], pause: Callable[[], None]) -> Iterator[str]:
    """Cleaned text as it is written, until `is_over` and everything is read. The file may be unlinked meanwhile."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    held = ""
    while True:
        over = is_over()  # asked before reading, so that the last words are not missed
        while data := file.read(CHUNK_BYTES):
            *lines, held = (held + decoder.decode(data)).split("\n")
            yield from (f"{clean(line)}\n" for line in lines)
            if len(held) > LONGEST_LINE:
                yield clean(held)
                held = ""
        if over:
            yield clean(held + decoder.decode(b"", final=True))
            return
        pause()


def _no_log(run: Run, harvested: Path) -> tuple[str, str]:
    match run.state:
        case Queued() | Cancelled():
            return f"the last attempt of {run.id} left no log", f"what became of it: arsched show {run.id}"
        case Finished():
            return f"{run.id} left no log: {harvested} is not there", f"its result: arsched show {run.id}"
    where = run.state.slot_id
    hint = f"it comes here when the run is over: arsched wait {run.id}"
    return f"{run.id} runs on {where}, and its log is there", hint
