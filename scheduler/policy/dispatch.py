"""Which queued run goes next when a slot is free, and why another has to wait.

Runs of the current baseline, a calibration's (policy/calibration.py places them), repeats within their share of the
slots (first runs of merged candidates among them), audits, new candidates, then what only fills slots: repeats beyond
their share and runs of a former baseline. Runs of a claim come last, on slots of their own: each measures both sides.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from scheduler.domain.candidate import CandidateStats
from scheduler.domain.decision import GateSettings
from scheduler.domain.lab import LabSnapshot
from scheduler.domain.run import Run, RunKind, Running
from scheduler.policy.decide import is_holding
from scheduler.policy.siblings import without_held

SOON = 0.1  # of a run's length
_REPEATS = (RunKind.REPEAT, RunKind.UNION)
_NONE: Counter[str] = Counter()


def order_runs(queued: Sequence[Run], running: Sequence[Run], slots: int, lab: LabSnapshot | None) -> tuple[Run, ...]:
    """All queued runs in the order to place them, equals in the order given. Without a lab, by kind alone."""
    repeats = [run for run in queued if run.kind in _REPEATS]
    if lab is not None:
        repeats.sort(key=lambda run: _neediness(run, lab.of(run.candidate_id)))
    allowed = max(0, repeats_allowed(slots, lab) - _count_repeats(running))
    baselines = [run for run in queued if run.kind is RunKind.BASELINE]
    current = [run for run in baselines if lab is None or run.candidate_id == lab.baseline_id]
    former = [run for run in baselines if run not in current]
    new = [run for run in queued if run.kind is RunKind.NEW]
    claims = [run for run in queued if run.kind is RunKind.CLAIM]
    calibrations = [run for run in queued if run.kind is RunKind.CALIBRATION]
    audits = [run for run in queued if run.kind is RunKind.AUDIT]  # someone waits for them
    ahead = (*current, *calibrations, *repeats[:allowed])
    return (*ahead, *audits, *new, *repeats[allowed:], *former, *claims)


def pair_runs(
    ordered: Sequence[Run], free: Sequence[str], usable: Sequence[str], lost_on: Mapping[str, frozenset[str]],
    had: Mapping[str, Counter[str]] | None = None, soon: Collection[str] = (),
) -> tuple[tuple[Run, str], ...]:  # fmt: skip
    """Runs onto free slots (ids), the first run onto the first slot.

    A run that some slots lost (`lost_on`, by run id) waits for one of the `usable` that has not, if there is one: it
    alone can tell whether the slot or the candidate is to blame.
    Scores of one candidate come from different slots, so that a slot's own offset moves no mean: a run takes the free
    slot that has `had` (by run id) fewest of its candidate's. A repeat lets others pass while one that has had fewer
    still is free `soon`; no slot idles for that.
    """
    left, pairs, passed = list(free), [], []
    for run in ordered:
        allowed = _allowed(usable, lost_on.get(run.id, frozenset()))
        open_to_it = [slot for slot in left if slot in allowed]
        counts = (had or {}).get(run.id, _NONE)
        slot = min(open_to_it, key=counts.__getitem__, default=None)
        if slot is None:
            continue
        if run.kind is RunKind.REPEAT and any(counts[other] < counts[slot] for other in allowed & set(soon)):
            passed.append((run, allowed, counts))
            continue
        left.remove(slot)
        pairs.append((run, slot))
    for run, allowed, counts in passed:
        slot = min((slot for slot in left if slot in allowed), key=counts.__getitem__, default=None)
        if slot is not None:
            left.remove(slot)
            pairs.append((run, slot))
    return tuple(pairs)


def slots_had(queued: Iterable[Run], running: Sequence[Run], lab: LabSnapshot) -> dict[str, Counter[str]]:
    """Run id -> how often each slot (id) has measured or measures its candidate; only where one has."""
    now: dict[str, Counter[str]] = defaultdict(Counter)
    for run in running:
        now[run.candidate_id][run.slot_id] += 1
    return {
        run.id: now.get(run.candidate_id, _NONE) + Counter(occasion.slot_id for occasion in occasions)
        for run in queued
        if (occasions := lab.of(run.candidate_id).occasions) or run.candidate_id in now
    }


def free_soon(running: Sequence[Run], now: float, run_s: float | None) -> frozenset[str]:
    """Slots (ids) whose runs are expected to end within SOON of a run's length, or are late by no more than that."""
    if not run_s:
        return frozenset()
    ends = [(run.slot_id, run.state.started_at + run_s) for run in running if isinstance(run.state, Running)]
    return frozenset(slot for slot, end in ends if abs(end - now) <= SOON * run_s)


def _allowed(usable: Sequence[str], lost: frozenset[str]) -> frozenset[str]:
    return frozenset(usable) - lost or frozenset(usable)


def repeats_allowed(slots: int, lab: LabSnapshot | None) -> int:
    """How many repeats may hold slots that others want: at least one, so that no contender starves."""
    gates = lab.gates if lab else GateSettings()
    return max(1, int(slots * gates.max_repeat_share))


def pair_claims(queued: Sequence[Run], free: Sequence[str], begun: Sequence[Run]) -> tuple[tuple[Run, str], ...]:
    """Queued runs of a claim for free slots (ids), so that every slot measures both baselines, one after the other.

    `begun` are the claim's runs that hold or held a slot. No more slots are used than can measure both; when one of
    them is lost, another takes its place. A slot that is ahead of the others leaves them the runs they still need.
    """
    left, history = list(queued), [(run.slot_id, run.candidate_id) for run in begun]
    busy = {run.slot_id for run in begun if isinstance(run.state, Running)}
    known = {slot for slot, _ in history}
    allowed = max(1, (len(queued) + len(begun)) // 2)
    if known and not busy and not known & set(free):
        allowed = len(known) + 1  # all slots it had are lost
    both = {run.candidate_id for run in (*queued, *begun)}
    pairs: list[tuple[Run, str]] = []
    for slot in sorted(free, key=lambda slot: slot not in known):
        if slot not in known and len(known) >= allowed:
            break
        others = known & (busy | set(free)) - {slot}
        owed = Counter(candidate for other in others for candidate in _owed_to(other, both, history))
        run = _next_claim(left, slot, history, owed)
        if run is None:
            continue
        left.remove(run)
        known.add(slot)
        history.append((slot, run.candidate_id))
        pairs.append((run, slot))
    return tuple(pairs)


def explain_waiting(
    run: Run, queued: Sequence[Run], running: Sequence[Run], slots: int, lab: LabSnapshot | None = None
) -> str:
    """One sentence: why this run is not running although the queue is being run. The run is one of `queued`."""
    if slots == 0:
        return "no slot can take it now: `arsched watch --once` says what each is doing"
    if lab is not None and not without_held([run]) and is_holding(lab):
        return "it starts when the results of those that run together are in"
    ahead = order_runs(queued, running, slots, lab).index(run)
    if ahead < slots - len(running):
        return "a slot is free for it: it starts at once"
    if ahead == 0:
        return f"it is next: all {slots} slots are busy"
    why = ""
    if run.kind in _REPEATS and _count_repeats(running) >= repeats_allowed(slots, lab):
        why = " because repeats have their share of the slots"
    elif lab is not None and run.kind is RunKind.BASELINE and run.candidate_id != lab.baseline_id:
        why = " because its candidate is no longer the baseline"
    first = "1 run goes" if ahead == 1 else f"{ahead} runs go"
    return f"{first} first{why}, and {len(running)} of {slots} slots are busy"


def _next_claim(left: Sequence[Run], slot: str, history: Sequence[tuple[str, str]], owed: Counter[str]) -> Run | None:
    """The run this slot needs most, of those that no other slot is owed; one that is owed itself goes first."""
    waiting = Counter(run.candidate_id for run in left)
    mine = _owed_to(slot, set(waiting), history)
    spare = [run for run in left if run.candidate_id in mine or waiting[run.candidate_id] > owed[run.candidate_id]]
    return min(spare, key=lambda run: _measured(run.candidate_id, slot, history), default=None)


def _owed_to(slot: str, both: set[str], history: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The baseline that this slot has measured once less than the other."""
    here = Counter(candidate for place, candidate in history if place == slot)
    most = max(here.values(), default=0)
    return tuple(candidate for candidate in both if here[candidate] < most)


def _measured(candidate_id: str, slot: str, history: Sequence[tuple[str, str]]) -> tuple[int, int, bool]:
    """How often on this slot, how often at all, and whether it was the last one begun."""
    everywhere = [candidate for _, candidate in history]
    here = [candidate for place, candidate in history if place == slot]
    return here.count(candidate_id), everywhere.count(candidate_id), everywhere[-1:] == [candidate_id]


def _neediness(run: Run, stats: CandidateStats) -> tuple[bool, int, float]:
    """Repeats that lost a slot through no fault of theirs first, then the contender with fewest runs, then the best."""
    return run.attempts == 0, stats.n, stats.mean if stats.n else 0.0


def _count_repeats(running: Sequence[Run]) -> int:
    return sum(run.kind in _REPEATS for run in running)
