"""Results, folders and files that the judge did not make: the supervisor takes none of them for a result or a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.domain.errors import PoolProblem
from scheduler.domain.slot import Busy, Done, Lost, Report, carries, longest_run_s
from scheduler.node.spool import FILE_LIMIT_BYTES
from scheduler.node.supervisor import SlotSupervisor
from tests.scheduler.fake_judge import CONTRACT_JSON, result_text
from tests.scheduler.pool_contract import NONCE
from tests.scheduler.supervisor_pool import FAKES, LAB_ID, fake_order, specs
from tests.waiting import wait_until

FORGED = result_text(0.1, 7)


class Slot:
    """One supervisor with the fake judge and a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.root, self.gate = folder / "spool", folder / "gate"
        self.now_s = 0.0
        self.supervisor = SlotSupervisor(specs(1)[0], self.root, FAKES, clock=lambda: self.now_s)
        self.spool = self.root / LAB_ID / "r0001.1"

    def finish(self, train_py: str) -> Report:
        self.supervisor.start(fake_order("r0001", train_py))
        wait_until(lambda: not isinstance(self.report(), Busy))
        return self.report()

    def report(self) -> Report:
        [report] = self.supervisor.poll(LAB_ID)
        return report


@pytest.fixture
def slot(tmp_path: Path) -> Iterator[Slot]:
    made = Slot(tmp_path)
    yield made
    made.supervisor.close()


FORGERIES = {
    "a result of no judge's": ("forge 0.1", "did not vouch"),
    "a judge that failed to write its own": ("forge 0.1\nexit 1", "did not vouch"),
    "a judge that was killed": ("forge 0.1\npython os.kill(os.getpid(), 9)", "did not vouch"),
    "changed after the judge's digest": ("score 1.9\nforge 0.1", "not the one the judge wrote"),
    "no result behind the judge's digest": ("pipe cafe", "not the one the judge wrote"),
    "two digests": ("score 1.9\nscore 1.9", "not the one the judge wrote"),
    "the digest without the nonce": (
        "forge 0.1\npython import hashlib; p = (out / 'result.json').read_bytes(); "
        "os.write(int(__import__('sys').argv[__import__('sys').argv.index('--digest-fd') + 1]), "
        "hashlib.sha256(p).hexdigest().encode() + b'\\n')", "not the one the judge wrote",
    ),
    "a wrong exit code": ("score 1.9\nexit 1", "exit code 0"),
    "a killed judge's digest": ("score 1.9\npython os.kill(os.getpid(), 9)", "exit code 0"),
    "a result of any size": (
        f"score 1.9\npython os.truncate(out / 'result.json', {FILE_LIMIT_BYTES * 1000})", "not the one",
    ),
    "a link to a result": (
        "score 1.9\npython (out / 'result.json').rename(out / 'x'); (out / 'result.json').symlink_to(out / 'x')",
        "not the one",
    ),
    "a FIFO": ("score 1.9\npython os.unlink(out / 'result.json'); os.mkfifo(out / 'result.json')", "not the one"),
    "a folder": ("score 1.9\npython os.unlink(out / 'result.json'); os.mkdir(out / 'result.json')", "not the one"),
    "no spool at all": ("score 1.9\npython os.rename(out.parent, out.parent.with_name('away'))", "not the one"),
}  # fmt: skip


@pytest.mark.parametrize(("train_py", "why"), FORGERIES.values(), ids=FORGERIES.keys())
def test_what_the_judge_did_not_vouch_for_is_lost(slot: Slot, train_py: str, why: str) -> None:
    lost = slot.finish(train_py)
    assert isinstance(lost, Lost) and why in lost.reason
    slot.supervisor.acknowledge(LAB_ID, "r0001", 1)
    assert slot.supervisor.poll(LAB_ID) == ()


def test_a_report_does_not_change_with_the_file(slot: Slot) -> None:
    done = slot.finish("score 1.9")
    assert isinstance(done, Done)
    (slot.spool / "out" / "result.json").write_text(FORGED)
    assert slot.report() == done


def plant(slot: Slot, key: str, **order: object) -> Path:
    """A spool of a run to come, with a result, as a candidate would lay it out."""
    place = slot.root / LAB_ID / key
    (place / "out").mkdir(parents=True)
    run_id, _, attempt = key.rpartition(".")
    facts = {"slot_id": "node/cpu0", "lab_id": LAB_ID, "run_id": run_id, "attempt": int(attempt), **order}
    (place / "order.json").write_text(json.dumps(facts))
    (place / "judge.pid").write_text("1")
    (place / "out" / "result.json").write_text(FORGED)
    return place


def test_a_planted_spool_is_no_attempt_and_its_run_is_run(slot: Slot) -> None:
    plant(slot, "r0001.1")
    assert slot.supervisor.poll(LAB_ID) == ()
    done = slot.finish("score 1.9")
    assert isinstance(done, Done) and json.loads(done.result_text)["val_bpb"] == 1.9


def test_a_spool_planted_before_the_supervisor_came_is_never_done(slot: Slot) -> None:
    plant(slot, "r0001.1")
    later = SlotSupervisor(specs(1)[0], slot.root, FAKES)
    [report] = later.poll(LAB_ID)
    assert not isinstance(report, Done) or not carries(report.result_text, NONCE)


def test_the_nonce_is_in_no_argument_variable_or_file_while_the_candidate_runs(slot: Slot) -> None:
    slot.supervisor.start(fake_order("r0001", f"dump\nwait {slot.gate}\nscore 1.9"))
    wait_until((slot.spool / "out" / "facts.json").exists)
    said = [path.read_text() for path in slot.root.rglob("*") if path.is_file()]
    assert any('"argv"' in text and '"environ"' in text for text in said)
    assert not [text for text in said if NONCE in text] and NONCE not in repr(fake_order("r0001", "hang"))
    slot.gate.touch()
    wait_until(lambda: isinstance(slot.report(), Done))


PLANTED: dict[str, Callable[[Path], object]] = {
    "a file": lambda place: place.write_text(""),
    "a link": lambda place: place.symlink_to("/tmp"),
    "a FIFO": lambda place: os.mkfifo(place),
    "an order that is a FIFO": lambda place: (place.mkdir(), os.mkfifo(place / "order.json")),
    "a lock that is a FIFO": lambda place: (place.mkdir(), os.mkfifo(place / "alive.lock")),
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED.keys())
def test_nothing_that_lies_in_a_runs_place_keeps_it_from_running(slot: Slot, planted: Callable[[Path], object]) -> None:
    slot.spool.parent.mkdir(parents=True)
    planted(slot.spool)
    assert isinstance(slot.finish("score 1.9"), Done)


def test_an_order_that_claims_another_run_reports_nothing_for_it(slot: Slot) -> None:
    other = slot.root / LAB_ID / "r0001.1" / "order.json"
    rewrite = f"python p = Path({str(other)!r}); p.write_text(p.read_text().replace('r0001', 'r0002'))"
    assert slot.finish(f"{rewrite}\nscore 1.9").run_id == "r0001"
    plant(slot, "r0003.1", run_id="r0004")
    assert [report.run_id for report in SlotSupervisor(specs(1)[0], slot.root, FAKES).poll(LAB_ID)] == []


def test_a_spool_with_another_supervisors_living_judge_is_not_started(slot: Slot) -> None:
    import fcntl

    place = plant(slot, "r0001.1", slot_id="elsewhere/cpu0")
    with (place / "alive.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PoolProblem, match="another supervisor"):
            slot.supervisor.start(fake_order("r0001", "score 1.9"))
    assert isinstance(slot.finish("score 1.9"), Done)


IN_THE_WAY = {"FIFOs": "os.mkfifo(p)", "links": "os.symlink(out / 'secret', p)", "folders": "os.mkdir(p)"}
FILES = ["run.log", "progress.json", "result.json", "../judge.log", "../alive.lock", "../judge.pid", "../order.json"]


@pytest.mark.parametrize("put", IN_THE_WAY.values(), ids=IN_THE_WAY.keys())
def test_a_living_runs_files_neither_block_the_supervisor_nor_lead_it_elsewhere(slot: Slot, put: str) -> None:
    attack = f"""
import time
(out / 'secret').write_text('{{"phase": "secret"}}')
for p in [out / name for name in {FILES}]:
    if p.exists(): os.unlink(p)
    {put}
(out / 'done').touch()
while not Path({str(slot.gate)!r}).exists(): time.sleep(0.01)
"""
    slot.supervisor.start(fake_order("r0001", f"python exec({attack!r})"))
    wait_until((slot.spool / "out" / "done").exists)
    busy = slot.report()
    assert isinstance(busy, Busy)
    assert "secret" not in busy.log_tail + busy.progress.phase
    slot.gate.touch()
    wait_until(lambda: not isinstance(slot.report(), Busy))


def test_progress_that_is_none_is_shown_as_none(slot: Slot) -> None:
    strange = json.dumps({"phase": "x" * 10**6, "elapsed_s": "y", "step": {"a": 1}, "loss": [1]})
    slot.supervisor.start(fake_order("r0001", f"python (out / 'progress.json').write_text({strange!r})\nhang"))
    wait_until(lambda: (slot.spool / "out" / "progress.json").exists() and "yyy" not in str(slot.report()))
    busy = slot.report()
    assert isinstance(busy, Busy) and len(busy.progress.phase) <= 40


def test_a_judge_that_does_not_end_is_ended_and_lost(slot: Slot) -> None:
    slot.supervisor.start(fake_order("r0001", "hang"))
    slot.now_s = longest_run_s(CONTRACT_JSON)
    assert isinstance(slot.report(), Busy)
    slot.now_s += 1.0
    lost = slot.report()
    assert isinstance(lost, Lost) and "did not end within" in lost.reason
    assert not slot.supervisor.busy()


def test_a_judge_that_has_to_be_ended_after_its_digest_is_lost(slot: Slot) -> None:
    slot.supervisor.start(fake_order("r0001", "score 1.9\nhang"))
    wait_until((slot.spool / "out" / "result.json").exists)
    slot.now_s = longest_run_s(CONTRACT_JSON) + 1.0
    assert isinstance(slot.report(), Lost)
