"""A promotion carried out: the commit, the ledger, the branch, in this order.

The ledger is the truth. The commit exists before it is named there, and the branch follows: a crash or an edit in the
way leaves the branch behind, and `follow_ledger` brings it up the next time.
"""

from __future__ import annotations

from scheduler.domain.candidate import Candidate, Standing
from scheduler.domain.decision import Noise, Promote
from scheduler.domain.errors import LabProblem
from scheduler.workspace import Workspace


def promote(
    space: Workspace,
    decision: Promote,
    standing: Standing,
    noise: Noise,
    sentence: str,
    *,
    result_mark: int | None = None,
) -> str:
    """Make a candidate the baseline. Returns the commit on the lab's branch; the branch itself is `follow_ledger`'s.

    `result_mark` is the last result when the board was read. Raises LedgerProblem, with nothing changed, when the board
    is another one by now.
    """
    ledger = space.ledger
    candidate = ledger.candidates.get(decision.candidate_id, space.tag)
    commit = space.repo.commit_train_py(
        space.baseline_commit(),
        ledger.candidates.train_py(candidate.id),
        f"{candidate.title or candidate.name} ({candidate.id})",
        _trailers(candidate, decision, standing),
    )
    ledger.decisions.apply(space.tag, decision, noise=noise, sentence=sentence, commit=commit, result_mark=result_mark)
    return commit


def follow_ledger(space: Workspace) -> str:
    """Bring the lab's branch to the baseline's commit, and its refs. Returns the checkout that followed, or "".

    Raises LabProblem when somebody moved the branch, GitProblem when an uncommitted edit is in the way; both may be
    tried again.
    """
    commits = [commit for _, commit in space.lineage()]
    branch, at = space.lab.branch, space.repo.branch_commit(space.lab.branch)
    if at == commits[-1]:
        return ""
    if at is None:
        space.repo.create_branch(branch, commits[-1])
        return ""
    if at not in commits:
        hint = f"put it back when you can: git branch -f {branch} {commits[-1][:12]}; the lab itself goes on"
        raise LabProblem(f"somebody moved the branch {branch!r} to {at[:12]}, it stays there", hint)
    return space.repo.move_branch(branch, commits[-1], at)


def keep_refs(space: Workspace) -> None:
    """Keep the commit of every undecided candidate: its ref may be missing after a crash."""
    for candidate in space.ledger.candidates.list(space.tag):
        if candidate.state.undecided:
            space.repo.keep_ref(space.tag, candidate.id, candidate.commit)


def _trailers(candidate: Candidate, decision: Promote, standing: Standing) -> dict[str, str]:
    effect = decision.effect
    return {
        "Candidate": candidate.id,
        "Candidate-commit": candidate.commit,
        "Val-bpb": f"{standing.mean:.6f}",
        "Effect": f"{effect.diff:+.6f}",
        "Error": f"{effect.se:.6f}",
        "P-better": f"{effect.p_better:.4f}",
        "Runs": f"{effect.n_candidate} vs {effect.n_base}",
    }
