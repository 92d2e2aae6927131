"""Reports read into results, and results said in one line.

A judge's result is taken at its word only when it is about what was ordered: this contract, this cache, this train.py,
this seed. Anything else is the lab's fault, never the candidate's.
"""

from __future__ import annotations

from scheduler.domain.candidate import Candidate
from scheduler.domain.lab import Lab
from scheduler.domain.result import Result, ResultError, Scored, infra_result, parse_result
from scheduler.domain.run import Run, RunKind
from scheduler.domain.slot import Done


def read_report(
    report: Done, run: Run | None = None, candidate: Candidate | None = None, lab: Lab | None = None
) -> Result:
    """The result in a report; an `infra` one when it cannot be read or is about something else."""
    try:
        result = parse_result(report.result_text)
    except ResultError as problem:
        return infra_result("result", f"{report.slot_id} sent no readable result: {problem}")
    if run is None or candidate is None or lab is None:
        return result
    strange = _mismatch(result, run, candidate, lab)
    return infra_result("mismatch", f"{report.slot_id} judged something else: {strange}") if strange else result


def _mismatch(result: Result, run: Run, candidate: Candidate, lab: Lab) -> str:
    """What the result is about that was not ordered; "" when all it says agrees."""
    measured = result.measured
    pairs = (
        ("contract", measured.contract_digest, lab.contract_digest),
        ("cache", measured.cache_digest, lab.cache_digest),
        ("train.py", measured.train_sha256, candidate.train_sha256),
        ("seed", "" if measured.seed is None else str(measured.seed), str(run.seed)),
    )
    return ", ".join(
        f"{what} {said[:12]} instead of {asked[:12]}" for what, said, asked in pairs if said not in ("", asked)
    )


def describe_result(run: Run, candidate: Candidate, slot_id: str, result: Result) -> str:
    """One line for a finished run."""
    verdict, wall_s = result.verdict, result.measured.wall_s
    took = f", {wall_s:.0f} s" if wall_s is not None else ""
    if isinstance(verdict, Scored):
        said = f"val_bpb {verdict.val_bpb:.4f}" + (f" ({verdict.status})" if verdict.suspect else "")
    else:
        said = f"{verdict.status}: {verdict.reason}" if verdict.reason else verdict.status
    what = "claim run" if run.kind is RunKind.CLAIM else "result   "
    return f"{what} {candidate.id} {candidate.name}  {said}  ({run.id} on {slot_id}, seed {run.seed}{took})"
