"""Which patches are merged onto the current baseline, and when. Merging text is not done here.

A patch is named by the candidate that brought it (a leaf): a union stands for the patches of its parts, and theirs. Two
candidates with a leaf in common are never merged. Whatever is merged is measured anew and has to win.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from scheduler.domain.candidate import CandidateState, CandidateStats, Origin
from scheduler.domain.decision import Combine, Merge, Noise, Rule
from scheduler.domain.lab import LabSnapshot
from scheduler.domain.text import id_order
from scheduler.policy.gates import GateVerdict, judge_candidate, raised
from scheduler.policy.stats import effect_of, lab_noise, p_better_without_suspects


class Patches:
    """The patches of one lab, looked up by candidate, through all merges."""

    def __init__(self, lab: LabSnapshot) -> None:
        self._merges = {merge.candidate_id: merge for merge in lab.merges if merge.candidate_id}
        self._leaves: dict[str, frozenset[str]] = {}
        self._lab = lab

    def leaves(self, candidate_id: str) -> frozenset[str]:
        """Ids of the candidates whose own edits are in this one since its base."""
        if candidate_id not in self._leaves:
            merge = self._merges.get(candidate_id)
            self._leaves[candidate_id] = frozenset((candidate_id,)) if merge is None else self.of_all(merge.merged)
        return self._leaves[candidate_id]

    def of_all(self, ids: Iterable[str]) -> frozenset[str]:
        return frozenset(leaf for one in ids for leaf in self.leaves(one))

    def lineage(self, candidate_id: str) -> tuple[str, ...]:
        """The candidate, the baseline it was made from, that one's, and so on to the first."""
        lineage = [candidate_id]
        while (ancestor := self._lab.of(lineage[-1]).base_id) and ancestor not in lineage:
            lineage.append(ancestor)
        return tuple(lineage)

    def in_force(self) -> frozenset[str]:
        """Patches in the baseline's program: its own and those of the baselines it was made from.

        A former baseline that a candidate of an older one displaced is not among them.
        """
        return self.of_all(self.lineage(self._lab.baseline_id))

    def on_trial(self, base_id: str | None = None) -> frozenset[str]:
        """Patches inside merges that are not decided on yet; only merges onto `base_id` when it is given."""
        merged = (s for s in self._lab.undecided if s.origin.merged and base_id in (None, s.base_id))
        return self.of_all(s.candidate_id for s in merged)

    def worn_out(self) -> frozenset[str]:
        """Patches that were merged onto a baseline `max_ports` times, conflicts counted, halves of a union not."""
        whole = (merge for merge in self._lab.merges if not merge.halving)
        times = Counter(leaf for merge in whole for leaf in self.of_all(merge.parts))
        return frozenset(leaf for leaf, ports in times.items() if ports >= self._lab.gates.max_ports)


def settle_left_behind(lab: LabSnapshot, noise: Noise) -> GateVerdict | None:
    """The decision due on contenders of an older baseline: one union of the promising, then the others one by one.

    Promising is P(better than their own baseline) ≥ `combine_from`, or no score yet. Their runs still under way are not
    waited for: those results are recorded and decide nothing.
    """
    left = [s for s in lab.undecided if s.state is CandidateState.CONTENDER and s.base_id != lab.baseline_id]
    if not left or not lab.gates.combine:
        return None
    patches = Patches(lab)
    barred = patches.worn_out() | patches.on_trial(lab.baseline_id) | patches.in_force()
    portable = [s for s in left if not patches.leaves(s.candidate_id) & barred]
    p_own = {s.candidate_id: _p_own(s, lab, noise) if s.scores else lab.gates.combine_from for s in portable}
    parts = _likeliest(portable, p_own, lab.gates.combine_from, patches, barred)
    if parts:
        which = "it is" if len(parts) == 1 else f"{len(parts)} contenders are"
        reason = f"a promotion left it behind: {which} at P(better) ≥ {lab.gates.combine_from:.2f} still"
        return _combine(lab, noise, parts, reason, Rule.LEFT_BEHIND)
    for stats in left:
        if stats.scores:
            may_port = stats.candidate_id in p_own
            gates = raised(lab.gates, lab.trials_on_baseline)
            return judge_candidate(stats, lab.baseline, noise, gates, own_base(stats, lab), may_port=may_port)
    return None


def rebase_pending(lab: LabSnapshot, noise: Noise) -> Combine | None:
    """One union of the former baselines that the current one was not made from, in the order they build on each other.

    A candidate of an older baseline displaced them, so its program lacks their patches, although each had won. Tried
    once on a baseline, and not with those that were carried often enough or look no better than their own by now.
    """
    patches = Patches(lab)
    lineage = patches.lineage(lab.baseline_id)
    former = lab.in_state(CandidateState.PROMOTED) if lab.gates.combine else ()
    displaced = [stats for stats in former if stats.candidate_id not in lineage and stats.scores]
    if not displaced:
        return None
    depth = {stats.candidate_id: len(patches.lineage(stats.candidate_id)) for stats in displaced}
    tried = patches.of_all(part for merge in lab.merges if merge.base_id == lab.baseline_id for part in merge.parts)
    barred = tried | patches.worn_out() | patches.in_force() | patches.on_trial()
    parts = [
        stats
        for stats in sorted(displaced, key=lambda s: (depth[s.candidate_id], id_order(s.candidate_id)))
        if not patches.leaves(stats.candidate_id) & barred and _p_own(stats, lab, noise) >= lab.gates.combine_from
    ]
    if not parts:
        return None
    which = "a baseline was" if len(parts) == 1 else f"{len(parts)} baselines were"
    return _combine(lab, noise, parts, f"{which} displaced by a candidate of an older one", Rule.REBASE_PENDING)


def halve_failed_union(lab: LabSnapshot) -> Combine | None:
    """The better half of the oldest union that failed and was not halved yet, without patches in force by now."""
    if not lab.gates.combine:
        return None
    patches, taken = Patches(lab), None
    for merge in lab.merges:
        if merge.halving < lab.gates.max_halvings and _failed(merge, lab) and not _halved(merge, lab):
            taken = taken or patches.in_force() | patches.on_trial()
            better = merge.merged[: math.ceil(len(merge.merged) / 2)]
            half = tuple(part for part in better if not patches.leaves(part) & taken)
            # A single part made from the union's own baseline was measured before the union.
            if half and (len(better) > 1 or lab.of(better[0]).base_id != merge.base_id):
                reason = f"the union {merge.candidate_id} of {len(merge.merged)} failed: its better half alone"
                predicted = merge.predicted * len(half) / len(merge.merged)
                return Combine(lab.baseline_id, half, merge.halving + 1, predicted, reason, Rule.FAILED_UNION)
    return None


def near_miss_union(lab: LabSnapshot, slots: int) -> Combine | None:
    """The union of near-misses to try now: the likeliest that share no patch with a baseline or a merge on trial.

    None with fewer than two, while their share of the slots is taken, or when these were tried on this baseline.
    """
    gates = lab.gates
    shelf = [s for s in lab.in_state(CandidateState.SHELVED) if s.scores] if gates.combine else []
    on_trial = sum(s.origin is Origin.UNION for s in lab.undecided)
    if len(shelf) < 2 or not lab.baseline.scores or on_trial >= unions_allowed(lab, slots):
        return None
    noise, patches = lab_noise(lab), Patches(lab)
    taken = patches.in_force() | patches.on_trial() | patches.worn_out()
    p_own = {s.candidate_id: _p_own(s, lab, noise) for s in shelf}
    parts = _likeliest(shelf, p_own, gates.shelve_from, patches, taken)[: gates.max_parts]
    ids = {stats.candidate_id for stats in parts}
    if len(ids) < 2 or any(m.base_id == lab.baseline_id and set(m.parts) == ids for m in lab.merges):
        return None
    reason = f"{len(ids)} near-misses together, none in a baseline yet"
    return _combine(lab, noise, parts, reason, Rule.NEAR_MISSES)


def unions_allowed(lab: LabSnapshot, slots: int) -> int:
    """How many unions may be on trial at a time: at least one."""
    return max(1, int(slots * lab.gates.max_union_share))


def _likeliest(
    shelf: Iterable[CandidateStats], p_own: Mapping[str, float], bar: float, patches: Patches, taken: frozenset[str]
) -> list[CandidateStats]:
    """Those at the bar, the likeliest first, that share no patch with `taken` or with one before them."""
    parts: list[CandidateStats] = []
    for stats in sorted(shelf, key=lambda s: (-p_own[s.candidate_id], id_order(s.candidate_id))):
        leaves = patches.leaves(stats.candidate_id)
        if p_own[stats.candidate_id] >= bar and not leaves & taken:
            parts.append(stats)
            taken |= leaves
    return parts


def own_base(stats: CandidateStats, lab: LabSnapshot) -> CandidateStats:
    """The baseline a candidate was made from; the current one where that has no score to compare with."""
    base = lab.of(stats.base_id) if stats.base_id else lab.baseline
    return base if base.scores else lab.baseline


def _p_own(stats: CandidateStats, lab: LabSnapshot, noise: Noise) -> float:
    """P(better than its own baseline) that does not hang on suspect scores."""
    return p_better_without_suspects(stats, own_base(stats, lab), noise)


def _combine(lab: LabSnapshot, noise: Noise, parts: list[CandidateStats], reason: str, rule: Rule) -> Combine:
    predicted = sum(_predicted(stats, lab, noise) for stats in parts)
    return Combine(lab.baseline_id, tuple(stats.candidate_id for stats in parts), 0, predicted, reason, rule)


def _predicted(stats: CandidateStats, lab: LabSnapshot, noise: Noise) -> float:
    """The shrunken effect on its own baseline, in bpb; for a merge without a score the sum it was made with."""
    if stats.scores:
        return effect_of(stats, own_base(stats, lab), noise).shrunken
    return next((m.predicted for m in lab.merges if m.candidate_id == stats.candidate_id), 0.0)


def _failed(merge: Merge, lab: LabSnapshot) -> bool:
    if merge.candidate_id is None or len(merge.merged) < 2:
        return False
    return lab.of(merge.candidate_id).state in (CandidateState.DISCARDED, CandidateState.FAILED)


def _halved(merge: Merge, lab: LabSnapshot) -> bool:
    later = (m for m in lab.merges if m.number > merge.number and m.halving == merge.halving + 1)
    return any(set(merge.merged).issuperset(half.parts) for half in later)
