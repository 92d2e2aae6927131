"""Candidates that cheat, break the protocol or misbehave get the verdict they deserve and never a score."""

from __future__ import annotations

import json

import pytest

from harness.rows import read_rows
from tests.harness.judging import CANDIDATES, HOSTILE, Judged, Rig, with_budget, with_limits

RAW = """
import os, socket, struct
from harness.protocol import Message, Op, receive, receive_with_fds, send
sock = socket.socket(fileno=int(os.environ["ARSCHED_JUDGE_FD"]))
"""
SESSION = """
import numpy as np
from harness.session import current

class Answer:
    def __init__(self, tokens): self.tokens = tokens
    def write(self, first, count, buffer): fill(buffer.host[:count], self.tokens[first:first + count])

session = current()
session.open_train_rows()
"""
SERVE = "print(session.serve_logits(Answer, 8))\n"


def refused(judged: Judged, status: str) -> str:
    """The run has this verdict, no score anywhere, and the right exit code; returns the reason."""
    result = judged.result
    assert result["status"] == status, result["reason"]
    assert [result[key] for key in ("val_bpb", "val_bpb_upstream", "nats_per_token")] == [None, None, None]
    assert judged.exit_code == 3
    return str(result["reason"])


@pytest.mark.parametrize("name", ["fake_print", "patched_evaluator"])
def test_a_printed_or_forged_score_counts_for_nothing(rig: Rig, name: str) -> None:
    refused(rig.judge(HOSTILE / f"{name}.py"), "no-eval")


@pytest.mark.parametrize("containment", ["auto", "subreaper"])
def test_a_hang_before_training_ends_at_the_startup_limit(rig: Rig, containment: str) -> None:
    rig.use(with_limits(rig.contract, startup_s=0.5))
    refused(rig.judge(HOSTILE / "hang_at_start.py", "--containment", containment), "timeout: startup")


@pytest.mark.parametrize("containment", ["auto", "subreaper"])
@pytest.mark.parametrize("name", ["hang_in_training", "deaf"])
def test_training_past_the_budget_is_ended(rig: Rig, name: str, containment: str) -> None:
    refused(rig.judge(HOSTILE / f"{name}.py", "--containment", containment), "timeout: train")


def test_a_hang_in_the_evaluation_ends_at_its_limit(rig: Rig) -> None:
    rig.use(with_limits(rig.contract, evaluation_s=0.5))
    refused(rig.judge(HOSTILE / "hang_in_evaluation.py"), "timeout: eval")


@pytest.mark.parametrize("said", ["", "send(sock, Message(Op.ROOM))"], ids=["no room made", "no buffer opened"])
def test_an_evaluation_that_does_not_begin_ends_at_its_limit(rig: Rig, said: str) -> None:
    rig.use(with_limits(rig.contract, evaluation_s=0.5))
    judged = rig.judge(rig.write(f"{RAW}\n{ASK}\n{said}\nimport time\ntime.sleep(3600)"))
    refused(judged, "timeout: eval")
    assert judged.result["exchange"] is None


def test_page_locking_that_did_not_happen_changes_nothing_but_a_name(rig: Rig) -> None:
    """READY may claim it; on a CPU there is nothing to page-lock, and the result says so."""
    claim = "send = harness.logits_server.send\nharness.logits_server.send = lambda sock, message, *more: send(sock, "
    claim += "dataclasses.replace(message, count=2) if message.op is Op.READY else message, *more)\n"
    source = (CANDIDATES / "bigram.py").read_text().partition("\nimport ")
    head = f"import dataclasses, harness.logits_server\nfrom harness.protocol import Op\n{claim}import "
    result = rig.judge(rig.write(source[0] + "\n" + head + source[2])).result
    assert (result["status"], result["exchange"]) == ("ok", "host")


def test_sleeping_through_a_cpu_budget_ends_at_the_wall_limit(rig: Rig) -> None:
    rig.use(with_budget(rig.contract, wall_limit_s=1.0))
    reason = refused(rig.judge(HOSTILE / "sleeper.py"), "timeout: train")
    assert "wall" in reason


@pytest.mark.parametrize("containment", ["auto", "subreaper"])
@pytest.mark.parametrize("name", ["daemon", "crowd", "runaway"])
def test_what_a_candidate_leaves_behind_dies_with_it(rig: Rig, name: str, containment: str) -> None:
    refused(rig.judge(HOSTILE / f"{name}.py", "--containment", containment), "no-eval")
    assert rig.survivors() == []


def test_a_daemon_works_on_the_same_budget(rig: Rig) -> None:
    """Hiding the work in an orphan does not stop the CPU clock."""
    source = (HOSTILE / "daemon.py").read_text() + "\nimport time\nwhile True: time.sleep(1)\n"
    judged = rig.judge(rig.write(source))
    assert "used only" not in refused(judged, "timeout: train")
    assert judged.result["budget"]["used_s"] > 0.6


def test_children_no_one_waits_for_work_on_the_same_budget(rig: Rig) -> None:
    judged = rig.judge(HOSTILE / "disowner.py")
    assert "used only" not in refused(judged, "timeout: train")


def test_a_flood_of_reports_keeps_the_judge_from_nothing(rig: Rig) -> None:
    judged = rig.judge(HOSTILE / "babbler.py")
    refused(judged, "timeout: train")
    assert judged.result["training"]["last_loss"] is None
    assert judged.result["peak_memory_mb"] is None
    assert json.loads((judged.out / "progress.json").read_text())["loss"] is None


def test_a_log_flood_is_capped_head_and_tail(rig: Rig) -> None:
    flood = (HOSTILE / "log_flood.py").read_text()
    honest = (CANDIDATES / "bigram.py").read_text()
    judged = rig.judge(rig.write(f'print("the beginning", flush=True)\n{flood}\n{honest}'))
    assert judged.result["status"] == "ok"
    assert judged.result["log"] == {"file": "run.log", "truncated": True}
    assert (judged.out / "run.log").stat().st_size < rig.contract.limits.log_mb * 2**20 + 200
    assert judged.log.startswith("the beginning\n")
    assert "the end" in judged.log
    assert "bytes left out" in judged.log
    assert judged.log.rstrip().splitlines()[-1].startswith("val_bpb:")


ASK = "send(sock, Message(Op.START)); send(sock, Message(Op.EVAL, integer=8))"
LAST_WORDS = {
    "short": "sock.send(b'hello')",
    "two starts": "send(sock, Message(Op.START)); send(sock, Message(Op.START))",
    "done out of order": "\n".join(
        f"send(sock, Message(Op.{op}, count={count}, integer=8))"
        for op, count in (("START", 0), ("EVAL", 0), ("ROOM", 0), ("READY", 1), ("DONE", 2))
    ),
}


def test_junk_on_the_socket_breaks_the_protocol(rig: Rig) -> None:
    """Every kind of junk is in test_judge_dialogue; this is the one that a whole judge is started for."""
    refused(rig.judge(rig.write(f"{RAW}\n{LAST_WORDS['short']}\nimport time\ntime.sleep(3600)")), "invalid: protocol")


@pytest.mark.parametrize("junk", LAST_WORDS.values(), ids=LAST_WORDS.keys())
def test_junk_as_a_last_word_breaks_the_protocol_too(rig: Rig, junk: str) -> None:
    refused(rig.judge(rig.write(f"{RAW}\n{junk}")), "invalid: protocol")


@pytest.mark.parametrize("name", ["second_evaluation", "smuggler", "pickle_bomb"])
def test_breaking_the_protocol_costs_the_score(rig: Rig, name: str) -> None:
    judged = rig.judge(HOSTILE / f"{name}.py")
    refused(judged, "invalid: protocol")
    assert not list(rig.folder.rglob("pwned"))


def test_done_without_a_logit_written_finds_the_poison(rig: Rig) -> None:
    refused(rig.judge(HOSTILE / "done_without_reading.py"), "invalid: non-finite")


def test_logits_that_are_no_probabilities_do_not_score(rig: Rig) -> None:
    """Every kind of them is in test_judge_evaluation; here a whole judge gives the verdict."""
    source = f"{SESSION}\ndef fill(view, tokens):\n    view[...] = 0; view[-1, -1, -1] = np.nan\n{SERVE}"
    refused(rig.judge(rig.write(source)), "invalid: non-finite")


def test_ruling_out_a_token_that_does_not_come_is_legitimate(rig: Rig) -> None:
    rows = read_rows(rig.cache().val_rows_path, rig.contract.sequence_length)
    absent = next(token for token in range(rig.contract.vocab_size) if token not in rows[:, 1])
    fill = f"view[...] = 0; view[:, 0, {absent}] = -np.inf"
    assert rig.judge(rig.write(f"{SESSION}\ndef fill(view, tokens):\n    {fill}\n{SERVE}")).result["status"] == "ok"


def test_huge_logits_score_without_overflow(rig: Rig) -> None:
    fill = "view[...] = -1e30; view[:, :, 7] = 1e30"
    result = rig.judge(rig.write(f"{SESSION}\ndef fill(view, tokens):\n    {fill}\n{SERVE}")).result
    assert result["status"] == "ok"
    assert result["val_bpb"] > 1e29


def test_the_shared_memory_cannot_be_resized(rig: Rig) -> None:
    judged = rig.judge(HOSTILE / "truncates_memory.py")
    assert judged.result["status"] == "ok"
    assert "refused EPERM" in judged.log
    assert "truncated" not in judged.log


def test_training_over_the_budget_gives_no_score(rig: Rig) -> None:
    """Within the grace, which decides about the name of the verdict alone."""
    late = (CANDIDATES / "bigram.py").read_text().replace("< TIME_BUDGET", "< TIME_BUDGET + 0.2")
    judged = rig.judge(rig.write(late))
    reason = refused(judged, "invalid: over-budget")
    assert f"used {judged.result['budget']['used_s']:.2f} s of 0.3 s" in reason
    assert judged.result["budget"]["used_s"] >= 0.4


def test_stopping_within_the_margin_is_fine(rig: Rig) -> None:
    late = (CANDIDATES / "bigram.py").read_text().replace("< TIME_BUDGET", "< TIME_BUDGET + 0.04")
    assert rig.judge(rig.write(late)).result["status"] == "ok"


def test_freezing_the_candidates_clock_changes_nothing(rig: Rig) -> None:
    frozen = "import time\nfor name in ('time', 'monotonic', 'perf_counter', 'process_time', 'clock_gettime'):\n"
    frozen += "    setattr(time, name, lambda *arguments: 0.0)\n"
    refused(rig.judge(rig.write(frozen + (CANDIDATES / "bigram.py").read_text())), "timeout: train")


def test_a_candidate_cannot_stop_its_judge(rig: Rig) -> None:
    judged = rig.judge(HOSTILE / "kills_judge.py", "--containment", "namespace")
    refused(judged, "no-eval")
    assert "still here" in judged.log
