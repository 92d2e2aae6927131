"""The place step: queued runs onto free slots, lease first, then start.

A crash between the two costs the run a few seconds, never a second run. Who goes first is scheduler.policy.dispatch's.
Scores are compared within one pool of like slots only, so a lab measures on one and leaves others alone.
"""

from __future__ import annotations

import secrets
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from scheduler.domain.candidate import Candidate
from scheduler.domain.errors import PoolProblem
from scheduler.domain.lab import Lab
from scheduler.domain.run import THROTTLED, Finished, Queued, Run, RunKind, Running, Scored
from scheduler.domain.slot import DIRTY, Pool, RunOrder, Slot, compile_key, is_in_use
from scheduler.lab import Workspace
from scheduler.policy.calibration import fit_to_slots, pair_calibration
from scheduler.policy.decide import is_holding
from scheduler.policy.dispatch import free_soon, order_runs, pair_claims, pair_runs, slots_had
from scheduler.policy.siblings import without_held
from scheduler.queue.slot_news import SlotNews

FIRST_REST_S, LONGEST_REST_S = 5.0, 300.0


class Placer:
    """Remembers which slots refused an order lately: a broken one is not asked in every round, and is named once."""

    def __init__(
        self, space: Workspace, pool: Pool, clock: Callable[[], float], log: Callable[[str], None], lease_s: float
    ) -> None:
        self._space, self._pool, self._clock, self._lease_s = space, pool, clock, lease_s
        self._rests: dict[str, tuple[float, float]] = {}  # slot id -> until, for how long
        self._refusals: dict[str, str] = {}  # slot id -> why it refused twice or more in a row
        self._news = SlotNews(log)
        self._first_score: Run | None = None  # found once, it stays the first
        self._first: Candidate | None = None  # the train.py the lab was opened with, whatever was promoted since
        self.pool_name = ""

    def usable(self, running: Sequence[Run]) -> tuple[Slot, ...]:
        """Healthy slots of the lab's pool. `running` are the runs that hold a slot now. Raises PoolProblem."""
        healthy = [slot for slot in self._pool.slots() if not problem_of(slot, self._space.lab)]
        # The pool of the lab's first score, else one that a run is going on.
        self._first_score = self._first_score or _first_score(self._space)
        measured = self._first_score or next(iter(running), None)
        counts = Counter(slot.pool for slot in healthy)
        most_common = min(counts, key=lambda pool: (-counts[pool], pool), default="")  # the first by name among equals
        self.pool_name = (measured.pool if measured else "") or most_common
        return tuple(slot for slot in healthy if slot.pool == self.pool_name)

    def name_unusable(self) -> None:
        """Say which slots take no run, and which do again. After `usable`. Raises PoolProblem."""
        slots = self._pool.slots()
        problems = {slot.id: self._problem(slot) for slot in slots}
        self._news.follow(slots, {slot_id: problem for slot_id, problem in problems.items() if problem}, self._clock())

    def _problem(self, slot: Slot) -> str:
        problem = problem_of(slot, self._space.lab)
        if not problem and slot.pool != self.pool_name:
            return f"its scores would not compare: it is {slot.pool}, this lab measures on {self.pool_name}"
        if problem and not slot.problem:
            return f"{problem}; see `arsched doctor`"
        return problem or self._refusals.get(slot.id, "")

    def place(self, queued: Sequence[Run], running: Sequence[Run], usable: Sequence[Slot]) -> int:
        """Start queued runs on all free slots. Returns how many. Raises PoolProblem, LedgerProblem."""
        taken = {run.state.slot_id for run in running if isinstance(run.state, Running)}
        resting = {slot_id for slot_id, (until, _) in self._rests.items() if self._clock() < until}
        free = [slot for slot in usable if slot.id not in taken | resting]
        if not free or not queued:
            return 0
        return sum(self._start(run, slot) for run, slot in self._pair(queued, running, free, usable))

    def _pair(
        self, queued: Sequence[Run], running: Sequence[Run], free: Sequence[Slot], usable: Sequence[Slot]
    ) -> list[tuple[Run, Slot]]:
        """Which run goes onto which free slot, in the order of `order_runs`.

        A calibration's runs come after the baseline's own; a claim's go onto what all others leave.
        """
        board = replace(self._space.ledger.board(self._space.tag), now=self._clock())
        if is_holding(board):
            queued = without_held(queued)
        others = [run for run in queued if run.kind not in (RunKind.CLAIM, RunKind.CALIBRATION)]
        slots = {slot.id: slot for slot in free}
        lost_on = {run.id: self._lost_on(run) for run in others if run.attempts}
        had = slots_had(others, running, board)
        soon = free_soon(running, self._clock(), board.run_s)
        ordered = order_runs(others, running, len(usable), board)
        first = sum(run.kind is RunKind.BASELINE and run.candidate_id == board.baseline_id for run in others)
        pairs: list[tuple[Run, Slot]] = []
        for group in (ordered[:first], None, ordered[first:]):
            if group is None:
                placed = self._pair_calibration(queued, tuple(slots), usable)
            else:
                placed = pair_runs(group, tuple(slots), [slot.id for slot in usable], lost_on, had, soon)
            pairs += [(run, slots.pop(slot_id)) for run, slot_id in placed]
        claims = [run for run in queued if run.kind is RunKind.CLAIM]
        if claims and slots:
            paired = pair_claims(claims, tuple(slots), _claims_begun(self._space))
            pairs += [(run, slots[slot_id]) for run, slot_id in paired]
        return pairs

    def _pair_calibration(
        self, queued: Sequence[Run], free: Sequence[str], usable: Sequence[Slot]
    ) -> tuple[tuple[Run, str], ...]:
        """Every slot that joins a calibration gets its runs, and what was for one that is gone is cancelled."""
        if not any(run.kind is RunKind.CALIBRATION for run in queued):
            return ()
        runs, tag = self._space.ledger.runs, self._space.tag
        change = fit_to_slots(runs.of_kind(tag, RunKind.CALIBRATION), [slot.id for slot in usable])
        for candidate, seed in change.add:
            runs.add(candidate, RunKind.CALIBRATION, "calibration: a run for each slot", seed)
        for run in change.cancel:
            runs.cancel(run.id, "calibration: no slot is left that has not had its seed")
        its = runs.of_kind(tag, RunKind.CALIBRATION)
        return pair_calibration([run for run in its if isinstance(run.state, Queued)], free, its)

    def _lost_on(self, run: Run) -> frozenset[str]:
        """Slots that lost it or slowed it down."""
        attempts, slowed = self._space.ledger.runs.attempts(run.id), f"suspect: {THROTTLED}"
        return frozenset(attempt.slot_id for attempt in attempts if attempt.charge or attempt.outcome == slowed)

    def _start(self, run: Run, slot: Slot) -> bool:
        runs = self._space.ledger.runs
        nonce = secrets.token_hex(16)
        order = self._order(run, slot, nonce)
        attempt = runs.lease(run.id, slot, self._clock() + self._lease_s, nonce)
        if attempt is None:
            return False  # cancelled meanwhile
        try:
            self._pool.start(slot.id, order(attempt))
        except PoolProblem as problem:
            runs.requeue(run.id, attempt, problem.message, counts=False)
            before_s = self._rests.get(slot.id, (0.0, 0.0))[1]
            pause_s = min(max(2 * before_s, FIRST_REST_S), LONGEST_REST_S)
            self._rests[slot.id] = (self._clock() + pause_s, pause_s)
            if before_s:
                self._refusals[slot.id] = problem.message.removeprefix(f"{slot.id} takes no run: ")
            return False
        self._rests.pop(slot.id, None)
        self._refusals.pop(slot.id, None)
        return True

    def _order(self, run: Run, slot: Slot, nonce: str) -> Callable[[int], RunOrder]:
        lab, ledger = self._space.lab, self._space.ledger
        candidate = ledger.candidates.get(run.candidate_id, lab.tag)
        train_py = ledger.candidates.train_py(candidate.id)
        on_gpu, attention = lab.device == "cuda", None
        if on_gpu and self._first_score and isinstance(self._first_score.state, Finished):
            attention = self._first_score.state.result.measured.attention  # another kernel would not compare
        first = self._first = self._first or ledger.candidates.get(self._space.lineage()[0][0], lab.tag)
        return lambda attempt: RunOrder(
            lab_id=lab.lab_id, run_id=run.id, attempt=attempt, seed=run.seed, nonce=nonce, expect_attention=attention,
            train_py=train_py, train_sha256=candidate.train_sha256,
            contract_json=lab.contract_json, cache_digest=lab.cache_digest,
            compile_key=compile_key(slot, first.train_sha256) if on_gpu else "",
            may_keep_caches=on_gpu and candidate.id == first.id, sandbox=lab.sandbox,
        )  # fmt: skip


def problem_of(slot: Slot, lab: Lab) -> str:
    """Why a slot takes no run of this lab; "" when it does."""
    if slot.problem:
        return slot.problem
    if slot.cache_digest == lab.cache_digest:
        return ""
    there = slot.cache_digest[:12] or "none"
    return f"its {lab.contract_name} cache is {there}, the lab's is {lab.cache_digest[:12]}"


def nothing_usable(slots: Sequence[Slot], lab: Lab, contract: str) -> PoolProblem:
    """The error for a pool in which no slot can run this lab; `contract` is what to call its contract by."""
    if not slots:
        kind = "GPU" if lab.device == "cuda" else "core"
        return PoolProblem(f"no slot: contract {lab.contract_name!r} needs a {kind}", "see `arsched doctor`")
    problems = Counter(problem_of(slot, lab) or f"it is of another pool: {slot.pool}" for slot in slots)
    shown = "; ".join(f"{count} × {problem}" if count > 1 else problem for problem, count in problems.most_common(3))
    hint = f"on every node: arsched prepare --contract {shlex.quote(contract)}; then `arsched doctor`"
    if any(slot.problem.startswith(DIRTY) for slot in slots):
        hint = "what runs there is not arsched's and is left alone: end it (nvidia-smi shows it), or wait for its end"
    if any(map(is_in_use, slots)):
        hint = "they share the machine: each waits until the other's run is over"
    return PoolProblem(f"none of {len(slots)} slots can run lab {lab.tag!r}: {shown}", hint)


def _claims_begun(space: Workspace) -> tuple[Run, ...]:
    """Claim runs of the running search which hold or held a slot, in the order of their queueing."""
    search = space.ledger.searches.current(space.tag)
    since = search.started_at if search else 0.0
    claims = [run for run in space.ledger.runs.list(space.tag) if run.kind is RunKind.CLAIM]
    return tuple(run for run in claims if isinstance(run.state, Running | Finished) and run.state.started_at >= since)


def _first_score(space: Workspace) -> Run | None:
    """The first run of the lab that has a score, a baseline's; None before there is any."""
    runs = space.ledger.runs.of_candidate(space.lineage()[0][0])
    scored = (run for run in runs if isinstance(run.state, Finished) and isinstance(run.state.result.verdict, Scored))
    return next(scored, None)
