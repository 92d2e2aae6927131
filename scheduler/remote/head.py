"""The head's side: `python -m scheduler.remote.head`, started by the laptop's ssh for each question and each verb.

A lab of a laptop's repository lives in ~/labs/NAME-HASH. Its HEAD is the branch `laptop`, what was last carried there.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from scheduler.cli.output import TYPED_AS, guard_streams, log, print_problem, print_text
from scheduler.domain.errors import ArschedError, ExitCode, GitProblem, LabProblem
from scheduler.git import Repo, begin_empty
from scheduler.lab import LabPaths, open_workspace, write_whole
from scheduler.remote import jobs
from scheduler.remote.wire import (
    DRY_RUN,
    LABS,
    MOST_PACK_BYTES,
    REPOSITORY,
    Request,
    answer,
    decode,
    problem_answer,
    translate,
)  # fmt: skip

BRANCH = "laptop"
DRY_RUN_KEPT_S = 86400.0
_OF_DRY_RUN = re.compile(rf"{DRY_RUN}[0-9a-f]{{16}}-[0-9a-f]{{12}}")
EMPTY = "empty"  # where `submit` is started: no word of its can be a file there


def main(arguments: list[str]) -> int:
    """Answer one request. Returns the exit code of the verb, 0 after an answer."""
    guard_streams()
    try:
        request = decode(arguments[0] if arguments else sys.stdin.buffer.readline().decode("ascii", "replace").strip())
    except ArschedError as problem:
        if arguments:  # on a person's terminal
            print_problem(problem, as_json=False)
            return problem.exit_code
        print_text(problem_answer(problem))
        return 0
    if request["ask"] == "run":
        if not arguments:  # what comes before is a login shell's
            print_text(answer({}))
        try:
            return _run_or_say(request)
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED
    try:
        print_text(answer(QUESTIONS[request["ask"]](request)))
    except GitProblem as problem:
        problem.message = f"on the head: {problem.message}"
        print_text(problem_answer(problem))
    except ArschedError as problem:
        print_text(problem_answer(problem))
    except OSError as problem:
        print_text(problem_answer(_disk_problem(problem)))
    return 0


def _disk_problem(problem: OSError) -> ArschedError:
    what = f"on the head: {problem.strerror or problem}{f': {problem.filename}' if problem.filename else ''}"
    return LabProblem(what, "see to that there, and run the same command again")


def root_of(request: Request) -> Path:
    """Where the repository of a laptop is. Raises LabProblem for a name that could lead elsewhere."""
    name = str(request["repository"])
    if not REPOSITORY.fullmatch(name):
        raise LabProblem(f"{name!r} names no repository of a laptop", "use `arsched --cluster`")
    return Path.home() / LABS / name


def look(request: Request) -> dict[str, Any]:
    """The repository, made if asked for, its refs, and the lab of `tag` (None: the current one) if there is one.

    Its root is "" where it is not there.

    `heard` is the listener that has seen the end of its verb, "" where there is none.
    """
    root, made = root_of(request), False
    if request["heard"]:
        jobs.confirm(_jobs_folder(LabPaths(root)), str(request["heard"]))
    if request["make"]:
        made = begin_empty(root, BRANCH, int(request["hash_digits"]))
    elif not (root / ".git").is_dir():
        problem = f"the head has no lab of this repository yet ({root} is not there)"
        hint = "create one: arsched init --contract standard"
        return {"made": False, "root": "", "refs": {}, "problem": problem, "hint": hint}
    repo = Repo.open(root)
    found: dict[str, Any] = {"made": made, "root": str(root), "refs": repo.read_refs("refs/heads/", "refs/arsched/")}
    try:
        with open_workspace(request["tag"], root) as space:
            return found | {"tag": space.tag, "lineage": space.lineage()}
    except ArschedError as problem:
        return found | {"problem": problem.message, "hint": problem.hint}


def take(request: Request, source: BinaryIO | None = None) -> dict[str, Any]:
    """What was carried here (on stdin), into the repository; with `head`, its checkout is moved to that commit."""
    repo, size = Repo.open(root_of(request)), int(request["bytes"])
    pack = (source or sys.stdin.buffer).read(size)
    if len(pack) != size:
        raise LabProblem(f"{len(pack)} of {size} bytes arrived", "the same command again")
    repo.take_pack(pack, request["wanted"])
    if request["head"]:
        repo.check_out(BRANCH, request["head"])
    return {}


def give(request: Request) -> dict[str, Any]:
    """A pack of `wanted` for a laptop that has `known`."""
    repo = Repo.open(root_of(request))
    pack = repo.make_pack(request["wanted"], request["known"])
    if len(pack) > MOST_PACK_BYTES:
        what = f"what is new there are {len(pack) >> 20} MiB, and a command fetches {MOST_PACK_BYTES >> 20} MiB"
        into = "'refs/heads/autoresearch/*:refs/remotes/head/*'"
        raise LabProblem(what, f"fetch it once with git: git fetch ssh://USER@HEAD{repo.root} {into}")
    return {"pack": base64.b64encode(pack).decode()}


def files(request: Request) -> dict[str, Any]:
    """The files of the report that was made here for this listener; they are deleted."""
    folder = report_folder(LabPaths(root_of(request)), str(request["listener"]))
    found = {path.name: base64.b64encode(path.read_bytes()).decode() for path in folder.iterdir() if path.is_file()}
    shutil.rmtree(folder)
    return {"files": found}


def drop(request: Request) -> dict[str, Any]:
    """Delete the repository of a dry run, and those that links which broke have left."""
    root = root_of(request)
    for place in filter(lambda place: _OF_DRY_RUN.fullmatch(place.name), root.parent.iterdir()):
        with suppress(OSError):
            if place == root or time.time() - place.stat().st_mtime > DRY_RUN_KEPT_S:
                shutil.rmtree(place)
    return {}


QUESTIONS: dict[str, Callable[[Request], dict[str, Any]]] = {
    "look": look, "take": take, "give": give, "files": files, "drop": drop
}  # fmt: skip


def _jobs_folder(paths: LabPaths) -> Path:
    return paths.truth / "remote" / "jobs"


def report_folder(paths: LabPaths, listener: str) -> Path:
    """Of each listener its own: two may ask at a time, and one that was killed leaves files."""
    return paths.truth / "remote" / "report" / Path(listener).name


def _run_or_say(request: Request) -> int:
    try:
        return run(request)
    except ArschedError as problem:
        print_problem(problem, as_json=bool(request["json"]))
        return problem.exit_code
    except OSError as problem:
        print_problem(_disk_problem(problem), as_json=bool(request["json"]))
        return ExitCode.FAILED


def run(request: Request) -> int:
    """Run a verb in the repository, in this process's place or, with `goes_on`, as a job that is followed."""
    root = root_of(request)
    paths = LabPaths(root)
    remote = paths.truth / "remote"
    words = [_word(remote, paths, word) for word in request["words"]]
    program = os.path.abspath(os.path.expanduser(f"{request['programs']}/arsched"))  # as seen from the home
    environ = environ_of(request)
    place = remote / EMPTY if request["verb"] == "submit" else root
    place.mkdir(parents=True, exist_ok=True)
    line = [program, str(request["verb"]), *words]
    if not request["goes_on"]:
        os.chdir(place)
        if not sys.stdin.isatty():
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execve(program, line, environ)
    job = jobs.start_or_join(
        _jobs_folder(paths), line, place, environ, listener=str(request["listener"]),
        hear_end=request["verb"] == "search",
    )  # fmt: skip
    if not job.is_new:
        ended = "note: it ended meanwhile; this is its end, and the same command again begins another"
        log(ended if job.code() is not None else "note: it is at work already; from here on:")
    if sys.stdin.isatty():
        return _follow_on_terminal(request, job, paths.live)
    code = jobs.follow(job)
    return ExitCode.INTERRUPTED if code is None else code


def _follow_on_terminal(request: Request, job: jobs.Job, live: Path) -> int:
    from scheduler.remote.terminal import follow_on_terminal  # rich: a tenth of a second

    try:
        return follow_on_terminal(job, live, lambda text: translate(text, request["spelt"]))
    except KeyboardInterrupt:
        log(request["leaving"])
        return ExitCode.INTERRUPTED


def _word(remote: Path, paths: LabPaths, word: str | dict[str, str]) -> str:
    """A word of the command line; one for a file that was carried here names it where it is put."""
    if isinstance(word, str):
        return word
    if "report" in word:
        return f"{word['report']}{report_folder(paths, word['listener'])}"
    place = remote / "files" / word["blob"][:12] / Path(word["name"]).name
    write_whole(place, Repo.open(paths.root).read_blob(word["blob"]))
    return f"{word['before']}{place}"


def environ_of(request: Request) -> dict[str, str]:
    """What a verb runs with. Programs where a login shell has them: an agent's command may lie in ~/.local/bin."""
    folders = [os.path.expanduser(folder) for folder in (request["programs"], "~/.local/bin", "~/bin")]
    there = [folder for folder in folders if os.path.isdir(folder)]
    path = os.pathsep.join([*there, os.environ.get("PATH", os.defpath)])
    given = {name: os.path.expandvars(os.path.expanduser(value)) for name, value in request["environ"].items()}
    return {**os.environ, **given, "PATH": path, TYPED_AS: request["typed_as"]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
