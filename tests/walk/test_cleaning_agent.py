"""An agent that cleans, stashes and checks out in the main checkout and deletes its own worktree loses nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler.domain.candidate import CandidateState
from scheduler.domain.run import Cancelled, Finished, RunKind
from scheduler.domain.search import ProposalState, SearchState
from scheduler.lab import open_workspace
from tests.scheduler.ledger_kit import broken_invariants
from tests.walk import test_program_md
from tests.walk.test_program_md import Place

RUNS = 12
AGENT = """#!/bin/sh
main="$(cd "$(git rev-parse --git-common-dir)/.." && pwd)"
(
  cd "$main"
  git clean -fdxq
  git -c user.name=a -c user.email=a@b stash push --quiet --all
  git checkout --quiet --force .
  git clean -fdxq
)
echo "$ARSCHED_ASK" >> {acts}
if [ $((ARSCHED_SEED % 3)) = 0 ] && [ "$ARSCHED_ASK" != p0001 ]; then
  rm -rf "$PWD"
  exit 0
fi
rate=$(printf '0.%03d' $((20 + ARSCHED_SEED % 79)))
sed -i "s/^MATRIX_LR = [0-9.]*/MATRIX_LR = $rate/" train.py
echo '{{"title": "matrices learn at '$rate'"}}' > IDEA.json
"""


place = test_program_md.place


@pytest.mark.slow
def test_a_search_whose_agent_cleans_up_everywhere_loses_nothing_and_makes_its_claim(
    place: Place, tmp_path: Path
) -> None:
    place.run("arsched init --tag nov23 --contract cpu --sandbox off --no-wait")
    acts, agent = tmp_path / "acts", tmp_path / "agent.sh"
    agent.write_text(AGENT.format(acts=acts))
    search = f"arsched search --command 'sh {agent}' --runs {RUNS} --claim-runs 2 --json"
    said = json.loads(place.run(search))
    assert said["search"]["state"] == "ended" and said["search"]["claim"], said
    assert len(acts.read_text().split()) >= 4
    with open_workspace(start=place.root) as space:
        assert not broken_invariants(space.paths.ledger)
        (one,) = space.ledger.searches.list("nov23")
        assert one.state is SearchState.ENDED and len(space.ledger.claims.list("nov23")) == 1
        runs = space.ledger.runs.list("nov23")
        finished = [run for run in runs if isinstance(run.state, Finished)]
        assert all(isinstance(run.state, Finished | Cancelled) for run in runs)
        assert len([run for run in finished if run.kind is not RunKind.CLAIM]) >= RUNS
        assert all(space.paths.log(run.id, run.attempts).is_file() for run in finished)
        assert all(space.paths.result(run.id, run.attempts).is_file() for run in finished)
        candidates = space.ledger.candidates.list("nov23")
        assert {one.id: one.commit for one in candidates} == space.repo.kept_refs("nov23")
        assert not [one for one in candidates if one.state.undecided]
        assert sum(one.state is CandidateState.BASELINE for one in candidates) == 1
        proposals = space.ledger.proposals.list("nov23")
        assert {ProposalState.QUEUED, ProposalState.FAILED} <= {ask.state for ask in proposals}
    place.run("arsched logs last")
    place.run("arsched status")
