"""The lab a command is about: paths, contract, repository and ledger opened together, and what an id means in it.

Covers also the live file, where the process that runs the queue shows what every slot does. It is for display only: it
may be a second old and is left behind when its writer is killed. Opening makes no ledger; an earlier version's is moved
over first.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.contract import Contract, ContractError, load_contract
from harness.files import write_atomic
from scheduler.domain.candidate import Candidate
from scheduler.domain.errors import ArschedError, CacheProblem, LabProblem, UsageProblem
from scheduler.domain.lab import Lab
from scheduler.domain.run import Finished, Run, Running
from scheduler.domain.text import id_order, one_line
from scheduler.git import Repo
from scheduler.ledger import WHAT_IS_LEFT, Ledger, move_database
from scheduler.node.machine import boot_id
from scheduler.queue.diversion import say
from scheduler.queue.runtime import SUBMIT_LOCK_S, SchedulerLock, exclusive, not_before, steady_time


class LabPaths:
    """Every path of a lab. Nothing is read or made.

    `root` is the main worktree of the user's repository, `common` git's common directory (None: `root`/.git). What must
    not be lost is below `truth`, where neither git nor an agent cleans up; what is below `state` may go at any time.
    """

    def __init__(self, root: Path, common: Path | None = None) -> None:
        self.root, self.candidates, self.report = root, root / "candidates", root / "report"
        self.truth = (common or root / ".git") / "arsched"
        self.ledger = self.truth / "ledger.db"
        self.scheduler_lock = self.truth / "scheduler.lock"  # held by the one process that runs the queue
        # Held while candidates are queued: two cannot both be the first. In a folder of its own, which is locked, too.
        self.submit_lock = self.truth / "submit" / "submit.lock"
        self.live = self.truth / "live.json"  # what the slots do, about once a second; for display only
        self.contract = self.truth / "contract.json"  # as `python train.py` finds it when it runs alone
        self.runs = self.truth / "runs"
        self.state = root / ".arsched"
        self.shown_runs = self.state / "runs"  # a link to `runs`, for people
        self.ray_log = self.state / "ray.log"  # what Ray writes to its driver's terminal
        self.stop = self.state / "stop"  # asks a search to end as by Ctrl-C: `touch .arsched/stop`
        self.proposals = self.state / "proposals"  # what proposers write: worktrees and scratch files
        self.backup = self.state / "ledger-backup.db"  # of a while ago, in another place than the ledger
        self.old_ledger = self.state / "ledger.db"  # where versions before 0.2 kept it

    @property
    def has_ledger(self) -> bool:
        """Here, or still where an earlier version kept it."""
        return self.ledger.is_file() or self.old_ledger.is_file()

    def run(self, run_id: str, attempt: int) -> Path:
        """Folder of one attempt's artefacts: result.json and run.log."""
        return self.runs / f"{run_id}.{attempt}"

    def result(self, run_id: str, attempt: int) -> Path:
        return self.run(run_id, attempt) / "result.json"

    def log(self, run_id: str, attempt: int) -> Path:
        return self.run(run_id, attempt) / "run.log"


@dataclass(frozen=True, slots=True)
class Workspace:
    """One lab of one repository."""

    repo: Repo
    paths: LabPaths
    ledger: Ledger
    lab: Lab

    @property
    def tag(self) -> str:
        return self.lab.tag

    def baseline(self) -> Candidate:
        """The current baseline. Raises LabProblem when the lab has none yet."""
        return self.ledger.candidates.get(self.ledger.board(self.tag).baseline_id, self.tag)

    def baseline_commit(self) -> str:
        """What new candidates start from: the last promotion's commit, or the first baseline's."""
        return self.lineage()[-1][1]

    def lineage(self) -> tuple[tuple[str, str], ...]:
        """Candidate id and commit on the lab's branch of every baseline there was, the first one first."""
        promotions = self.ledger.decisions.promotions(self.tag)
        first = self.ledger.candidates.get(promotions[0].base_id, self.tag) if promotions else self.baseline()
        return ((first.id, first.commit), *((made.candidate_id, made.commit) for made in promotions))


def is_paused(space: Workspace) -> bool:
    """Whether `arsched pause` holds: nothing new begins, what runs is finished all the same."""
    return space.ledger.labs.get(space.tag).paused_at is not None


@contextmanager
def open_workspace(
    tag: str | None = None, start: Path | None = None, clock: Callable[[], float] = steady_time
) -> Iterator[Workspace]:
    """Open the lab `tag` (None: the current one) of the repository `start` (None: here) is in.

    Raises LabProblem without a repository or a lab, LedgerProblem when the ledger cannot be used.
    """
    repo = Repo.open(start or Path.cwd())
    paths = paths_of(repo)
    if not paths.ledger.is_file():
        raise _no_lab(repo, f"the ledger {paths.ledger} is gone")
    with Ledger.open(paths.ledger, clock) as ledger:
        lab = ledger.labs.get(tag) if tag else ledger.labs.current()
        if lab is None:
            raise _no_lab(repo, f"the ledger {paths.ledger} is a new one without a lab")
        if ledger.unwritable:
            say(sys.stderr, f"note: {ledger.unwritable}; what it has now can be read, nothing can be recorded")
        last = ledger.events.last(lab.tag)
        with not_before(last.at if last else 0.0):
            yield Workspace(repo, paths, ledger, lab)


def paths_of(repo: Repo) -> LabPaths:
    """The paths of a repository's labs, with what an earlier version kept in the checkout moved over.

    Raises LabProblem while a command of that version is at work, LedgerProblem when its ledger cannot be read.
    """
    paths = LabPaths(repo.root, repo.common_dir)
    if paths.old_ledger.is_file():
        with exclusive(paths.submit_lock, SUBMIT_LOCK_S), _earlier_locks(paths):
            _move_over(paths)
    return paths


@contextmanager
def _earlier_locks(paths: LabPaths) -> Iterator[None]:
    """Those of a version that kept everything in the checkout."""
    with ExitStack() as held:
        for name in (paths.scheduler_lock.name, paths.submit_lock.name):
            lock = SchedulerLock(paths.state / name, with_folder=False)
            if not lock.try_take():
                hint = "wait for it or end it, and run this command again: it moves the lab into git's own folder"
                raise LabProblem(f"a command of an earlier arsched is at work on {paths.old_ledger}", hint)
            held.callback(lock.release)
        yield


def _move_over(paths: LabPaths) -> None:
    """The ledger by one rename; a ledger in the new place is the lab's, whatever lies in the old one. Holds the locks.

    Killed anywhere, the next call goes on.
    """
    if not paths.old_ledger.is_file():  # another process was first
        return
    is_new = not paths.ledger.exists()
    if is_new:
        with suppress(FileNotFoundError):
            write_whole(paths.contract, (paths.state / paths.contract.name).read_bytes())
    show_runs(paths)
    kept = move_database(paths.old_ledger, paths.ledger)
    done = f"the lab lies in {paths.truth} now" if is_new else f"the lab lies in {paths.truth}, this was another ledger"
    say(sys.stderr, f"note: {done}; what was {paths.old_ledger} is kept as {kept.name}")


def show_runs(paths: LabPaths) -> None:
    """See that the folder for people is there, with a link to what the runs left. It may be deleted at any time."""
    with suppress(OSError):  # nothing depends on it
        paths.state.mkdir(exist_ok=True)
        if paths.shown_runs.is_symlink():
            return
        paths.runs.mkdir(parents=True, exist_ok=True)
        if paths.shown_runs.is_dir():
            for folder in paths.shown_runs.iterdir():
                shutil.move(folder, paths.runs / folder.name)
            paths.shown_runs.rmdir()
        paths.shown_runs.symlink_to(os.path.relpath(paths.runs, paths.state))


def back_up(space: Workspace) -> str:
    """Keep a copy of the ledger for people and `arsched restore`. Why that failed, "" where it did not.

    Of a ledger that is lost nothing is said here: whoever uses it next does.
    """
    with suppress(ArschedError):
        space.ledger.ensure_present()
        try:
            space.ledger.back_up(space.paths.backup)
        except ArschedError as problem:
            return f"{problem.message}; {problem.hint}"
    return ""


def _no_lab(repo: Repo, what: str) -> LabProblem:
    """`what` happened to the ledger, where git shows that there was one."""
    kept = repo.kept_tags()
    if not kept:
        return LabProblem(f"there is no lab in {repo.root} yet", "create one: arsched init --tag TAG")
    hint = f"{WHAT_IS_LEFT}; or create a lab with another tag: arsched init --tag TAG"
    return LabProblem(f"{what}; git still keeps every candidate and promotion of: {', '.join(kept)}", hint)


class ContractChoice(NamedTuple):
    """A contract and the word or path it was asked for by, which goes into hints."""

    ref: str
    contract: Contract

    @property
    def typed(self) -> str:
        """`ref` as a shell takes it: it may be a path with blanks."""
        return shlex.quote(self.ref)


def choose_contract(ref: str) -> ContractChoice:
    """Raises UsageProblem naming the key, or the nearest contract."""
    try:
        return ContractChoice(ref, load_contract(ref))
    except ContractError as problem:
        raise UsageProblem(str(problem), problem.hint) from None


def contract_of(lab: Lab) -> Contract:
    """Raises LabProblem when this version cannot read it."""
    try:
        return Contract.from_json(lab.contract_json)
    except ContractError as problem:
        raise LabProblem(f"the contract of lab {lab.tag!r} cannot be read: {problem}", problem.hint) from None


def contract_ref(lab: Lab, contract_file: Path) -> str:
    """What to call a lab's contract by: its name where that still means the same, else the file that holds it."""
    try:
        if load_contract(lab.contract_name).digest == lab.contract_digest:
            return lab.contract_name
    except ContractError:
        pass
    return str(contract_file)


def prepared_digest(choice: ContractChoice) -> str:
    """Digest of the contract's cache on this node. Raises CacheProblem when it is missing or damaged."""
    from scheduler.node.harness_client import probe_cache
    from scheduler.node.judge_process import Commands

    with tempfile.TemporaryDirectory(prefix="arsched-") as folder:
        facts = probe_cache(Commands().cache, choice.contract.to_json(), Path(folder), os.environ)
    if facts.problem:
        what = facts.problem.partition("; run:")[0]
        raise CacheProblem(what, f"prepare it first: arsched prepare --contract {choice.typed}")
    return facts.digest


def write_whole(path: Path, data: str | bytes, *, durable: bool = False) -> None:
    """Replace `path` by `data`, making its folder. `durable`: it shall outlive a power cut as well."""
    try:
        write_atomic(path, data, durable=durable)
    except OSError as problem:
        hint = "make room on that disk, see that the folder is writable, and run the command again"
        raise LabProblem(f"{path} cannot be written: {problem.strerror or problem}", hint) from None


def find(space: Workspace, ref: str) -> Candidate | Run:
    """Raises UsageProblem naming the nearest when there is none."""
    if re.fullmatch(r"r[0-9]+", ref):
        return space.ledger.runs.get(ref, space.tag)
    return space.ledger.candidates.get(ref, space.tag)


def find_run(space: Workspace, ref: str) -> Run:
    """A run by its id; `last` is the last run queued; a candidate stands for one of its runs.

    That is the one going on, else the last that ended, else the last queued. Raises UsageProblem.
    """
    found = space.ledger.runs.get(ref, space.tag) if ref == "last" else find(space, ref)
    if isinstance(found, Run):
        return found
    runs = space.ledger.runs.of_candidate(found.id)
    return max(
        runs, key=lambda run: (isinstance(run.state, Running), isinstance(run.state, Finished), id_order(run.id))
    )


@dataclass(frozen=True, slots=True)
class LiveSlot:
    """One slot. `run` is "" when it is free; `problem` says why nothing is placed on it.

    Seconds are by the judge's clock, None where none is known; step and loss as train.py says.
    """

    slot: str
    problem: str = ""
    run: str = ""
    candidate: str = ""
    name: str = ""
    kind: str = ""
    phase: str = ""
    elapsed_s: float | None = None
    budget_s: float | None = None
    step: int | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Live:
    """`at` is when it was written (seconds since the epoch), `pool` what makes the scores comparable.

    `search` is the number of the search that is on (0: none), `note` what it does next to the slots. `where`: what
    `process_space` says where its writer runs, "" if that is not known.
    """

    at: float
    pid: int
    tag: str
    pool: str
    queued: int
    stopping: bool
    slots: tuple[LiveSlot, ...]
    note: str = ""
    search: int = 0
    where: str = ""

    def may_be_alive(self) -> bool:
        """False for a writer that is known to have ended: a process of this machine that is gone, or a zombie."""
        if not self.where or self.where != process_space():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # another user's
            return True
        with suppress(OSError):
            return "\nState:\tZ" not in Path(f"/proc/{self.pid}/status").read_text()
        return True


def process_space() -> str:
    """Names what process numbers mean something in: this boot of this machine, and this container; "" if unknown."""
    try:
        return f"{boot_id()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def write_live(path: Path, live: Live) -> None:
    """Raises LabProblem when the disk refuses."""
    write_whole(path, json.dumps(asdict(live)))


def read_live(path: Path) -> Live | None:
    """With its texts cleaned. None when there is none, or it is of another version."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Live(**(raw | {"slots": tuple(map(_parse_slot, raw["slots"]))}))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _parse_slot(raw: dict[str, Any]) -> LiveSlot:
    cleaned: dict[str, Any] = {name: one_line(value) for name, value in raw.items() if isinstance(value, str)}
    return LiveSlot(**(raw | cleaned))
