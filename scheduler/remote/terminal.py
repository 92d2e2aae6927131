"""A job of the head followed on a laptop's terminal: its lines scroll above the table of slots, as where it runs.

The table is that of the live file, whoever runs the queue. Not covered: followers without a terminal (jobs.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from scheduler.cli.output import log, print_text
from scheduler.lab import read_live
from scheduler.queue.progress import is_slots_line, open_screen
from scheduler.remote.jobs import LOOK_S, Job, skip_all_but_the_last


def follow_on_terminal(job: Job, live: Path, translate: Callable[[str], str]) -> int:
    """Until it has ended: its exit code. `live`: the lab's live file. Ctrl-C raises KeyboardInterrupt; it goes on."""
    with (job.folder / "err").open("rb") as err, open_screen() as screen:
        if not job.is_new:
            skip_all_but_the_last(err)
        while True:
            code = job.code()  # before the lines, so that none said after them is lost
            for line in _new_lines(err, to_the_end=code is not None):
                if not is_slots_line(line):
                    screen.say(translate(line))
            if code is not None:
                break
            now = read_live(live)
            if now is not None and now.may_be_alive():
                screen.show(now)
            time.sleep(LOOK_S)
    if problem := job.why_unknown():
        log(problem)
    print_text(translate((job.folder / "out").read_text("utf-8", "replace")), end="")
    return code


def _new_lines(file: BinaryIO, *, to_the_end: bool) -> Iterator[str]:
    """What was added, without a line that is not whole yet."""
    data = file.read()
    if not to_the_end:
        whole = data.rfind(b"\n") + 1
        file.seek(whole - len(data), 1)
        data = data[:whole]
    yield from data.decode("utf-8", "replace").splitlines()
