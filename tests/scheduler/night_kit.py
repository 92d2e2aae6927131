"""A lab after a searched night, for the tests of what people read: every state, kind and trouble there is, once.

Decisions are applied as they are written here, not taken: what is shown must not depend on the rule of the day. Names,
titles and logs of some candidates are hostile.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scheduler.domain.candidate import Candidate, Origin
from scheduler.domain.claim import Claim
from scheduler.domain.decision import Combine, Decision, Discard, Effect, Promote, Replicate, Shelve
from scheduler.domain.merge import Assembled
from scheduler.domain.proposal import Trouble
from scheduler.domain.run import RunKind
from scheduler.domain.search import Budget, ProposerChoice, SearchSettings, SearchState
from scheduler.policy.explain import describe_effect
from scheduler.policy.gates import effect_of
from scheduler.policy.noise import board_noise
from tests.scheduler.ledger_kit import merged_program
from tests.scheduler.view_kit import Play

EVIL = "<script>alert('x')</script><b>bold</b> \x1b[31mred\x1b[0m \u202egnp.exe & \"quoted\" {{ 7 * 7 }} </td>"
SETTINGS = SearchSettings(
    Budget(hours=8.0, runs=40), (ProposerChoice("agent"), ProposerChoice("tpe", 0.5), ProposerChoice("union"))
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


class Night(Play):
    """A lab in which only what is said is decided."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, lambda name, before: SCORES[name][min(before, len(SCORES[name]) - 1)])

    def decide(self) -> None:
        """Nothing by itself."""

    def idea(
        self, name: str, *, proposer: str = "agent", theme: str = "", title: str = "", round: int = 1
    ) -> Candidate:
        """An ask, answered by a new candidate."""
        base = self.ledger.board(self.tag).baseline_id
        ask = self.ledger.proposals.ask(self.tag, 1, proposer, base, round, seed=7)
        self.clock.now += 3
        made = self.ledger.candidates.add(
            self.tag,
            name=name,
            commit=f"{name:x<40}"[:40],
            base_id=base,
            train_py=f"NAME = {name!r}\n# {EVIL}\n".encode(),
            train_sha256=f"sha of {name}",
            fingerprint=f"fingerprint of {name}",
            title=title or f"try {name}",
            author=f"{proposer} in search 1",
            kind=RunKind.NEW,
            origin=Origin.PROPOSED,
            proposer=proposer,
            hypothesis=f"{name} should learn more per step",
            theme=theme,
            round=round,
            code_lines=100,
        )
        remark = f"it left 1 process behind, ended with it {EVIL}" if name == "rope-base" else ""
        self.ledger.proposals.queued(ask, made.id, title or f"try {name}", log="done\n", remark=remark)
        return made

    def effect(self, ref: str, base: str | None = None) -> Effect:
        board = self.ledger.board(self.tag)
        return effect_of(board.of(ref), board.of(base or board.baseline_id), board_noise(board))

    def apply(self, decision: Decision, assembled: Assembled | None = None, problem: str = "") -> None:
        effect = getattr(decision, "effect", None)
        about = getattr(decision, "candidate_id", None) or ", ".join(getattr(decision, "parts", ()))
        words = (type(decision).__name__.lower(), about, describe_effect(effect) if effect else decision.reason)
        self.ledger.decisions.apply(
            self.tag,
            decision,
            noise=board_noise(self.ledger.board(self.tag)),
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

    def fail(self, trouble: Trouble, reason: str, *, proposer: str = "agent", log: str = "") -> None:
        base = self.ledger.board(self.tag).baseline_id
        ask = self.ledger.proposals.ask(self.tag, 1, proposer, base, 1, seed=9)
        self.clock.now += 1
        self.ledger.proposals.failed(ask, trouble, reason, log=log)


def night_lab(path: Path, *, ended: bool = True) -> Night:
    """A night that ended with a claim; `ended=False`: one in the middle, two slots busy, an idea being written."""
    night = Night(path)
    night.begin()
    night.ledger.searches.start(night.tag, SETTINGS)
    night.until_idle()
    _first_round(night)
    _second_round(night)
    _troubles(night)
    night.ledger.searches.tick(1, 3 * 3600.0)
    if ended:
        _claim(night)
    else:
        night.idea("by-hand", title="running now")
        night.lease(night.ledger.runs.queued(night.tag)[0])
        night.ledger.proposals.ask(night.tag, 1, "agent", night.ledger.board(night.tag).baseline_id, 3, seed=11)
        night.clock.now += 12
    return night


def _first_round(night: Night) -> None:
    """Three ideas: one wins, two runners-up go into a union on it, and that wins, too."""
    night.idea("wider", theme="architecture")
    night.idea("warmup", theme="schedule")
    night.idea("rope-base", theme="architecture", proposer="tpe")
    night.until_idle()
    for ref in ("c0003", "c0004"):
        night.apply(Replicate(ref, "c0001", night.effect(ref), "P(better) 0.97 after 1 run: one more"))
    night.promote("c0002")
    night.union("c0003", "c0004", name="union-c0003-c0004", predicted=-0.0172)
    night.until_idle()
    night.promote("c0005")


def _second_round(night: Night) -> None:
    """A near-miss, a port that failed, a dead end, a crash; then the lab rests for an hour."""
    night.idea("swiglu", theme="architecture", title=EVIL, round=2)
    night.idea("lr-too-high", theme="schedule", round=2)
    night.idea("typo", round=2, proposer="tpe")
    night.until_idle()
    base = "c0005"
    night.apply(Shelve("c0006", base, night.effect("c0006"), "P(better) 0.76 after 1 run: kept as a near-miss"))
    night.apply(Discard("c0007", base, night.effect("c0007"), "P(better) 0.000 < 0.80 after 1 run: not worth another"))
    night.apply(Discard("c0008", base, None, f"crash: {EVIL}"))
    night.apply(Combine(base, ("c0006",), 0, -0.004, "late"), problem="nothing could be merged: c0006: it conflicts")
    night.ledger.labs.pause(night.tag, "somebody needs the machine")
    night.clock.now += 3600
    night.ledger.labs.resume(night.tag)


def _troubles(night: Night) -> None:
    """Every way in which an ask can bring nothing new."""
    for trouble in Trouble:
        night.fail(trouble, f"{trouble} for a reason: {EVIL}", log=f"step 1\n{EVIL}\n" + "x" * 5000)
    ask = night.ledger.proposals.ask(night.tag, 1, "tpe", "c0005", 2, seed=3)
    night.ledger.proposals.known(ask, "c0007", "the same once more")


def _claim(night: Night) -> None:
    night.ledger.searches.move(1, SearchState.RUNNING, SearchState.CLAIMING, "40 of 40 runs are spent")
    for _ in range(2):
        for ref in ("c0001", "c0005"):
            night.ledger.runs.add(ref, RunKind.CLAIM, "claim of search 1")
    night.until_idle()
    night.ledger.claims.record(night.tag, 1, claim_of(night))
    night.ledger.searches.move(1, SearchState.CLAIMING, SearchState.ENDED, "40 of 40 runs are spent")


def claim_of(night: Night) -> Claim:
    first, final = SCORES["baseline"][3:5], SCORES["union-c0003-c0004"][1:3]
    diff = sum(final) / 2 - sum(first) / 2  # type: ignore[arg-type]
    return Claim("c0001", "c0005", first, final, diff, 0.0031, 9.0, diff - 0.007, diff + 0.007)  # type: ignore[arg-type]


def long_lab(path: Path, candidates: int = 700, batch: int = 25) -> Night:
    """A lab of many candidates, most of them dropped after one run, one of every second batch promoted."""
    night = Night(path)
    best = [1.95]

    def script(name: str, before: int) -> float | str:
        if name.startswith("winner"):
            return best[0] - 0.002
        number = int(name.partition("-")[2] or 0)
        return "crash" if number % 9 == 4 else best[0] + 0.013 * (number * 7919 % 17 - 1) / 10 + before / 1000

    night.script = script
    night.begin()
    night.ledger.searches.start(night.tag, SETTINGS)
    night.until_idle()
    for start in range(1, candidates + 1, batch):
        numbers = range(start, min(start + batch, candidates + 1))
        made = [_long_idea(night, number) for number in numbers]
        night.until_idle()
        board = night.ledger.board(night.tag)
        noise = board_noise(board)
        for candidate in made:
            standing = board.of(candidate.id)
            effect = effect_of(standing, board.baseline, noise) if standing.n else None
            night.apply(Discard(candidate.id, board.baseline_id, effect, "P(better) 0.120 < 0.80: not worth another"))
        if start // batch % 2:
            night.idea(f"winner-{start}")
            night.until_idle()
            night.promote(night.ledger.candidates.get("last", night.tag).id)
            best[0] = night.ledger.board(night.tag).baseline.mean
    return night


def _long_idea(night: Night, number: int) -> Candidate:
    theme = ("architecture", "schedule", "")[number % 3]
    return night.idea(f"idea-{number}", theme=theme, title=f"idea {number} " * 8)
