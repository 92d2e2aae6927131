"""A lab after a search, for the tests of what people read: every state, kind and failure there is, once.

Results and decisions are written into the ledger as they are given here; no loop runs and no rule is asked, so what is
shown cannot depend on either. Names, titles and logs of some candidates are hostile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from scheduler.domain.candidate import Candidate, NewCandidate, Origin, Source
from scheduler.domain.decision import (
    PRESETS,
    Assembled,
    Claim,
    Combine,
    Decision,
    Discard,
    Effect,
    Promote,
    Replicate,
    Shelve,
)
from scheduler.domain.run import Run, RunKind
from scheduler.domain.search import ProposalFailure, ProposerChoice, SearchBudget, SearchSettings, SearchState
from scheduler.policy.explain import describe_effect
from scheduler.policy.stats import effect_of, lab_noise
from scheduler.views.facts import LabFacts
from tests.scheduler.ledger_kit import Clock, add_candidate, make_lab, merged_program, open_ledger
from tests.scheduler.view_kit import GAP_S, RUN_S, START, judged, slot

EVIL = "<script>alert('x')</script><b>bold</b> \x1b[31mred\x1b[0m \u202egnp.exe & \"quoted\" {{ 7 * 7 }} </td>"
SETTINGS = SearchSettings(
    SearchBudget(hours=8.0, runs=40), (ProposerChoice("agent"), ProposerChoice("tpe", 0.5), ProposerChoice("union"))
)
SCORES: dict[str, tuple[float | str, ...]] = {
    "baseline": (1.952, 1.958, 1.949, 1.955, 1.951),
    "wider": (1.900, 1.896, 1.899),
    "warmup": (1.941, 1.937),
    "rope-base": (1.944,),
    "union-c0003-c0004": (1.884, 1.882, 1.885, 1.881),
    "swiglu": (1.878,),
    "lr-too-high": (2.61,),
    "typo": ("crash",),
    "port-c0005": (1.886,),
    "by-hand": (1.9,),
}


class SearchedLab:
    """A ledger to which a test writes what happened, two slots at a time. `script`: name, runs before -> outcome."""

    def __init__(self, path: Path, script: Callable[[str, int], float | str] | None = None) -> None:
        self.clock, self.tag = Clock(START), "nov23"
        self.ledger = open_ledger(path, self.clock)
        self.script = script or (lambda name, before: SCORES[name][min(before, len(SCORES[name]) - 1)])
        self.ledger.labs.create(make_lab(self.tag, replace(PRESETS["default"], combine=False)))

    def begin(self) -> Candidate:
        """The first baseline, queued."""
        return add_candidate(self.ledger, "baseline", self.tag, base_id=None, runs=3)

    def until_idle(self) -> None:
        """Record a result for every queued run, two after each other on two slots."""
        while queued := self.ledger.runs.queued(self.tag)[:2]:
            attempts = [(run, self.lease(run, index)) for index, run in enumerate(queued)]
            self.clock.now += RUN_S
            for run, attempt in attempts:
                candidate = self.ledger.candidates.get(run.candidate_id, self.tag)
                before = [mine.id for mine in self.ledger.runs.of_candidate(candidate.id)].index(run.id)
                outcome = self.script(candidate.name, before)
                assert self.ledger.runs.record(run.id, attempt, judged(outcome, run.seed))
            self.clock.now += GAP_S

    def lease(self, run: Run, index: int = 0) -> int:
        attempt = self.ledger.runs.lease(run.id, slot(index), self.clock.now + 60)
        assert attempt is not None
        return attempt

    def facts(self) -> LabFacts:
        return LabFacts(self.ledger, self.ledger.labs.get(self.tag))

    def idea(
        self, name: str, *, proposer: str = "agent", theme: str = "", title: str = "", round: int = 1
    ) -> Candidate:
        """An ask, answered by a new candidate."""
        base = self.ledger.board(self.tag).baseline_id
        ask = self.ledger.proposals.ask(self.tag, 1, proposer, base, round, seed=7)
        self.clock.now += 3
        data = f"NAME = {name!r}\n# {EVIL}\n".encode()
        new = NewCandidate(
            source=Source(data, f"sha of {name}", f"fingerprint of {name}", 100),
            name=name,
            commit=f"{name:x<40}"[:40],
            base_id=base,
            title=title or f"try {name}",
            author=f"{proposer} in search 1",
            origin=Origin.PROPOSED,
            proposer=proposer,
            hypothesis=f"{name} should learn more per step",
            theme=theme,
            round=round,
        )
        made = self.ledger.candidates.add(self.tag, new)
        warning = f"it left 1 process behind, ended with it {EVIL}" if name == "rope-base" else ""
        self.ledger.proposals.queued(ask, made.id, title or f"try {name}", log="done\n", warning=warning)
        return made

    def effect(self, ref: str, base: str | None = None) -> Effect:
        board = self.ledger.board(self.tag)
        return effect_of(board.of(ref), board.of(base or board.baseline_id), lab_noise(board))

    def apply(self, decision: Decision, assembled: Assembled | None = None, problem: str = "") -> None:
        effect = getattr(decision, "effect", None)
        about = getattr(decision, "candidate_id", None) or ", ".join(getattr(decision, "parts", ()))
        words = (type(decision).__name__.lower(), about, describe_effect(effect) if effect else decision.reason)
        self.ledger.decisions.apply(
            self.tag,
            decision,
            noise=lab_noise(self.ledger.board(self.tag)),
            sentence="  ".join(words),
            commit=f"promo{about:a<35}" if isinstance(decision, Promote) else None,
            assembled=assembled,
            problem=problem,
        )

    def promote(self, ref: str) -> None:
        base = self.ledger.board(self.tag).baseline_id
        self.apply(Promote(ref, base, self.effect(ref), "P(better) 0.999 ≥ 0.98 over 1 run"))

    def union(self, *parts: str, name: str, predicted: float) -> None:
        made = replace(merged_program(name, *parts), title=f"union of {EVIL}")
        base = self.ledger.board(self.tag).baseline_id
        self.apply(Combine(base, parts, 0, predicted, "left by the promotion of c0002"), made)

    def fail(self, trouble: ProposalFailure, reason: str, *, proposer: str = "agent", log: str = "") -> None:
        base = self.ledger.board(self.tag).baseline_id
        ask = self.ledger.proposals.ask(self.tag, 1, proposer, base, 1, seed=9)
        self.clock.now += 1
        self.ledger.proposals.failed(ask, trouble, reason, log=log)


def searched_lab(path: Path, *, ended: bool = True) -> SearchedLab:
    """A search that ended with a claim; `ended=False`: one in the middle, two slots busy, an idea being written."""
    lab = SearchedLab(path)
    lab.begin()
    lab.ledger.searches.start(lab.tag, SETTINGS)
    lab.until_idle()
    _first_round(lab)
    _second_round(lab)
    _failed_asks(lab)
    lab.ledger.searches.tick(1, 3 * 3600.0)
    if ended:
        _claim(lab)
    else:
        lab.idea("by-hand", title="running now")
        lab.lease(lab.ledger.runs.queued(lab.tag)[0])
        lab.ledger.proposals.ask(lab.tag, 1, "agent", lab.ledger.board(lab.tag).baseline_id, 3, seed=11)
        lab.clock.now += 12
    return lab


def _first_round(lab: SearchedLab) -> None:
    """Three ideas: one wins, two runners-up go into a union on it, and that wins, too."""
    lab.idea("wider", theme="architecture")
    lab.idea("warmup", theme="schedule")
    lab.idea("rope-base", theme="architecture", proposer="tpe")
    lab.until_idle()
    for ref in ("c0003", "c0004"):
        lab.apply(Replicate(ref, "c0001", lab.effect(ref), "P(better) 0.97 after 1 run: one more"))
    lab.promote("c0002")
    lab.union("c0003", "c0004", name="union-c0003-c0004", predicted=-0.0172)
    lab.until_idle()
    lab.promote("c0005")


def _second_round(lab: SearchedLab) -> None:
    """A near-miss, a port that failed, a dead end, a crash; then the lab rests for an hour."""
    lab.idea("swiglu", theme="architecture", title=EVIL, round=2)
    lab.idea("lr-too-high", theme="schedule", round=2)
    lab.idea("typo", round=2, proposer="tpe")
    lab.until_idle()
    base = "c0005"
    lab.apply(Shelve("c0006", base, lab.effect("c0006"), "P(better) 0.76 after 1 run: kept as a near-miss"))
    lab.apply(Discard("c0007", base, lab.effect("c0007"), "P(better) 0.000 < 0.80 after 1 run: not worth another"))
    lab.apply(Discard("c0008", base, None, f"crash: {EVIL}"))
    lab.apply(Combine(base, ("c0006",), 0, -0.004, "late"), problem="nothing could be merged: c0006: it conflicts")
    lab.ledger.labs.pause(lab.tag, "someone needs the machine")
    lab.clock.now += 3600
    lab.ledger.labs.resume(lab.tag)


def _failed_asks(lab: SearchedLab) -> None:
    """Every way in which an ask can bring nothing new."""
    for trouble in ProposalFailure:
        lab.fail(trouble, f"{trouble} for a reason: {EVIL}", log=f"step 1\n{EVIL}\n" + "x" * 5000)
    ask = lab.ledger.proposals.ask(lab.tag, 1, "tpe", "c0005", 2, seed=3)
    lab.ledger.proposals.known(ask, "c0007", "the same once more")


def _claim(lab: SearchedLab) -> None:
    lab.ledger.searches.move(1, SearchState.RUNNING, SearchState.CLAIMING, "40 of 40 runs are spent")
    for _ in range(2):
        for ref in ("c0001", "c0005"):
            lab.ledger.runs.add(ref, RunKind.CLAIM, "claim of search 1")
    lab.until_idle()
    lab.ledger.claims.record(lab.tag, 1, claim_of(lab))
    lab.ledger.searches.move(1, SearchState.CLAIMING, SearchState.ENDED, "40 of 40 runs are spent")


def claim_of(lab: SearchedLab) -> Claim:
    first, final = SCORES["baseline"][3:5], SCORES["union-c0003-c0004"][1:3]
    diff = sum(final) / 2 - sum(first) / 2  # type: ignore[arg-type]
    return Claim("c0001", "c0005", first, final, diff, 0.0031, 9.0, diff - 0.007, diff + 0.007)  # type: ignore[arg-type]


def long_lab(path: Path, candidates: int = 700, batch: int = 25) -> SearchedLab:
    """A lab of many candidates, most of them dropped after one run, one of every second batch promoted."""
    best = [1.95]

    def script(name: str, before: int) -> float | str:
        if name.startswith("winner"):
            return best[0] - 0.002
        number = int(name.partition("-")[2] or 0)
        return "crash" if number % 9 == 4 else best[0] + 0.013 * (number * 7919 % 17 - 1) / 10 + before / 1000

    lab = SearchedLab(path, script)
    lab.begin()
    lab.ledger.searches.start(lab.tag, SETTINGS)
    lab.until_idle()
    for start in range(1, candidates + 1, batch):
        numbers = range(start, min(start + batch, candidates + 1))
        made = [_long_idea(lab, number) for number in numbers]
        lab.until_idle()
        board = lab.ledger.board(lab.tag)
        noise = lab_noise(board)
        for candidate in made:
            standing = board.of(candidate.id)
            effect = effect_of(standing, board.baseline, noise) if standing.n else None
            lab.apply(Discard(candidate.id, board.baseline_id, effect, "P(better) 0.120 < 0.80: not worth another"))
        if start // batch % 2:
            lab.idea(f"winner-{start}")
            lab.until_idle()
            lab.promote(lab.ledger.candidates.get("last", lab.tag).id)
            best[0] = lab.ledger.board(lab.tag).baseline.mean
    return lab


def _long_idea(lab: SearchedLab, number: int) -> Candidate:
    theme = ("architecture", "schedule", "")[number % 3]
    return lab.idea(f"idea-{number}", theme=theme, title=f"idea {number} " * 8)
