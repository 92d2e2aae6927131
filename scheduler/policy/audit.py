"""Whether a second run of a stored candidate, from scratch with another seed, says the same as the first. Decides that
alone: an audit promotes nothing and drops nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from scheduler.domain.run import Infra, Scored, Verdict

ALLOWED_SIGMAS = 3.0  # of a difference: one honest pair in 370 is further apart


class AuditOutcome(NamedTuple):
    """`diff_bpb` is again − first, `sigmas` that in standard errors of a difference; both None without two scores."""

    consistent: bool
    sentence: str
    diff_bpb: float | None = None
    sigmas: float | None = None


def compare_runs(first: Verdict, again: Verdict, se: float) -> AuditOutcome:
    """`se` is the standard error of a difference between two such runs, in bpb."""
    if isinstance(again, Infra):
        return AuditOutcome(False, f"not audited: {again.status}, which is the lab's fault; audit it again")
    if not isinstance(first, Scored) or not isinstance(again, Scored):
        same = first.status == again.status
        return AuditOutcome(same, f"{'both are' if same else 'not the same:'} {_join(first.status, again.status)}")
    diff = again.val_bpb - first.val_bpb
    sigmas = diff / se
    near = f"{abs(sigmas):.1f} standard errors apart"
    if again.suspect and again.suspect != first.suspect:
        return AuditOutcome(False, f"the audit is {again.status}", diff, sigmas)
    if abs(sigmas) > ALLOWED_SIGMAS:
        return AuditOutcome(False, f"{near}: more than noise, at most {ALLOWED_SIGMAS:g} are", diff, sigmas)
    return AuditOutcome(True, f"{near}: as two runs of one program are", diff, sigmas)


def _join(first: str, again: str) -> str:
    return first if first == again else f"first {first}, then {again}"
