"""The brief: everything a proposer should know, on one page, whatever others wrote into the lab."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.brief import LONGEST_LINE, MOST_LINES, listed, noise_lines, quote, read_brief_facts, write_brief
from scheduler.domain.candidate import Candidate, CandidateState
from scheduler.domain.decision import Effect, Noise, Promote
from scheduler.policy.explain import OTHER, THEMES, suggested_theme, theme_of, why_dead, why_failed
from scheduler.policy.gates import judge_candidate, raised
from scheduler.views.facts import LabFacts
from tests.scheduler.searched_lab import EVIL, SearchedLab, long_lab, searched_lab

ROOT = Path(__file__).resolve().parents[2]


def brief_of(lab: SearchedLab, ask: int = 0) -> str:
    return write_brief(read_brief_facts(lab.ledger, lab.ledger.labs.get(lab.tag)), ask)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> SearchedLab:
    return searched_lab(tmp_path_factory.mktemp("lab") / "ledger.db", ended=False)


def section(text: str, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r} in:\n{text}"
    return found[1]


def test_it_says_what_to_do_and_what_not(lab: SearchedLab) -> None:
    text = brief_of(lab)
    assert text.startswith("# One idea, please\n") and text.endswith("\n")
    for word in ("`train.py`", "IDEA.json", "exit code 0", "Touch no other file"):
        assert word in text.partition("## ")[0]


def test_every_section_has_its_part_of_the_lab(lab: SearchedLab) -> None:
    text = brief_of(lab)
    assert re.search(r"noise|sd 0\.\d+ bpb", section(text, "What counts as real"))
    board = lab.ledger.board(lab.tag)
    assert board.baseline_id in section(text, "The baseline")
    moved = section(text, "What has moved the score")
    for made in lab.ledger.decisions.promotions(lab.tag):
        assert made.candidate_id in moved
    assert "±" in moved and "expect about" in moved
    near = section(text, "Near-misses")
    assert "c0006" in near and "c0003" not in near  # whose patch is in the baseline by now
    assert "P(better)" in near and "tokens/s" in near and "loss 4.120, 3.300, 2.950 at 25, 50, 75 %" in near
    dead = section(text, "Dead ends, by theme")
    assert "crash" in dead and "±" in dead
    merges = section(text, "Do gains add up? Unions and ports: what their parts promised together, and what came of it")
    assert "predicted" in merges and "measured" in merges
    assert "refused" in section(text, "Ideas that were refused or lost lately")


@pytest.mark.parametrize("p_unsteady", [0.1, 0.5])
def test_the_effect_that_promotes_is_the_one_that_the_rule_promotes_at(lab: SearchedLab, p_unsteady: float) -> None:
    facts = read_brief_facts(lab.ledger, lab.ledger.labs.get(lab.tag))
    board = facts.lab.board
    assert board is not None
    noise = Noise(0.005, 20, drift=0.005, scale_s=7200.0, p_unsteady=p_unsteady)
    vars(facts.lab)["noise"] = noise  # as if it had been reckoned from the board
    base, gates = board.baseline, raised(board.gates, board.trials_on_baseline)
    found = re.search(r"is promoted at −(0\.\d+) and", "\n".join(noise_lines(facts)))
    assert found
    occasions = tuple(replace(last, seed=1) for last in base.occasions[-1:])
    for beyond, promotes in ((0.0002, True), (-0.0002, False)):
        score = base.mean - float(found[1]) - beyond
        idea = replace(base, state=CandidateState.OPEN, scores=(score,), occasions=occasions, base_id=base.candidate_id)
        assert isinstance(judge_candidate(idea, base, noise, gates), Promote) == promotes


def test_a_long_search_is_one_page_and_quick(tmp_path: Path) -> None:
    lab = long_lab(tmp_path / "ledger.db")
    facts = read_brief_facts(lab.ledger, lab.ledger.labs.get(lab.tag))
    began = time.process_time()
    text = write_brief(facts)
    assert time.process_time() - began < 2.0  # it is written for every ask
    assert text.count("\n") <= MOST_LINES
    assert max(map(len, text.splitlines())) <= LONGEST_LINE
    assert re.search(r"and \d+ more", text)
    assert write_brief(facts) == text


def test_the_page_is_the_same_without_docstrings_and_assertions(lab: SearchedLab, tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from scheduler.brief import read_brief_facts, write_brief
from scheduler.ledger import Ledger
with Ledger.open(Path(sys.argv[1])) as ledger:
    sys.stdout.write(write_brief(read_brief_facts(ledger, ledger.labs.get(sys.argv[2]))))
"""
    searched_lab(tmp_path / "ledger.db", ended=False).ledger.close()
    command = [sys.executable, "-OO", "-c", program, str(tmp_path / "ledger.db"), lab.tag]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == brief_of(lab)


def test_a_probability_is_never_rounded_up(lab: SearchedLab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = LabFacts.effect

    def almost_sure(facts: LabFacts, candidate: Candidate) -> Effect | None:
        effect = real(facts, candidate)
        return replace(effect, p_better=0.9799) if effect else None

    monkeypatch.setattr(LabFacts, "effect", almost_sure)
    near = section(brief_of(lab), "Near-misses")
    assert "P(better) 0.97" in near and "0.98" not in near


def test_hostile_words_stay_words(lab: SearchedLab) -> None:
    text = brief_of(lab)
    assert text.count("\n") <= MOST_LINES
    assert not any(ord(c) < 32 and c != "\n" for c in text)
    assert "\u202e" not in text and "\x1b" not in text and EVIL not in text


@given(st.text(max_size=300))
def test_a_quotation_cannot_pose_as_the_briefs_own_words(said: str) -> None:
    quoted = quote(said)
    assert quoted[0] == "“" and quoted[-1] == "”" and len(quoted) <= 92
    assert not set("`“”\n\r\t\x1b") & set(quoted[1:-1])


def test_what_is_left_out_is_counted() -> None:
    lines = [f"- {n}" for n in range(10)]
    assert listed(lines, 10, "things") == lines
    cut = listed(lines, 4, "things")
    assert cut[:3] == lines[:3] and "7 more things" in cut[3] and len(cut) == 4


def test_asks_are_led_through_the_themes_in_turn(lab: SearchedLab) -> None:
    assert {suggested_theme(n) for n in range(len(THEMES))} == set(THEMES)
    assert brief_of(lab, 1) != brief_of(lab, 2)


@pytest.mark.parametrize(
    ("said", "title", "theme"),
    [
        ("Architecture", "", "architecture"),
        ("optimizer", "", "optimiser"),
        ("constants", "MATRIX_LR 0.04 → 0.06", "optimiser"),
        ("", "WARMDOWN_RATIO 0.5 → 0.3", "schedule"),
        ("", "TOTAL_BATCH_SIZE 2048 → 4096, DEVICE_BATCH_SIZE 16 → 32", "throughput"),
        ("", "two layers fewer", "architecture"),
        ("", "DEPTH 4 → 6, MATRIX_LR 0.04 → 0.06", "architecture"),
        ("", "remove the value embeddings", "removal"),
        ("", "an idea", OTHER),
        ("my own word", "depth", "my own word"),
    ],
)
def test_a_theme_is_the_authors_or_guessed(said: str, title: str, theme: str) -> None:
    assert theme_of(said, title) == theme


def effect(diff: float) -> Effect:
    return Effect(diff, 0.001, 0.001, 1, 3, 0.5, diff)


@pytest.mark.parametrize(
    ("diff", "mine", "base", "said"),
    [
        (0.01, 80.0, 100.0, "slower (tokens/s −20%), and not worth it"),
        (0.01, 120.0, 100.0, "faster (tokens/s +20%), but worse per token"),
        (0.01, 100.0, 101.0, "worse per token at the same speed"),
        (0.01, None, 100.0, "worse"),
        (0.001, 100.0, 100.0, "within noise"),
        (-0.001, 80.0, 100.0, "within noise, slower (tokens/s −20%)"),
        (-0.01, 100.0, 100.0, "better, not by enough"),
    ],
)
def test_a_dead_end_has_a_reason(diff: float, mine: float | None, base: float, said: str) -> None:
    assert why_dead(effect(diff), mine, base) == said


def test_a_failure_keeps_its_words() -> None:
    assert why_failed("oom", "") == "out of memory"
    assert why_failed("crash", "exit status 1") == "crash: exit status 1"
    assert why_failed("timeout: train", "") == "timeout: train"
