"""The `arsched` command: finds the verb's file, runs it, and turns whatever goes wrong into one message and a code.

A verb is a file of its name here with a click command called `command`; it returns its exit code or None, and raises
ArschedError. Only the verb that is asked for is imported.
"""

from __future__ import annotations

import difflib
import errno
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from harness.files import cache_root, settle_folders
from scheduler.cli.output import EXAMPLES, VERBS, StdoutProblem, guard_streams, log, print_problem
from scheduler.domain.errors import MEANINGS, ArschedError, ExitCode, UsageProblem

_OS_HINTS = {
    errno.ENOSPC: "make room on that disk and try again",
    errno.EDQUOT: "make room on that disk and try again",
    errno.EACCES: "check the rights of the file and of its folder",
    errno.EROFS: "the file system is read-only: use another folder",
    errno.EAGAIN: "this machine starts no more processes now: see what else runs, and its limits (ulimit -u)",
    errno.ENOMEM: "this machine is out of memory: see what else runs",
    errno.EMFILE: "this process may not open more files: raise the limit (ulimit -n)",
    errno.ENFILE: "this machine is out of open files: see what else runs",
}
_OF_MANY_VERBS = ("--json", "--tag", "--dry-run", "--address", "--slots")
_FIRST = ("arsched demo", "arsched init --tag nov23", "arsched new wider-mlp", "arsched submit candidates/*")
_DISK_REFUSES = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class Arsched(click.Group):
    """The group of all verbs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"scheduler.cli.{cmd_name}").command
        command.short_help = VERBS[cmd_name]  # for shells that complete with it
        command.epilog = _as_typed("Examples:", EXAMPLES[cmd_name])
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], VERBS, 1)
            hint = f"did you mean {near[0]!r}?" if near else "`arsched --help` lists them"
            raise UsageProblem(f"no command {args[0]!r}", hint)
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and ctx.params.get("cluster") is not None:
            from scheduler.cli.cluster import on_head  # ssh, git and the actions: only where they are asked for

            command = on_head(ctx.params["cluster"], args[0], command)
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        given = list(sys.argv[1:] if args is None else args) or ["--help"]
        if given[0] == "help":
            given = [*given[1:2], "--help"]
        guard_streams()
        with suppress(ValueError):  # not in the main thread, as tests may be
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where a parent ignores it, every child seems to succeed
        stdout = sys.stdout
        extra |= {"standalone_mode": False, "prog_name": "arsched"}
        settle_folders()
        try:
            code = super().main(given, **extra)
            sys.stdout.flush()
        except SystemExit:
            if sys.stdout is stdout:
                raise
            code = ExitCode.DONE  # click has put another there: a help page's reader has left
        except Exception as problem:
            code = self._answer(problem, as_json="--json" in given)
        except KeyboardInterrupt:
            code = self._answer(click.Abort(), as_json="--json" in given)
        sys.exit(code or 0)

    def _answer(self, problem: Exception, *, as_json: bool) -> int:
        if isinstance(problem, click.Abort):
            what, more = "interrupted", "nothing is lost, and what is queued stays queued"
            print_problem(ArschedError(what, more), as_json=True) if as_json else log(f"\n{what}; {more}")
            return ExitCode.INTERRUPTED
        named = _named(problem)
        try:
            print_problem(named, as_json=as_json and not isinstance(named, StdoutProblem))
        except StdoutProblem:
            print_problem(named, as_json=False)
        return named.exit_code


def _named(problem: Exception) -> ArschedError:
    """Any exception as one of ours. ARSCHED_DEBUG lets a defect of the program through with its trace."""
    if isinstance(problem, ArschedError):
        return problem
    if isinstance(problem, click.NoSuchOption) and problem.ctx is not None and problem.ctx.parent is None:
        near = difflib.get_close_matches(problem.option_name, (*_OF_MANY_VERBS, "--help", "--version"), 1)
        meant = f"did you mean {near[0]!r}? " if near and near[0] != problem.option_name else ""
        hint = f"{meant}Options of a command come after it: arsched status --json"
        return UsageProblem(f"no option {problem.option_name!r}", hint)
    if isinstance(problem, click.NoSuchOption) and problem.option_name == "--cluster" and problem.ctx is not None:
        return UsageProblem("--cluster comes before the command", f"arsched --cluster FILE {problem.ctx.info_name} …")
    if isinstance(problem, click.UsageError):
        where = problem.ctx.command_path if problem.ctx else "arsched"
        return UsageProblem(problem.format_message().rstrip("."), f"{where} --help")  # click names near options itself
    if isinstance(problem, click.ClickException):
        return UsageProblem(problem.format_message())
    if os.environ.get("ARSCHED_DEBUG"):
        raise problem
    if isinstance(problem, OSError) and problem.errno in _OS_HINTS:
        where = f": {problem.filename}" if problem.filename else ""
        return ArschedError(f"{problem.strerror}{where}", _os_hint(problem))
    what = f"{type(problem).__name__}: {problem}" if str(problem) else type(problem).__name__
    return ArschedError(f"arsched has a defect: {what}", "ARSCHED_DEBUG=1 shows where; nothing recorded is lost")


def _os_hint(problem: OSError) -> str:
    """Where a disk refuses a file of the cache, the hint names the variable that moves the cache."""
    hint = _OS_HINTS[problem.errno or 0]
    if problem.errno not in _DISK_REFUSES or not isinstance(problem.filename, str):
        return hint
    with suppress(OSError):  # then it is the cache's folder that is refused
        if not Path(problem.filename).is_relative_to(cache_root()):
            return hint
    return f"{hint}; ARSCHED_CACHE=FOLDER puts the cache elsewhere"


def _as_typed(title: str, lines: Iterable[str]) -> str:
    r"""A block below a help page that click does not wrap: \b says so."""
    return "\n".join(["\b", title, *(f"  {line}" for line in lines)])


_ENDINGS = _as_typed("Exit codes:", (f"{code.value:<3}  {meaning}" for code, meaning in MEANINGS.items()))
_COMPLETION = _as_typed(
    "Completion of commands, options and ids, for bash (zsh: zsh_source; fish: fish_source | source):",
    ['eval "$(_ARSCHED_COMPLETE=bash_source arsched)"'],
)


@click.group(
    cls=Arsched,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=f"{_as_typed('Examples:', _FIRST)}\n\n{_ENDINGS}\n\n{_COMPLETION}",
)
@click.option("--cluster", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Carry the command out on the head that this cluster.yaml names (docs/laptop.md).")  # fmt: skip
@click.version_option(None, "-V", "--version", package_name="arsched", prog_name="arsched")
def main(cluster: Path | None) -> None:
    """Run autoresearch on every slot you have, and believe the result.

    Agents, people or scripts edit train.py; arsched runs the candidates, judges them, and decides from the results
    which one becomes the next baseline. stdout is data, stderr is talk; ids accept `last`.
    """


if __name__ == "__main__":
    main()
