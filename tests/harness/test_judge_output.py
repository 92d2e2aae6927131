"""Whatever a candidate does to the output folder, the judge's own files are there, and only they are vouched for."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from harness.judge.arguments import parse_arguments
from harness.judge.report import JudgeVerdict, verdict_with_output
from tests.harness.judging import CANDIDATES, Judged, Rig, phase_of
from tests.harness.output_attacks import ON_NAMES, ON_THE_FOLDER, VICTIM, forger
from tests.waiting import wait_until

NAMES = ["progress.json", "result.json", "run.log"]
BIGRAM = CANDIDATES / "bigram.py"


NONCE = "beef" * 8


@pytest.fixture(autouse=True)
def _without_a_sandbox(rig: Rig) -> None:
    """It would keep these attacks from ever reaching the folder."""
    rig.sandbox = "off"


def judge_with_digest(
    rig: Rig, train: Path, *options: str, pass_fds: tuple[int, ...] = ()
) -> tuple[Judged, bytes]:  # fmt: skip
    """A run, and all that its judge wrote to the pipe."""
    read_fd, write_fd = os.pipe()
    command, out = rig.command(train, "--digest-fd", str(write_fd), *options)
    with subprocess.Popen(
        command, env=rig.environment, stderr=subprocess.PIPE, text=True, pass_fds=(write_fd, *pass_fds)
    ) as process:
        os.close(write_fd)
        _, stderr = process.communicate(timeout=120)
    with os.fdopen(read_fd, "rb") as pipe:
        return Judged(process.returncode, stderr, out), pipe.read()


def attacked(rig: Rig, attack: str, status: str, *options: str) -> Judged:
    """The run under attack has this verdict, in the judge's own files, at the path that was given."""
    victim = rig.folder / VICTIM
    victim.write_text("precious")
    judged, digest = judge_with_digest(rig, rig.write(forger(attack)), *options)
    assert judged.result["status"] == status, judged.result["reason"]
    assert judged.result["val_bpb"] is None
    assert judged.exit_code == 3
    assert digest == hashlib.sha256((judged.out / "result.json").read_bytes()).hexdigest().encode() + b"\n"
    assert not judged.out.is_symlink()
    for name in NAMES:
        assert (judged.out / name).is_file() and not (judged.out / name).is_symlink()
    assert (judged.out / "run.log").stat().st_size < 1 << 20
    assert phase_of(judged.out) is not None
    assert victim.read_text() == "precious"
    return judged


@pytest.mark.parametrize("attack", ON_NAMES.values(), ids=ON_NAMES.keys())
def test_what_lies_at_the_judges_names_gives_way(rig: Rig, attack: str) -> None:
    attacked(rig, attack, "no-eval")
    assert rig.survivors() == []


def test_without_namespaces_a_process_that_forges_on_is_dead_before_the_result(rig: Rig) -> None:
    attacked(rig, ON_NAMES["a process left behind that forges on"], "no-eval", "--containment", "subreaper")


@pytest.mark.parametrize("attack", ON_THE_FOLDER.values(), ids=ON_THE_FOLDER.keys())
def test_a_candidate_answers_for_the_folder_it_moved(rig: Rig, attack: str) -> None:
    judged = attacked(rig, attack, "invalid: output")
    assert "moved or removed" in judged.result["reason"]


def test_what_was_put_in_the_folders_place_is_moved_aside_and_not_deleted(rig: Rig) -> None:
    """It may be anything of the user's that the candidate could rename."""
    judged = attacked(rig, ON_THE_FOLDER["moved away with a forged twin in its place"], "invalid: output")
    [aside] = rig.folder.glob(f".{judged.out.name}.*/result.json")
    assert json.loads(aside.read_text())["val_bpb"] == 0.1


@pytest.mark.parametrize(
    "attack", ["a forged file", "a folder at each name", "a FIFO at each name and at fixed temporary names"]
)
def test_an_attack_on_names_does_not_change_a_score(rig: Rig, attack: str) -> None:
    judged, _ = judge_with_digest(rig, rig.write(forger(ON_NAMES[attack], BIGRAM.read_text())))
    assert (judged.exit_code, judged.result["status"]) == (0, "ok")
    assert judged.result["val_bpb"] > 1.0


def test_moving_the_folder_costs_a_score(rig: Rig) -> None:
    attack = ON_THE_FOLDER["moved away"]
    judged, _ = judge_with_digest(rig, rig.write(forger(attack, BIGRAM.read_text())))
    assert (judged.exit_code, judged.result["status"], judged.result["val_bpb"]) == (3, "invalid: output", None)


def test_a_log_that_lost_its_name_is_whole_at_the_end(rig: Rig) -> None:
    source = forger(ON_THE_FOLDER["removed"], "print('the last word')")
    assert "the last word" in rig.judge(rig.write("print('the first word', flush=True)\n" + source)).log


@pytest.mark.parametrize("train", [BIGRAM, None], ids=["scored", "failed"])
def test_the_digest_is_that_of_the_result_and_one_line(rig: Rig, train: Path | None) -> None:
    judged, digest = judge_with_digest(rig, train or rig.write("raise SystemExit(1)"))
    assert digest == hashlib.sha256((judged.out / "result.json").read_bytes()).hexdigest().encode() + b"\n"


def test_the_candidate_does_not_inherit_the_pipe(rig: Rig) -> None:
    shown = "import os\nos.execvp('ls', ['ls', '-l', '/proc/self/fd'])\n"
    read_fd, write_fd = os.pipe()
    command, out = rig.command(rig.write(shown), "--digest-fd", str(write_fd))
    subprocess.run(command, env=rig.environment, capture_output=True, pass_fds=(write_fd,))
    ours = os.readlink(f"/proc/self/fd/{write_fd}")
    os.close(read_fd)
    os.close(write_fd)
    log = (out / "run.log").read_text()
    assert "pipe:" in log  # its standard output
    assert ours not in log


def judge_with_nonce(rig: Rig, train: Path) -> tuple[Judged, bytes]:
    read_fd, write_fd = os.pipe()
    os.write(write_fd, NONCE.encode())
    os.close(write_fd)
    try:
        return judge_with_digest(rig, train, "--nonce-fd", str(read_fd), pass_fds=(read_fd,))
    finally:
        os.close(read_fd)


@pytest.mark.parametrize("train", [BIGRAM, None], ids=["scored", "failed"])
def test_a_nonce_is_said_back_with_the_digest_and_in_the_result(rig: Rig, train: Path | None) -> None:
    judged, said = judge_with_nonce(rig, train or rig.write("raise SystemExit(1)"))
    digest = hashlib.sha256((judged.out / "result.json").read_bytes()).hexdigest()
    assert (said, judged.result["nonce"]) == (f"{digest} {NONCE}\n".encode(), NONCE)


def test_the_candidate_inherits_no_nonce_and_finds_none(rig: Rig) -> None:
    shown = """
import os, pathlib
for fd in os.listdir("/proc/self/fd"):
    try: print(fd, os.readlink(f"/proc/self/fd/{fd}"), flush=True)
    except OSError: pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("cmdline", "environ"):
        try: print(pid, pathlib.Path("/proc", pid, name).read_bytes(), flush=True)
        except OSError: pass
raise SystemExit(1)
"""
    judged, _ = judge_with_nonce(rig, rig.write(shown))
    assert NONCE not in judged.log


@pytest.mark.parametrize("given", [b"", b"no hex digits at all", b"beef", b"be" * 100])
def test_a_pipe_without_a_nonce_is_wrong_usage(rig: Rig, capsys: pytest.CaptureFixture[str], given: bytes) -> None:
    read_fd, write_fd = os.pipe()
    os.write(write_fd, given)
    command, out = rig.command(BIGRAM, "--nonce-fd", str(read_fd))
    with pytest.raises(SystemExit) as ended:
        parse_arguments(command[3:])
    os.close(write_fd)
    assert ended.value.code == 2 and "no pipe that holds" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    ("fd", "message"), [("99", "not open"), ("null", "not the write end"), ("x", "invalid"), ("-1", "not open")]
)
def test_a_descriptor_that_is_no_pipe_to_write_to_is_wrong_usage(
    rig: Rig, capsys: pytest.CaptureFixture[str], fd: str, message: str
) -> None:
    with open(os.devnull) as null:
        command, out = rig.command(BIGRAM, f"--digest-fd={fd.replace('null', str(null.fileno()))}")
        with pytest.raises(SystemExit) as ended:
            parse_arguments(command[3:])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_at_the_results_name_before_the_run_is_not_removed(rig: Rig) -> None:
    command, out = rig.command(BIGRAM)
    (out / "result.json" / "kept").mkdir(parents=True)
    done = subprocess.run(command, env=rig.environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "infra: output" in done.stderr and "result.json: Is a directory" in done.stderr
    assert (out / "result.json" / "kept").is_dir()


def test_a_killed_judges_scratch_goes_with_the_next_run_on_that_folder(rig: Rig) -> None:
    other = rig.folder / ".out9.scratch-abcdefgh"
    other.mkdir()
    with rig.judging(rig.write("import time\ntime.sleep(3600)")) as (process, out):
        wait_until(lambda: phase_of(out) == "import", "the candidate to run")
        [left] = rig.folder.glob(f".{out.name}.scratch-*")
        assert left.stat().st_mode & 0o777 == 0o700
        process.kill()
        process.wait()
    wait_until(lambda: not rig.survivors(), "the whole run to be dead")
    assert left.exists()
    command, _ = rig.command(BIGRAM, "--out", str(out))
    subprocess.run(command, env=rig.environment, check=True, capture_output=True)
    assert not left.exists() and other.exists()
    assert sorted(path.name for path in out.iterdir()) == NAMES


def test_what_was_the_labs_fault_stays_the_labs() -> None:
    assert verdict_with_output(JudgeVerdict("infra: lock", "held"), "moved") == JudgeVerdict("infra: lock", "held")
    assert verdict_with_output(JudgeVerdict("ok"), "moved") == JudgeVerdict("invalid: output", "moved")
    assert verdict_with_output(JudgeVerdict("crash", "why"), "") == JudgeVerdict("crash", "why")


def test_only_the_owners_rights_are_given_back(rig: Rig) -> None:
    """A folder above that is closed to others during the run stays closed."""
    rig.folder.chmod(0o755)
    attacked(rig, "OUT.parent.chmod(0o600)", "no-eval")
    assert rig.folder.stat().st_mode & 0o777 == 0o700
