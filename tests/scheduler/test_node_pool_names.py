"""Which slots' scores compare: the name of their pool has every part that makes them differ."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from scheduler.node.harness_client import CacheFacts, probe_cache

FACTS = CacheFacts("cpu", contract_digest="a" * 64, digest="b" * 64, calibrated_again=1)


def test_a_pool_is_named_after_all_that_makes_scores_comparable() -> None:
    others = (
        replace(FACTS, contract_digest="c" * 64),
        replace(FACTS, digest="d" * 64),
        replace(FACTS, calibrated_again=2),
        replace(FACTS, calibrated_again=0),
    )
    names = {facts.pool_name("EPYC", "", "full") for facts in (FACTS, *others)}
    names |= {FACTS.pool_name("Xeon", "", "full"), FACTS.pool_name("EPYC", "", "weak")}
    assert len(names) == len(others) + 3
    # Several nodes, each with a first calibration of its own, are one pool.
    assert "calibration" not in replace(FACTS, calibrated_again=0).pool_name("EPYC", "", "full")


def test_how_often_a_node_was_calibrated_is_what_the_harness_says(tmp_path: Path) -> None:
    answer = {"contract_digest": FACTS.contract_digest, "digest": FACTS.digest}
    for again in (2, 0, None):
        said = json.dumps(answer | {"calibrated_again": again})
        command = [sys.executable, "-c", f"print({said!r})"]
        assert probe_cache(command, '{"name": "cpu"}', tmp_path, {}).calibrated_again == (again or 0)
