"""What --json prints is a promise to agents: every key and every value of every reading verb, on a lab with everything.

ARSCHED_WRITE_GOLDEN=1 writes golden/verbs.json anew: read the difference before it is committed.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from scheduler.cli.main import main
from scheduler.lab import Live, LiveSlot, write_live
from tests.scheduler.git_kit import make_repository
from tests.scheduler.searched_lab import EVIL, SearchedLab, searched_lab

GOLDEN = Path(__file__).parent / "golden" / "verbs.json"
ENDED = ("status", "leaderboard", "show c0001", "show c0005", "show c0008", "show r0010", "explain c0004",
         "explain c0006", "explain c0008", "explain r0010", "wait c0005 r0010", "report")  # fmt: skip
RUNNING = ("watch --once", "show c0009", "show r0011", "explain c0010", "explain r0011", "wait --timeout 0")


def slots_of(played: SearchedLab) -> Live:
    busy = LiveSlot(
        slot="laptop/cpu0", run="r0011", candidate="c0009", name=EVIL, kind="new", phase="train",
        elapsed_s=8.4, budget_s=20.0, step=82, loss=3.1234567,
    )  # fmt: skip
    broken = LiveSlot("laptop/cpu2", problem="cache is missing")
    return Live(played.clock.now - 1, 4242, played.tag, "pool", 1, False, (busy, LiveSlot("laptop/cpu1"), broken))


@pytest.mark.parametrize(("ended", "lines"), [(True, ENDED), (False, RUNNING)], ids=["ended", "running"])
def test_json_is_a_promise(
    ended: bool,
    lines: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = make_repository(tmp_path / "lab")
    played = searched_lab(root / ".git" / "arsched" / "ledger.db", ended=ended)
    if not ended:
        played.idea("late")
        write_live(root / ".git" / "arsched" / "live.json", slots_of(played))
    played.ledger.close()
    monkeypatch.chdir(root)
    monkeypatch.setattr(time, "time", played.clock)
    said: dict[str, Any] = {}
    for line in lines:
        with pytest.raises(SystemExit):
            main.main([*line.split(), "--json"])
        said[line] = json.loads(capsys.readouterr().out.replace(str(root), "ROOT"))
    check("ended" if ended else "running", said)


def check(lab: str, said: dict[str, Any]) -> None:
    known = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    if os.environ.get("ARSCHED_WRITE_GOLDEN"):
        known[lab] = said
        GOLDEN.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert json.dumps(said) == json.dumps(known[lab])  # the order of keys included
