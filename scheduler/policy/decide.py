"""The next decision due in a lab, one at a time: apply it, look at the lab again, ask again.

Decisions fall on every result, and are taken from the baselines past and present, the undecided, the shelved, the
merged, and whoever has two scores or more: a snapshot without the others gives the same. Applies and remembers nothing.
"""

from __future__ import annotations

import math

from scheduler.domain.candidate import CandidateState, CandidateStats
from scheduler.domain.decision import (
    Combine,
    Decision,
    Discard,
    Effect,
    MeasureBaseline,
    Noise,
    Promote,
    Replicate,
    Retry,
)
from scheduler.domain.lab import LabSnapshot
from scheduler.domain.text import id_order
from scheduler.policy.controls import awaits_control, control_before, control_due, control_next_to
from scheduler.policy.gates import MAX_FAILED, GateVerdict, judge_candidate, raised
from scheduler.policy.merging import halve_failed_union, own_base, rebase_pending, settle_left_behind
from scheduler.policy.siblings import round_closes, round_goes_on, wait_until
from scheduler.policy.stats import lab_noise


def decide(lab: LabSnapshot) -> Decision | None:
    """The most urgent decision, or None when the lab waits for results, for a time (or for nothing at all)."""
    return _measure_baseline(lab) or _settle_scoreless(lab) or _judge(lab)


def promotion_waits_until(lab: LabSnapshot) -> float | None:
    """Until when a promotion that is due waits for runs that end with it; None when none does.

    Seconds since the epoch; earlier, when one of those runs ends.
    """
    return _wait(_promotions(_verdicts(lab)), lab)


def awaited_control(lab: LabSnapshot, candidate_id: str) -> MeasureBaseline | None:
    """The control that the decision on a candidate waits for; None where none is due, or it waits for none."""
    stats, base = lab.of(candidate_id), lab.baseline
    if stats.state.undecided and not stats.pending_runs and awaits_control(stats, base):
        return control_next_to(stats, base)
    promotions = _promotions(_verdicts(lab))
    is_due = any(promotion.candidate_id == candidate_id for promotion in promotions)
    return _control_before(promotions, lab) if is_due else None


def is_holding(lab: LabSnapshot) -> bool:
    """Whether nothing new is to begin: a promotion or a round waits, and what began now would be stale when it ends."""
    return round_closes(lab) or promotion_waits_until(lab) is not None


def baseline_is_hopeless(lab: LabSnapshot) -> bool:
    """True when the baseline has no score, no run under way and has failed often enough: the lab cannot go on."""
    base = lab.baseline
    return not base.scores and not base.pending_runs and base.failed_runs >= _failures_allowed(lab)


def _measure_baseline(lab: LabSnapshot) -> MeasureBaseline | None:
    base, wanted = lab.baseline, _runs_due(lab)
    if base.failed_runs >= _failures_allowed(lab):
        return None
    if base.n + base.pending_runs >= wanted:
        return control_due(lab, lab_noise(lab), wanted)
    if not base.scores and base.pending_runs + base.failed_runs >= _failures_allowed(lab):
        return None  # whether it runs at all is about to be known
    which = "the first baseline" if lab.first_baseline else "a baseline"
    return MeasureBaseline(base.candidate_id, f"{which} is measured {wanted} times, {base.n} so far")


def _runs_due(lab: LabSnapshot) -> int:
    return _runs_wanted(lab) + _runs_earned(lab)


def _runs_wanted(lab: LabSnapshot) -> int:
    return lab.gates.first_baseline_runs if lab.first_baseline else lab.gates.baseline_runs


def _runs_earned(lab: LabSnapshot) -> int:
    """A baseline that lasts is what every idea is held against: it earns a run with `baseline_every` trials, with twice
    as many, four times as many and so on. Spread so over its life, they also tell whether the machine drifts.
    """
    periods = lab.trials_on_baseline // lab.gates.baseline_every if lab.gates.baseline_every else 0
    return min(periods.bit_length(), max(0, lab.gates.max_baseline_runs - _runs_wanted(lab)))


def _failures_allowed(lab: LabSnapshot) -> int:
    """Failed runs after which a baseline is not tried again; one that has a score is then compared with as it is."""
    return max(_runs_wanted(lab), lab.gates.max_runs, MAX_FAILED)


def _settle_scoreless(lab: LabSnapshot) -> Discard | None:
    """A candidate that can get no score any more needs no baseline to be settled."""
    for stats in lab.undecided:
        if not stats.scores and not stats.pending_runs:
            return Discard(stats.candidate_id, lab.baseline_id, None, stats.failure or "its runs were cancelled")
    return None


def _judge(lab: LabSnapshot) -> Decision | None:
    """Promotions first, then what a promotion left behind, then everything else in the order of submission."""
    if not _is_comparable(lab):
        return None
    verdicts = _verdicts(lab)
    promotions = _promotions(verdicts)
    if promotions:
        if _wait(promotions, lab) is not None:
            return None
        control = _control_before(promotions, lab)
        if control is None:
            return _best(promotions, lab)
        if not lab.baseline.pending_runs:
            return control
        # Decided while it runs; what is merged waits for the baseline that it is to be merged onto.
        verdicts = [one for one in verdicts if not isinstance(one[1], Promote | Combine)]
    elif unsettled := _settle(lab, lab_noise(lab)):
        return unsettled
    if not verdicts:
        return None
    first, verdict = verdicts[0]
    failed = first.state is CandidateState.CONTENDER and first.n == 1 and first.failed_runs == 1
    if failed and isinstance(verdict, Replicate):  # run again for that reason, not for its probability
        return Retry(first.candidate_id, f"its repeat failed ({first.failure}): one more try")
    return verdict


def _settle(lab: LabSnapshot, noise: Noise) -> Decision | None:
    """What a promotion left behind. One of those that wins now waits for its control as any other."""
    settled = settle_left_behind(lab, noise)
    if isinstance(settled, Promote) and (control := _control_before([settled], lab)):
        return None if lab.baseline.pending_runs else control
    return settled or rebase_pending(lab, noise) or halve_failed_union(lab)


def _is_comparable(lab: LabSnapshot) -> bool:
    """Whether ideas are judged now: against a baseline that is measured, in rounds once the last result is in."""
    base = lab.baseline
    # The first baseline is compared with once it is measured, or as far as it ever will be.
    half_measured = lab.first_baseline and base.n < _runs_wanted(lab) and base.pending_runs > 0
    return bool(base.scores) and not half_measured and not round_goes_on(lab)


def _verdicts(lab: LabSnapshot) -> list[tuple[CandidateStats, GateVerdict]]:
    """On every undecided candidate with a score, no run on its way, and no control next to its own."""
    due = [stats for stats in lab.undecided if stats.scores and not stats.pending_runs] if _is_comparable(lab) else []
    noise = lab_noise(lab) if due else None
    verdicts = [(stats, _verdict(stats, lab, noise)) for stats in due if noise is not None]
    return [one for one in verdicts if isinstance(one[1], Replicate) or not awaits_control(one[0], lab.baseline)]


def _promotions(verdicts: list[tuple[CandidateStats, GateVerdict]]) -> list[Promote]:
    return [verdict for _, verdict in verdicts if isinstance(verdict, Promote)]


def _control_before(promotions: list[Promote], lab: LabSnapshot) -> MeasureBaseline | None:
    if lab.baseline.failed_runs >= _failures_allowed(lab):
        return None
    winners = [lab.of(one.candidate_id) for one in promotions]
    return control_before(winners, lab, lab_noise(lab), _runs_due(lab))


def _wait(promotions: list[Promote], lab: LabSnapshot) -> float | None:
    return wait_until(lab, [lab.of(one.candidate_id) for one in promotions]) if promotions else None


def _verdict(stats: CandidateStats, lab: LabSnapshot, noise: Noise) -> GateVerdict:
    own = own_base(stats, lab)
    moved = own.candidate_id != lab.baseline_id
    gates = raised(lab.gates, lab.trials_on_baseline)
    return judge_candidate(stats, lab.baseline, noise, gates, own if moved else None)


def _best(promotions: list[Promote], lab: LabSnapshot) -> Promote:
    """The lowest effect; among those within a standard error of it, the one with the fewest lines of code.

    Effects and not means: what the machine was like when each was measured is taken out of them. Ids break ties, so
    that the order of the candidates does not choose.
    """

    def by_effect(promotion: Promote) -> tuple[float, tuple[str, int]]:
        return promotion.effect.diff, id_order(promotion.candidate_id)

    def lines(promotion: Promote) -> int:
        return lab.of(promotion.candidate_id).code_lines

    def is_near(effect: Effect) -> bool:
        return effect.diff - best.diff <= best.sigma * math.sqrt(1 / effect.n_candidate + 1 / best.n_candidate)

    lowest = min(promotions, key=by_effect)
    best = lowest.effect
    if not lines(lowest):
        return lowest
    return min((p for p in promotions if lines(p) and is_near(p.effect)), key=lambda p: (lines(p), *by_effect(p)))
