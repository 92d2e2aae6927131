"""The verbs there are; printing: data on stdout, the only way there, notes on stderr, problems in one form; exit codes.

Names, titles and reasons come from candidates and are cleaned before they are printed (domain.text). On stderr, command
lines of ours are spelt as they can be typed, whether or not the .venv is active; tables and pages say `arsched`.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduler.domain.errors import ArschedError
from scheduler.domain.text import clean, plain, spelt
from scheduler.queue.diversion import lead_nowhere, say, talk_on, write_unless_unread

if TYPE_CHECKING:
    from scheduler.screens.terminal import Renderable

NAME = "arsched"
LEAST_COLUMNS = 20  # some shells and containers say 0
# In the order of a lab's life; the order of `arsched --help`.
VERBS = {
    "doctor": "Is everything here that a search needs?",
    "prepare": "Build a contract's cache on this node.",
    "init": "Start a lab: a branch, a ledger, the runs of the first baseline.",
    "new": "Make a worktree for a new candidate.",
    "submit": "Queue candidates and run the queue.",
    "search": "Search for hours: ideas, runs, promotions, and a claim at the end.",
    "pause": "Let nothing new begin; what runs is finished.",
    "resume": "End a pause.",
    "stop": "End whoever runs the queue; what runs is finished.",
    "status": "What runs where, what waits.",
    "watch": "The lab live: slots, queue, leaderboard, staircase.",
    "show": "Everything about a candidate or a run.",
    "logs": "What a run printed.",
    "wait": "Wait until a candidate or a run is over.",
    "explain": "Why it waits, or why it was promoted, repeated or dropped.",
    "brief": "What an idea should know: the page every proposer gets.",
    "leaderboard": "The baseline, effects with errors, dead ends.",
    "report": "The lab on one HTML page, plots, results.tsv.",
    "promote": "Make a candidate the baseline by hand.",
    "calibrate": "Run the baseline with the same seeds on every slot: which GPU scores differently?",
    "audit": "Score a run's candidate again from scratch and compare.",
    "cancel": "Take a candidate or a run out of the queue.",
    "restore": "Put a lab whose ledger is gone together again, as far as copies and git reach.",
    "labs": "List the labs here, or switch to one.",
    "gc": "Remove worktrees, spools and caches that nothing needs any more.",
    "demo": "A real parallel hill climb on this machine.",
}
ON_SLOTS = ("doctor", "init", "submit", "search", "calibrate", "audit")  # this machine's, or those of --address
# At least one for every verb; each is tried by the parser of its verb in the tests.
EXAMPLES = {
    "doctor": ("arsched doctor", "arsched doctor --contract standard --quick"),
    "prepare": ("arsched prepare --contract cpu", "arsched prepare --contract standard --all-nodes"),
    "init": ("arsched init --tag nov23", "arsched init --tag nov24 --contract standard --no-wait"),
    "new": ("arsched new wider-mlp",),
    "submit": ("arsched submit candidates/*", "arsched submit idea.py --title 'Wider MLP' --no-wait", "arsched submit"),
    "search": ("arsched search --hours 8 --agent claude", "arsched search --runs 40 --proposer tpe --dry-run"),
    "pause": ("arsched pause --reason 'the driver is updated'",),
    "resume": ("arsched resume",),
    "stop": ("arsched stop", "arsched stop --now --timeout 60"),
    "status": ("arsched status", "arsched status --json"),
    "watch": ("arsched watch", "arsched watch --once"),
    "show": ("arsched show last", "arsched show c0007", "arsched show r0012 --json"),
    "logs": ("arsched logs last --tail 40", "arsched logs r0012 --follow --tail 5"),
    "wait": ("arsched wait", "arsched wait wider-mlp r0012 --timeout 500"),
    "explain": ("arsched explain wider-mlp", "arsched explain last"),
    "brief": ("arsched brief",),
    "leaderboard": ("arsched leaderboard", "arsched leaderboard --limit 0"),
    "report": ("arsched report", "arsched report --out /tmp/report"),
    "promote": ("arsched promote c0007 --dry-run",),
    "calibrate": ("arsched calibrate", "arsched calibrate --runs 4 --json"),
    "audit": ("arsched audit last",),
    "cancel": ("arsched cancel c0007", "arsched cancel r0012"),
    "labs": ("arsched labs", "arsched labs nov23"),
    "restore": ("arsched restore", "arsched restore --contract cpu"),
    "gc": ("arsched gc --dry-run", "arsched gc --days 7"),
    "demo": ("arsched demo", "arsched demo --slots 2"),
}


class StdoutProblem(ArschedError):
    """Data could not be written to stdout, which leads nowhere from then on."""


def guard_streams() -> None:
    """From here on, what the encoding of stdout or stderr lacks is spelt plainly, whoever writes there.

    A stderr without room ends no command, and a size of the screen that cannot be one counts as not given.
    """
    for name, least in (("COLUMNS", LEAST_COLUMNS), ("LINES", 1)):
        if not (os.environ.get(name, "").isdecimal() and int(os.environ[name]) >= least):
            os.environ.pop(name, None)
    if sys.stdout is None or sys.stderr is None:  # closed by whoever started us (>&-)
        nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    codecs.register_error("plain", _spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")
    with suppress(OSError, ValueError, AttributeError):  # a stream of a test may have no descriptor
        sys.stderr = talk_on(2, sys.stderr, closes=False) if sys.stderr.fileno() == 2 else sys.stderr


def _spell(problem: UnicodeError) -> tuple[str, int]:
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    return plain(problem.object[problem.start : problem.end]), problem.end


def log(text: str) -> None:
    """One line or several on stderr, without what moves a cursor. Commands of ours in it can be typed as they stand."""
    say(sys.stderr, typable(clean(text)))


def print_json(value: object) -> None:
    """The one JSON value of a command on stdout. NaN and infinity are no JSON and become null.

    What the encoding of stdout lacks, or a terminal could obey, is escaped as JSON does: the value stays the same.
    Bytes of a file's name that are no UTF-8 are spelt \\x and their number.
    """
    from msgspec.json import encode, format  # json's own is slow: a leaderboard may have thousands of rows

    try:
        data = encode(value)
    except UnicodeEncodeError:
        data = encode(_decodable(value))
    text = format(data, indent=2).decode()
    lacks = spelt(text, sys.stdout.encoding or "utf-8") != text
    odd = r"[^\x00-\x7f]" if lacks else r"[\x80-\x9f]"
    print_text(re.sub(odd, lambda found: json.dumps(found[0])[1:-1], text))


def _decodable(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        case dict():
            return {_decodable(key): _decodable(one) for key, one in value.items()}
        case list() | tuple():
            return [_decodable(one) for one in value]
    return value


def print_text(text: str, end: str = "\n") -> bool:
    """Data for people on stdout; False where its reader has left (`| head`), which is no error.

    Raises StdoutProblem where it cannot be written.
    """
    try:
        return write_unless_unread(sys.stdout, text + end)
    except OSError as problem:
        raise _unwritable(problem) from None


def print_screen(screen: Iterable[Renderable]) -> None:
    """A drawn screen on stdout."""
    from scheduler.screens.terminal import paint  # rich: a tenth of a second

    try:
        paint(screen, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        lead_nowhere(sys.stdout)
    except OSError as problem:
        raise _unwritable(problem) from None


def _unwritable(problem: OSError) -> StdoutProblem:
    lead_nowhere(sys.stdout)
    hint = "what was done stays done; see that there is room where stdout goes"
    return StdoutProblem(f"stdout cannot be written: {problem.strerror}", hint)


def print_problem(problem: ArschedError, *, as_json: bool) -> None:
    """What, where, what next. With --json it is the command's one value."""
    if as_json:
        print_json({"error": problem.message, "hint": typable(problem.hint)})
        return
    log(f"error: {problem.message}")
    if problem.hint:
        log(f"\nhint: {problem.hint}")


TYPED_AS = "ARSCHED_TYPED_AS"  # how the person at the other end of an ssh begins a command of ours
_address = [""]
_spelt_as = [os.environ.pop(TYPED_AS, "")]  # not handed on: an agent that a search starts types where it runs
UV_RUN, UV_ANY = "UV_RUN_RECURSION_DEPTH", "UV"  # set below `uv run`; below that, `uvx` and `uv tool run`


def program(folder: Path) -> str:
    """What to type in `folder`: `arsched` where the PATH has this program, else the shorter one of its two paths."""
    places = (Path(sys.argv[0]), Path(sys.executable).with_name(NAME))  # called, or next to the Python that runs this
    running = next((path.absolute() for path in places if path.name == NAME and path.is_file()), None)
    if running is None:
        return NAME
    found = None if _is_below_uv() else shutil.which(NAME)
    if found and os.path.isabs(found) and os.path.samefile(found, running):
        return NAME
    relative = os.path.relpath(running, folder)
    if os.sep not in relative:
        relative = os.path.join(os.curdir, relative)
    return shlex.quote(min(relative, str(running), key=len))


def _is_below_uv() -> bool:
    """Whether uv has put the program on a PATH that ends with it. `uvx` sets no VIRTUAL_ENV; who activates one does."""
    return UV_RUN in os.environ or (UV_ANY in os.environ and os.environ.get("VIRTUAL_ENV") != sys.prefix)


def spell_as(start: str) -> None:
    """Have `typable` begin command lines of ours so, for a person who types them elsewhere."""
    _spelt_as.append(start)


def spell_address(address: str) -> None:
    """Have `typable` name this cluster in command lines of ours that would run on this machine alone."""
    _address.append(address)


def typable(text: str) -> str:
    """The text with every command line of ours as it can be typed in the current folder, or as `spell_as` set it."""
    try:
        typed = _spelt_as[-1] or program(Path.cwd())
    except OSError:  # the current folder was deleted
        return text
    return re.sub(
        rf"(?<![\w./-]){NAME} ({'|'.join(VERBS)})\b(?=(.*))", lambda found: _typed(typed, *found.groups()), text
    )


def _typed(start: str, verb: str, rest: str) -> str:
    names_cluster = verb in ON_SLOTS and _address[-1] and not _spelt_as[-1] and "--address" not in rest
    return f"{start} {verb}" + (f" --address {shlex.quote(_address[-1])}" if names_cluster else "")
