"""Which slots' scores compare: the name of their pool has every part that makes them differ."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from scheduler.node.harness_client import CacheFacts, probe_cache

FACTS = CacheFacts("cpu", contract_digest="a" * 64, digest="b" * 64, calibration="12345678")


def test_a_pool_is_named_after_all_that_makes_scores_comparable() -> None:
    others = (
        replace(FACTS, contract_digest="c" * 64),
        replace(FACTS, digest="d" * 64),
        replace(FACTS, calibration="87654321"),
        replace(FACTS, calibration=""),
    )
    names = {facts.pool_name("EPYC", "", "full") for facts in (FACTS, *others)}
    names |= {FACTS.pool_name("Xeon", "", "full"), FACTS.pool_name("EPYC", "", "weak")}
    assert len(names) == len(others) + 3
    assert "calibration" not in replace(FACTS, calibration="").pool_name("EPYC", "", "full")


def test_the_calibration_is_what_the_harness_says(tmp_path: Path) -> None:
    answer = {"contract_digest": FACTS.contract_digest, "digest": FACTS.digest, "calibration": None}
    for name in ("12345678", None):
        said = json.dumps(answer | {"calibration": name})
        command = [sys.executable, "-c", f"print({said!r})"]
        assert probe_cache(command, '{"name": "cpu"}', tmp_path, {}).calibration == (name or "")
