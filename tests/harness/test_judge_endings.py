"""However a run or its judge ends, the verdict is true, the result is whole, and nothing stays alive."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from harness import containment
from tests.harness.judging import CANDIDATES, HOSTILE, Rig, phase_of, with_budget, with_limits
from tests.waiting import wait_until

BIGRAM = CANDIDATES / "bigram.py"
COMPUTING = "from harness.session import current\ncurrent().open_train_rows()\nwhile True: pass\n"


@pytest.mark.parametrize(
    ("source", "status", "seen"),
    [
        ("raise ValueError('the loss is not a number')", "crash", "ValueError: the loss is not a number"),
        ("import os; os.kill(os.getpid(), 11)", "crash", "SIGSEGV"),
        ("import sys; print('FAIL'); sys.exit(1)", "crash", "FAIL"),
        ("def f(:\n", "crash", "SyntaxError"),
        ("", "no-eval", "evaluate_bpb"),
        ("raise MemoryError", "oom", "MemoryError"),
        ("class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('CUDA out of memory.')", "oom", "CUDA"),
        ("print('CUDA out of memory, says a comment')", "no-eval", ""),
    ],
)
def test_an_end_without_a_score_is_distinguished(rig: Rig, source: str, status: str, seen: str) -> None:
    judged = rig.judge(rig.write(source))
    assert judged.result["status"] == status
    assert seen in judged.result["reason"]
    assert judged.exit_code == 3


def test_source_that_is_no_text_crashes_as_python_says(rig: Rig) -> None:
    train = rig.folder / "latin.py"
    train.write_bytes(b"name = '\xe9\xff'\n")
    judged = rig.judge(train)
    assert judged.result["status"] == "crash"
    assert "SyntaxError" in judged.result["reason"]


def test_the_reason_is_safe_to_print(rig: Rig) -> None:
    judged = rig.judge(rig.write("import sys\nsys.stderr.write('\\x1b[2J\\x1b]0;owned\\x07bell\\x00\\n')\nsys.exit(3)"))
    assert judged.result["reason"].isprintable()


def test_a_bad_exit_after_the_score_keeps_the_score(rig: Rig) -> None:
    judged = rig.judge(rig.write(BIGRAM.read_text() + "\nraise SystemExit(7)"))
    assert judged.result["status"] == "ok"
    assert judged.result["exit_code"] == 7
    assert "7" in judged.result["reason"]


def test_a_hang_after_the_score_keeps_the_score(rig: Rig) -> None:
    rig.use(with_limits(rig.contract, teardown_s=0.5))
    judged = rig.judge(rig.write(BIGRAM.read_text() + "\nimport time\ntime.sleep(3600)"))
    assert judged.result["status"] == "ok"
    assert judged.result["exit_code"] == -9


PHASES = [(HOSTILE / "hang_at_start.py", "import"), (HOSTILE / "hang_in_evaluation.py", "evaluate")]


@pytest.mark.parametrize("containment", ["auto", "subreaper"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("train", "phase"), PHASES, ids=["startup", "evaluation"])
def test_an_interrupt_ends_the_run_at_once(
    rig: Rig, train: Path, phase: str, number: signal.Signals, containment: str
) -> None:
    with rig.judging(train, "--containment", containment) as (process, out):
        wait_until(lambda: phase_of(out) == phase, f"phase {phase}")
        process.send_signal(number)
        process.send_signal(number)
        assert process.wait(timeout=60) == 1
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "infra: interrupted"
    assert number.name in result["reason"]
    assert rig.survivors() == []


def test_ctrl_c_at_the_terminal_reaches_everybody_and_is_reported_once(rig: Rig) -> None:
    """The whole foreground process group gets the signal, twice."""
    with rig.judging(rig.write(COMPUTING)) as (process, out):
        wait_until(lambda: phase_of(out) == "train", "training")
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 1
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert json.loads((out / "result.json").read_text())["status"] == "infra: interrupted"


def test_an_interrupt_before_the_judge_is_ready_is_not_lost(rig: Rig) -> None:
    with rig.judging(rig.write(COMPUTING)) as (process, out):
        wait_until(lambda: signals_blocked(process.pid) or out.exists(), "the judge to have taken its signals in hand")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 1
    assert json.loads((out / "result.json").read_text())["status"] == "infra: interrupted"


def signals_blocked(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    mask = int(next(line for line in status.splitlines() if line.startswith("SigBlk")).split()[1], 16)
    return bool(mask & 1 << (signal.SIGTERM - 1))


def judge_pids(rig: Rig, outer: int) -> list[int]:
    """The judge's processes, outermost first: the one that was started, and in a namespace its child."""
    children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
    return [outer, int(children[-1])]  # before it the outer one starts a witness of the end


@pytest.mark.parametrize("train", ["daemon", "crowd", "computing"])
@pytest.mark.parametrize("which", [0, 1], ids=["outer", "inner"])
def test_a_killed_judge_takes_its_candidate_along(rig: Rig, train: str, which: int) -> None:
    hostile = (HOSTILE / f"{train}.py").read_text() if train != "computing" else ""
    source = rig.write(f"{hostile}\n{COMPUTING}")
    with rig.judging(source, "--containment", "namespace") as (process, out):
        wait_until(lambda: phase_of(out) == "train", "training")
        os.kill(judge_pids(rig, process.pid)[which], signal.SIGKILL)
        assert process.wait(timeout=60) != 0
        wait_until(lambda: not rig.survivors(), "everybody to be dead")
    assert not (out / "result.json").exists()


def test_without_namespaces_the_candidate_itself_dies_with_its_judge(rig: Rig) -> None:
    with rig.judging(rig.write(COMPUTING), "--containment", "subreaper") as (process, out):
        wait_until(lambda: phase_of(out) == "train", "training")
        process.kill()
        wait_until(lambda: not rig.survivors(), "the candidate to be dead")


def test_a_judge_dies_with_the_process_that_started_it(rig: Rig) -> None:
    rig.use(with_budget(rig.contract, seconds=600.0, wall_limit_s=3600.0))
    command, out = rig.command(rig.write(COMPUTING))
    starter = f"import subprocess; subprocess.Popen({command!r}).wait()"
    parent = subprocess.Popen([sys.executable, "-c", starter], env=rig.environment, stderr=subprocess.DEVNULL)
    wait_until(lambda: phase_of(out) == "train", "training")
    parent.kill()
    parent.wait()
    wait_until(lambda: not rig.survivors(), "judge and candidate to be dead")


def test_the_lock_is_held_while_anything_of_the_run_lives(rig: Rig) -> None:
    lock = rig.folder / "slot.lock"
    with rig.judging(rig.write(COMPUTING), "--lock", str(lock)) as (process, out), open(lock, "a") as other:
        wait_until(lambda: phase_of(out) == "train", "training")
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.kill()
        process.wait()
        wait_until(lambda: is_free(other), "the lock to fall with the last process")


def is_free(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_a_lock_held_elsewhere_is_the_machines_fault(rig: Rig) -> None:
    lock = rig.folder / "slot.lock"
    with open(lock, "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        judged = rig.judge(BIGRAM, "--lock", str(lock))
    assert (judged.exit_code, judged.result["status"]) == (1, "infra: lock")
    assert str(lock) in judged.result["reason"]


def test_a_cache_that_is_not_there_or_not_the_one_is_the_machines_fault(rig: Rig) -> None:
    other = rig.judge(BIGRAM, "--expect-cache", "0" * 64)
    assert (other.exit_code, other.result["status"]) == (1, "infra: cache")
    rig.environment["ARSCHED_CACHE"] = str(rig.folder / "empty")
    missing = rig.judge(BIGRAM)
    assert (missing.exit_code, missing.result["status"]) == (1, "infra: cache")
    assert "arsched prepare" in missing.result["reason"]


def test_another_attention_kernel_than_expected_is_the_machines_fault(rig: Rig) -> None:
    source = "from harness.session import current\ncurrent().report_attention('sdpa')\nimport time\ntime.sleep(3600)"
    judged = rig.judge(rig.write(source), "--expect-attention", "fa3")
    assert (judged.exit_code, judged.result["status"]) == (1, "infra: attention")
    assert rig.judge(rig.write(source), "--expect-attention", "fa3").result["attention"] == "sdpa"


def test_one_judge_at_a_time_writes_to_a_directory(rig: Rig) -> None:
    with rig.judging(rig.write(COMPUTING)) as (process, out):
        wait_until(lambda: phase_of(out) == "train", "training")
        command, _ = rig.command(BIGRAM, "--out", str(out))
        second = subprocess.run(command, env=rig.environment, capture_output=True, text=True)
        assert second.returncode == 1
        assert "another judge" in second.stderr
        assert not (out / "result.json").exists()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (["--contract", "nonsense"], "nonsense"),
        (["--train", "/nowhere/train.py"], "no such file"),
        (["--train", "/bin"], "no such file"),
        (["--seed", "-1"], "seed"),
        (["--seed", "one"], "seed"),
        (["--cpus", "a"], "cores"),
        (["--cpus", "4-2"], "core"),
        (["--device", "GPU-1234"], "CPU"),
        (["--expect-attention", "magic"], "magic"),
    ],
)
def test_wrong_usage_is_reported_and_writes_nothing(rig: Rig, options: list[str], seen: str) -> None:
    command, out = rig.command(BIGRAM)
    done = subprocess.run([*command, *options], env=rig.environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert seen in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


@pytest.mark.parametrize("name", ["cuda-ipc", "cuda-fd", "pinned", "post"])
def test_an_exchange_that_a_cpu_has_not_is_a_usage_error(rig: Rig, name: str) -> None:
    judged = rig.judge(CANDIDATES / "bigram.py", "--exchange", name)
    assert judged.exit_code == 2
    assert f"--exchange {name}" in judged.stderr or repr(name) in judged.stderr


def test_the_witness_of_a_namespace_that_never_came_ends() -> None:
    """It would hold the judge's stdout open, and whoever reads that would wait for it."""
    witness, to_witness = containment._start_witness()
    to_witness.close()
    try:
        wait_until(lambda: os.waitpid(witness, os.WNOHANG)[0] == witness, "the witness to end")
    except BaseException:
        os.kill(witness, signal.SIGKILL)
        os.waitpid(witness, 0)
        raise
