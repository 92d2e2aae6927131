"""What tests of proposers share: setups, asks, waiting for answers, and a look for processes left behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from scheduler.domain.search import Answer, Ask, Proposer, Trial
from scheduler.proposers.registry import ProposerSetup
from tests.scheduler.git_kit import git, make_repository
from tests.waiting import wait_until

AGENT = Path(__file__).parents[1] / "fixtures" / "scripted_agent.py"
AGENT_COMMAND = f"{sys.executable} -S {AGENT}"
MARK = "ARSCHED_TEST_MARK"
AGENT_SOURCE = b"import os\n\nDEPTH = 4  # layers\nMATRIX_LR = 0.04\nASPECT_RATIO = 16\n"


def make_agent_repository(folder: Path) -> Path:
    """A repository whose train.py is AGENT_SOURCE."""
    root = make_repository(folder)
    (root / "train.py").write_bytes(AGENT_SOURCE)
    git(root, "commit", "--quiet", "--all", "--message", "second")
    return root


def make_setup(root: Path, options: Mapping[str, str], *, name: str = "agent", slots: int = 2) -> ProposerSetup:
    folder = root / ".arsched" / "proposals"
    return ProposerSetup(name, options, root, folder, slots, 7, time.monotonic, lambda line: None)


def make_ask(train_py: bytes, ask_id: str = "p0001", *, commit: str = "", seed: int = 1, trials=()) -> Ask:
    return Ask(ask_id, "c0001", commit, train_py, "# Notes\n\nNothing yet.\n", tuple(trials), 1, seed)


def make_trial(train_py: bytes, val_bpb: float | None = None, *, pending: bool = False, failure: str = "") -> Trial:
    return Trial("c0002", "c0001", train_py, val_bpb, pending, "tpe", failure)


def collect(proposer: Proposer, count: int = 1) -> list[Answer]:
    answers: list[Answer] = []
    wait_until(lambda: answers.extend(proposer.poll()) or len(answers) >= count, f"{count} answers")
    return answers


def marked(mark: str) -> list[int]:
    """Living processes that were started with this mark in their environment."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if wanted in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                found.append(int(name))
        except OSError:
            continue
    return found
