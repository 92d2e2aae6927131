"""`arsched --cluster FILE VERB …`: the verb carried out on the head of a cluster, from a repository on this machine.

Candidates and files go there, what was promoted comes back as refs. What runs the queue goes on there when this ends.
"""

from __future__ import annotations

import copy
import io
import json
import os
import secrets
import shlex
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from scheduler.actions.candidate import place_worktree
from scheduler.actions.init import IGNORED, refuse_uncommitted
from scheduler.actions.submit import SubmitRequest
from scheduler.cli import options
from scheduler.cli.output import log, print_json, print_text, program, spell_as, typable
from scheduler.cli.submit import log_submission, no_paths
from scheduler.domain.errors import ArschedError, ExitCode, LabProblem, UsageProblem
from scheduler.git import Repo
from scheduler.lab import write_whole
from scheduler.remote import ssh
from scheduler.remote.carry import Carried, HeadState, RemoteLab
from scheduler.remote.login import read_login, refuse_other_cluster
from scheduler.remote.wire import MOST_BYTES, translate
from scheduler.shipped import SHIPPED, begin_repository, may_begin

_OF_THIS_MACHINE = ("demo",)
_GO_ON = ("init", "submit", "search", "audit", "calibrate", "prepare")  # where the laptop is closed
_BEFORE_A_LAB = ("init", "search", "doctor", "prepare")  # they make the repository there, with HEAD in it
_READ = ("status", "watch", "show", "logs", "explain", "brief", "leaderboard", "doctor", "labs")

Word = str | dict[str, str]  # a dict: a file, which the head names


def on_head(path: Path, verb: str, command: click.Command) -> click.Command:
    """The verb with the same options, carried out on the head that `path` names."""
    there = copy.copy(command)
    there.callback = lambda **params: _Verb.of(path, verb, command, params).run()
    return there


@dataclass(frozen=True, slots=True)
class _Verb:
    """One command line. `options` and `arguments` are its words but for those that name files of this machine."""

    lab: RemoteLab
    name: str
    typed_as: str
    params: dict[str, Any]
    options: list[Word]
    arguments: list[Word]
    blobs: list[str]
    listener: str = field(default_factory=lambda: secrets.token_hex(8))

    @classmethod
    def of(cls, path: Path, name: str, command: click.Command, params: dict[str, Any]) -> _Verb:
        """Raises UsageProblem for what cannot be done there."""
        if name in _OF_THIS_MACHINE:
            raise UsageProblem(f"arsched {name} runs on this machine alone", "leave --cluster out")
        login = read_login(path)
        refuse_other_cluster(login, params.get("address"))
        typed_as = f"{program(Path.cwd())} --cluster {shlex.quote(str(path))}"
        spell_as(typed_as)
        if name == "init" and not params.get("dry_run") and may_begin(Path.cwd()):
            begin_repository(Path.cwd())
            log(f"a git repository in {Path.cwd()}: {', '.join(SHIPPED)}")
        repo = Repo.open(Path.cwd())
        verb = cls(RemoteLab.of(login, repo), name, typed_as, params, [], [], [])
        verb._read_words(command)
        return verb

    def run(self) -> int:
        """Carry it out. Returns its exit code."""
        if self.name in _BEFORE_A_LAB and self.params.get("dry_run"):
            return self._try_out()
        state = self.lab.look(self.params.get("tag"), make=self.name in _BEFORE_A_LAB)
        if state.made:
            log(f"a repository for this one on {self.lab.login.target}: {state.root}")
        self._fetch_first(state)
        if self.name == "new":
            return self._new(state)
        if self.name == "submit":
            return self._submit(state)
        if self.name == "report":
            return self._report()
        if self.name == "init":
            self.lab.repo.exclude(IGNORED)
        self._send(state)
        return self._there()

    def _try_out(self) -> int:
        """A dry run of what makes a lab: where the lab is not there, in a repository that is dropped afterwards."""
        if self.name == "init":
            self._refuse_uncommitted()
        tag = self.params.get("tag") or (options.dated_tag() if self.name == "init" else None)
        state = self.lab.look(tag, make=False, may_lack=True)
        if state.tag:
            self.lab.send(state, self.blobs)
            return self._there()
        lab = self.lab.for_a_dry_run(self.listener)
        try:
            lab.send(lab.look(None, make=True), self.blobs, lab.repo.head_commit())
            return replace(self, lab=lab)._there()
        finally:
            with suppress(ArschedError):  # the next dry run does it
                lab.ask("drop")

    # The command line, spelt anew.

    def _read_words(self, command: click.Command) -> None:
        context = click.get_current_context()
        for param in command.params:
            name = str(param.name)
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE and name != "address":
                self._read_word(param, self.params[name])
        takes_address = any(param.name == "address" for param in command.params)
        if takes_address and self.params.get("all_nodes") is not False:  # `prepare` of one node joins no cluster
            self.options.append("--address=auto")

    def _read_word(self, param: click.Parameter, value: Any) -> None:
        if isinstance(param, click.Argument):
            if self.name != "submit":
                self.arguments.extend(str(one) for one in (value if isinstance(value, tuple) else (value,)))
            return
        option = max(param.opts, key=len)
        if isinstance(param, click.Option) and param.is_flag:
            self.options.append(option if value else max(param.secondary_opts, key=len, default=option))
        elif isinstance(param.type, click.Path) or (
            param.name == "contract" and Path(value).suffix in (".yaml", ".yml")
        ):
            self._read_file(option, Path(value))
        else:
            self.options.extend(f"{option}={one}" for one in (value if isinstance(value, tuple) else (value,)))

    def _read_file(self, option: str, path: Path) -> None:
        if (self.name, option) == ("report", "--out"):
            return
        if path.is_dir() or option not in ("--train", "--contract"):
            hint = f"log in on the head and run it there, or leave {option} out"
            raise UsageProblem(f"{option} {path} names something on this machine, and --cluster runs it there", hint)
        try:
            blob = self.lab.repo.add_blob(path.read_bytes())
        except OSError as problem:
            raise UsageProblem(f"{option} {path}: {problem.strerror}", "check the path") from None
        self.blobs.append(blob)
        self.options.append({"before": f"{option}=", "blob": blob, "name": path.name})

    # The ways of the verbs that are not simply run there.

    def _new(self, state: HeadState) -> int:
        _need_lab(state)
        (base, commit), name, dry_run = state.lineage[-1], str(self.params["name"]), bool(self.params["dry_run"])
        place, branch = place_worktree(self.lab, state.tag, name, commit, dry_run=dry_run)
        path = os.path.relpath(place)
        if self.params["as_json"]:
            print_json({"name": name, "path": str(place), "branch": branch, "base": base, "commit": commit,
                        "dry_run": dry_run})  # fmt: skip
            return 0
        print_text(path)
        log(f"\n{'would be' if dry_run else 'is'} on baseline {base} ({commit[:12]}) of the lab on the head")
        log(f"next:\n  edit {path}/train.py, and nothing else\n  arsched submit {path}")
        return 0

    def _submit(self, state: HeadState) -> int:
        _need_lab(state)
        paths, dry_run = self.params["paths"], bool(self.params["dry_run"])
        if not paths and any(self.params[name] for name in ("no_wait", "dry_run", "title", "again")):
            raise no_paths()
        carried = self.lab.carry(SubmitRequest(paths, self.params["title"], dry_run=dry_run), state.lineage)
        rest, as_json = carried.rest, bool(self.params["as_json"])
        log_submission(rest)
        if not carried.words and paths and rest.matched_nothing:
            named = ", ".join(map(str, paths[:3])) + (" …" if len(paths) > 3 else "")
            raise UsageProblem(f"nothing to submit in {named}", "make a candidate: arsched new NAME")
        code, said = 0, "{}"
        if carried.words or not paths:
            self.lab.send(state, carried.commits)
            self.arguments.extend(carried.words)
            code, said = self._run(carried.paths, keep_output=True) if as_json else (self._there(carried.paths), "{}")
        if as_json:
            print_json(self.lab.read(lambda: _with_rest(said, carried, state.tag)))
        return code or (ExitCode.FAILED if rest.failed else ExitCode.ANSWER_IS_NO if rest.refused else 0)

    def _report(self) -> int:
        """Made there, read here."""
        out: Path = self.params["out"] or self.lab.paths.report
        self.options.append({"report": "--out=", "listener": self.listener})
        code, said = self._run({}, keep_output=bool(self.params["as_json"]), silent=True)
        if code:
            if said:
                print_text(said, end="")
            return code
        found = self.lab.report_files(self.listener)
        written = {name: out / name for name in found}
        for name, data in found.items():
            write_whole(written[name], data)
        if self.params["as_json"]:
            print_json(_with_paths(self.lab.read(lambda: json.loads(said)), written))
            return 0
        for path in written.values():
            log(f"wrote {os.path.relpath(path)}")
        return 0

    def _send(self, state: HeadState) -> None:
        """What a lab is made of, where it is made, and the files that the command names."""
        makes = self.name in _BEFORE_A_LAB and (not state.tag or self.name == "init")
        if self.name == "init":
            self._refuse_uncommitted()
        self.lab.send(state, self.blobs, self.lab.repo.head_commit() if makes else None)

    def _refuse_uncommitted(self) -> None:
        if self.params["train"] is None:
            head = self.lab.repo.head_commit()
            refuse_uncommitted(self.lab.repo, self.lab.repo.inspect(self.lab.repo.root, head).changed)

    # The verb there.

    @property
    def goes_on(self) -> bool:
        given = self.params
        once = given.get("dry_run") or given.get("detach") or given.get("no_wait") or given.get("wait") is False
        return self.name in _GO_ON and not once

    def _request(self, spelt: dict[str, str]) -> dict[str, Any]:
        login = self.lab.login
        return self.lab.request(
            "run", verb=self.name, words=[*self.options, "--", *self.arguments], programs=login.programs,
            environ={**_of_this_terminal(), **login.environ}, typed_as=self.typed_as, goes_on=self.goes_on,
            json=bool(self.params.get("as_json")), listener=self.listener, spelt=spelt,
            leaving=typable(self._what_becomes_of_it()),
        )  # fmt: skip

    def _there(self, spelt: dict[str, str] | None = None) -> int:
        """`spelt`: words of the head -> what they are called here."""
        request = self._request(spelt or {})
        shown = (self.goes_on or not spelt) and not self.params.get("as_json") and _has_terminal()
        if not shown or not ssh.can_show(request):
            return self._run(spelt or {})[0]
        code = ssh.show(self.lab.login, request)
        if code != ExitCode.INTERRUPTED:  # then its end is not seen yet
            self._fetch_again()
        return code

    def _run(self, spelt: dict[str, str], *, keep_output: bool = False, silent: bool = False) -> tuple[int, str]:
        """Exit code, and what was kept of stdout."""
        kept = io.StringIO()

        def take(text: str) -> None:
            if not keep_output:
                print_text(translate(text, spelt), end="")
            elif kept.tell() < MOST_BYTES:  # what is cut makes no sense, and is called that
                kept.write(text)

        def talk(text: str) -> None:
            if not (silent and (text.startswith("wrote ") or not text.strip())):
                log(translate(text, spelt).rstrip("\n"))

        try:
            code = ssh.follow(self.lab.login, self._request(spelt), take, talk)
        except KeyboardInterrupt:
            log(self._what_becomes_of_it())
            return ExitCode.INTERRUPTED, ""
        self._fetch_again()
        return code, kept.getvalue()

    def _what_becomes_of_it(self) -> str:
        if not self.goes_on:
            return "\nleft; nothing is lost"
        where = self.lab.login.target
        return f"\nleft; it goes on at {where}. Look on with: arsched watch; end it with: arsched stop"

    def _fetch_first(self, state: HeadState) -> None:
        """Raises ArschedError for verbs that need what is fetched; a queue can be stopped without room on this disk."""
        try:
            self._fetch(state)
        except ArschedError as problem:
            if self.name in ("new", "submit"):
                raise
            _note_unfetched(problem)

    def _fetch_again(self) -> None:
        if self.name in _READ or self.params.get("dry_run"):
            return
        try:
            self._fetch(self.lab.look(self.params.get("tag"), make=False, heard=self.listener))
        except ArschedError as problem:
            _note_unfetched(problem)

    def _fetch(self, state: HeadState) -> None:
        for moved in self.lab.fetch(state):
            name = f"autoresearch/{moved.tag}"
            if moved.taken:
                log(f"note: {name} here is another lab's; this cluster's: git log {moved.shown}")
                continue
            own = self.lab.repo.branch_commit(name) is not None
            log(f"fetched   {name} is at {moved.commit[:12]}: git log {'remotes/' if own else ''}{name}")


def _note_unfetched(problem: ArschedError) -> None:
    log(f"note: what was promoted is not fetched yet, the next command does that: {problem.message}")


def _need_lab(state: HeadState) -> None:
    if state.problem is not None or not state.lineage:
        raise state.problem or LabProblem("the lab on the head has no baseline yet", "see: arsched status")


def _of_this_terminal() -> dict[str, str]:
    """Wishes about screens, which ssh does not hand on; the size of a terminal it does."""
    wishes = ("NO_COLOR", "FORCE_COLOR", *(() if _has_terminal() else ("COLUMNS",)))
    return {name: os.environ[name] for name in wishes if name in os.environ}


def _has_terminal() -> bool:
    return all(os.isatty(number) for number in (0, 1, 2))


def _with_rest(said: str, carried: Carried, tag: str) -> dict[str, Any]:
    """The value of `submit --json` of the head, with the paths of this machine and what was refused here."""
    value: dict[str, Any] = json.loads(said) if said.strip() else {}
    if "error" in value:
        return value
    for key in ("dry_run", "refused", "failed"):
        value[key] = [row | {"path": carried.paths.get(row["path"], row["path"])} for row in value.get(key, [])]
    for key, rows in (("refused", carried.rest.refused), ("failed", carried.rest.failed)):
        value[key] += [{"path": str(row.path), "error": row.reason, "hint": row.hint} for row in rows]
    value["skipped"] = [*value.get("skipped", []), *carried.rest.skipped]
    return {"tag": tag, "candidates": [], "waited": False} | value


def _with_paths(value: Any, written: dict[str, Path]) -> Any:
    """The value with every text that is the path of a file written here as that path."""
    if isinstance(value, dict):
        return {key: _with_paths(one, written) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_paths(one, written) for one in value]
    if isinstance(value, str) and value.startswith("/") and Path(value).name in written:
        return str(written[Path(value).name])
    return value
