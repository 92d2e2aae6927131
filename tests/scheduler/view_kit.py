"""Labs for the tests of what people read: played through the real ledger and the real rule, on a virtual clock.

`Play` is a tiny scheduler without processes: two slots, runs of 24 s, scores from a script.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from scheduler.domain.candidate import Candidate
from scheduler.domain.decision import PRESETS, Promote
from scheduler.domain.run import Result, Run, parse_result
from scheduler.domain.slot import Slot
from scheduler.ledger import Ledger
from scheduler.policy.decide import decide
from scheduler.policy.explain import explain_decision
from scheduler.policy.stats import lab_noise
from scheduler.views.facts import LabFacts
from tests.scheduler.ledger_kit import Clock, add_candidate, make_lab

START = 1_795_400_000.0  # 2026-11-23T01:33:20Z
RUN_S, GAP_S = 24.0, 0.5
LOSS_AT = [[0.25, 4.12], [0.5, 3.3], [0.75, 2.95]]
Script = Callable[[str, int], "float | str"]  # name, how many runs before -> score or status


def slot(index: int) -> Slot:
    return Slot(f"laptop/cpu{index}", "laptop", "boot-1", "cpu", "a CPU", "pool-a", "cache-1")


def judged(outcome: float | str, seed: int = 1) -> Result:
    """A result with all figures, as the judge writes it."""
    scored = not isinstance(outcome, str)
    raw = {
        "format": 1,
        "status": "ok" if scored else outcome,
        "reason": "" if scored else "train.py ended with exit code 1:\nRuntimeError: shapes do not match",
        "val_bpb": outcome if scored else None,
        "val_bpb_upstream": outcome - 0.001 if scored else None,
        "phases_s": {"import": 1.9, "context": 0.1, "compile": 0.2, "train": 20.1, "evaluate": 1.4, "teardown": 0.1},
        "wall_s": RUN_S,
        "budget": {"clock": "cpu", "limit_s": 20.0, "used_s": 20.02, "train_wall_s": 20.1},
        "training": {"steps": 214, "tokens": 438272, "tokens_per_s": 21800.0, "last_loss": 2.81, "loss_at": LOSS_AT},
        "peak_memory_mb": 412.5,
        "seed": seed,
        "digests": {"contract": "c" * 64, "cache": "d" * 64, "train_py": "e" * 64},
        "attention": "sdpa",
        "exchange": "host",
        "device": {"kind": "cpu", "name": "a CPU", "uuid": None, "driver": None},
        "compile_cache": "cold",
    }
    return parse_result(json.dumps(raw))


class Play:
    """A lab being played. Candidates are added with `add`, `until_idle` runs everything and decides on every result.

    By the rule without merges: those need a repository.
    """

    def __init__(self, path: Path, script: Script, tag: str = "nov23", slots: int = 2) -> None:
        self.clock = Clock(START)
        self.ledger = Ledger.open(path, self.clock, durable=False)
        self.script, self.tag, self.slots = script, tag, slots
        self.ledger.labs.create(make_lab(tag, replace(PRESETS["default"], combine=False)))

    def add(self, *names: str, title: str = "") -> None:
        for name in names:
            self._add(name, title)

    def begin(self, runs: int = 3) -> Candidate:
        """The first baseline, queued."""
        return add_candidate(self.ledger, "baseline", self.tag, base_id=None, runs=runs)

    def until_idle(self) -> None:
        while queued := self.ledger.runs.queued(self.tag):
            self._side_by_side(queued[: self.slots])

    def lease(self, run: Run, index: int = 0) -> int:
        attempt = self.ledger.runs.lease(run.id, slot(index), self.clock.now + 60)
        assert attempt is not None
        return attempt

    def decide(self) -> None:
        while decision := decide(self.ledger.board(self.tag)):
            board = self.ledger.board(self.tag)
            about = getattr(decision, "candidate_id", None) or board.baseline_id
            sentence = explain_decision(decision, board.of(about).name)
            commit = f"promo{about:a<35}" if isinstance(decision, Promote) else None
            self.ledger.decisions.apply(self.tag, decision, noise=lab_noise(board), sentence=sentence, commit=commit)

    def facts(self) -> LabFacts:
        return LabFacts(self.ledger, self.ledger.labs.get(self.tag))

    def _add(self, name: str, title: str) -> None:
        board = self.ledger.board(self.tag)
        made = add_candidate(self.ledger, name, self.tag, board.baseline_id)
        if title:
            self.ledger._database.execute("UPDATE candidate SET title = ? WHERE number = ?", title, int(made.id[1:]))

    def _side_by_side(self, runs: Sequence[Run]) -> None:
        attempts = [(run, self.lease(run, index)) for index, run in enumerate(runs)]
        self.clock.now += RUN_S
        for run, attempt in attempts:
            candidate = self.ledger.candidates.get(run.candidate_id, self.tag)
            before = [mine.id for mine in self.ledger.runs.of_candidate(candidate.id)].index(run.id)
            outcome = self.script(candidate.name, before)
            assert self.ledger.runs.record(run.id, attempt, judged(outcome, run.seed))
            self.decide()
        self.clock.now += GAP_S


DEMO = {
    "baseline": (1.952, 1.958, 1.949),
    "depth-2": (1.905, 1.899),
    "depth-1": (1.842, 1.846),
    "no-softcap": (1.910, 1.914, 1.912),
    "lr-too-high": (2.61,),
    "small-batch": (1.949, 1.953, 1.951),
    "typo": ("crash",),
    "unembedding-lr-0.008": (1.938, 1.941, 1.935),
}


def demo_script(name: str, before: int) -> float | str:
    return DEMO[name][min(before, len(DEMO[name]) - 1)]


def demo_lab(path: Path) -> Play:
    """Seven candidates: two promotions, a crash, a divergence, things within noise."""
    play = Play(path, demo_script)
    play.begin()
    play.until_idle()
    play.add(*(name for name in DEMO if name != "baseline"))
    play.until_idle()
    return play
