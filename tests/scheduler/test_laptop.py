"""`arsched --cluster` as typed on a laptop, from the first command to a report; the head is another home here.

ssh is a program that runs the head's side here; one test goes through a real sshd.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import pwd
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.scheduler.git_kit import no_configuration  # noqa: F401
from tests.scheduler.head_kit import ADDRESS, Bench, program
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(900)
SSHD = "/usr/sbin/sshd"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.end()
    wait_until(lambda: not made.rig.survivors(), f"the last process to end: {made.rig.survivors()}", timeout_s=120.0)


def test_the_page_from_init_to_the_promoted_program(bench: Bench) -> None:
    out, err = bench.arsched("init", "--tag", "nov28", "--contract", "cpu")
    assert "c0001  baseline" in out and "a repository for this one on ubuntu@10.99.0.11" in err
    assert "--cluster cluster.yaml new NAME" in err, "hints are typed for the laptop"
    assert bench.root.name.startswith("my-lab-") and bench.root.parent == bench.home / "labs"
    good = bench.candidate("better", DEPTH=2)
    out, err = bench.arsched("submit", "candidates/better.py")
    assert "queued    c0002 better" in err and "c0002" in out
    assert "promoted" in out, out
    assert f"{bench.git('show', 'autoresearch/nov28:train.py')}\n" == good.read_text()
    assert not (bench.laptop / ".git" / "arsched").exists(), "no lab was made here"
    again, err = bench.arsched("submit", "candidates/better.py", "--json")
    (value,) = json.loads(again)["candidates"]
    assert "known     c0002 better" in err and value["candidate"] == "c0002"
    kept = bench.git("for-each-ref", f"refs/cluster/ubuntu@{ADDRESS}/candidates/").splitlines()
    assert len(kept) == 2, "nothing was made twice"


def test_dry_runs_leave_nothing_at_the_head(bench: Bench) -> None:
    before = bench.git("for-each-ref")
    assert "would create lab t on branch autoresearch/t" in bench.arsched("init", "--tag", "t", "--dry-run")[0]
    out, err = bench.arsched("search", "--runs", "3", "--proposer", "tpe", "--contract", "cpu", "--dry-run")
    assert "would create lab" in out and "a repository" not in err
    assert not list((bench.home / "labs").iterdir()) and bench.git("for-each-ref") == before


@pytest.mark.slow
def test_every_verb_answers_and_its_exit_code_comes_back(bench: Bench) -> None:
    bench.arsched("init", "--tag", "t", "--contract", "cpu")
    out, _ = bench.arsched("new", "wider")
    assert out == "candidates/wider\n"
    out, err = bench.arsched("submit", "candidates/wider", "no/such.py", code=3)
    assert "refused   candidates/wider: it is the same program as c0001" in err and "refused   no/such.py" in err
    value = json.loads(bench.arsched("submit", "candidates/wider", "no/such.py", "--json", code=3)[0])
    assert [row["path"] for row in value["refused"]] == ["candidates/wider", "no/such.py"]
    assert "no such file, folder or candidate" in bench.arsched("submit", "c9999", code=2)[1]
    assert "c0001" in bench.arsched("leaderboard")[0] and "baseline" in bench.arsched("status")[0]
    assert json.loads(bench.arsched("show", "c0001", "--json")[0])
    assert bench.arsched("logs", "last", "--tail", "1")[0].count("\n") <= 1
    bench.arsched("pause")
    bench.candidate("x", MATRIX_LR=0.05)
    bench.arsched("submit", "candidates/x.py", code=4)
    bench.arsched("wait", code=4)
    bench.arsched("resume")
    assert "would be queued" in bench.arsched("submit", "candidates/x.py", "--dry-run", "--again")[1]
    report = json.loads(bench.arsched("report", "--json")[0])
    assert str(bench.laptop) in json.dumps(report) and (bench.laptop / "report" / "index.html").stat().st_size > 1000
    bench.arsched("report", "--out", "../elsewhere")
    assert (bench.folder / "elsewhere" / "results.tsv").read_text().startswith("commit")
    assert bench.git("status", "--porcelain") == ""


@pytest.mark.slow
def test_a_search_goes_on_when_the_laptop_closes_and_is_heard_to_its_end(bench: Bench) -> None:
    bench.arsched("init", "--tag", "t", "--contract", "cpu")
    words = ("search", "--runs", "3", "--proposer", "tpe", "--claim-runs", "0")
    closed = bench.start(*words)
    assert closed.stderr is not None
    assert any("begins" in line for line in closed.stderr)
    os.killpg(closed.pid, signal.SIGKILL)
    closed.communicate()
    out, err = bench.arsched(*words)
    assert "note: it" in err and "search 1 ended" in out, err
    assert "search      1, ended" in bench.arsched("status")[0], "there was one search"


@pytest.mark.slow
def test_a_lost_link_and_ctrl_c_end_nothing_and_stop_does(bench: Bench) -> None:
    bench.arsched("init", "--tag", "t", "--contract", "cpu")
    cut = bench.start("search", "--hours", "1", "--proposer", "tpe")
    assert cut.stderr is not None
    assert any("begins" in line for line in cut.stderr)
    (ssh,) = Path(f"/proc/{cut.pid}/task/{cut.pid}/children").read_text().split()
    os.kill(int(ssh), signal.SIGKILL)
    assert "what was begun there goes on" in cut.communicate(timeout=60)[1] and cut.returncode == 1
    left = bench.start("search", "--hours", "1", "--proposer", "tpe")
    assert left.stderr is not None
    assert any("it is at work already" in line for line in left.stderr)
    os.killpg(left.pid, signal.SIGINT)
    _, err = left.communicate(timeout=60)
    assert left.returncode == 130 and "it goes on at ubuntu@10.99.0.11" in err and "Traceback" not in err
    out, _ = bench.arsched("stop")
    assert "has ended" in out


def test_a_head_that_cannot_be_reached_is_one_sentence(bench: Bench) -> None:
    (bench.state / "fail").write_text(f"ssh: connect to host {ADDRESS} port 22: Connection refused\n")
    out, err = bench.arsched("status", code=1)
    assert not out and "refuses ssh" in err and "head_ip in cluster.yaml" in err
    assert json.loads(bench.arsched("status", "--json", code=1)[0])["error"].startswith(ADDRESS)
    (bench.state / "fail").unlink()
    (bench.programs / "python").unlink()
    assert "ray up cluster.yaml puts it there" in bench.arsched("status", code=1)[1]
    bench.write_cluster(head_ip="192.0.2.10")
    assert "the example's address" in bench.arsched("status", code=2)[1]
    assert len(bench.calls()) == 3


def test_noise_of_login_shells_and_odd_names_change_nothing(bench: Bench) -> None:
    noisy = f'#!/bin/sh\necho Welcome; echo motd >&2\nexec {sys.executable} "$@"\n'
    program(bench.programs / "python", noisy)
    bench.head_runs('printf "%s|" "$@"; pwd; exit 4')
    out, _ = bench.arsched("search", "--runs", "1", "--command", "a 'b' $(touch evil) \n;x", code=4)
    assert "--command=a 'b' $(touch evil) \n;x|" in out and str(bench.root) in out
    assert not list(bench.folder.rglob("evil"))


def shows_a_screen_until_ctrl_c(bench: Bench, *words: str, shows: bytes, leaves: bytes) -> bytes:
    """A verb has the laptop's terminal: its size, its colours, its keys. What it drew until then."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 71, 0, 0))
    line = [sys.executable, "-m", "scheduler", "--cluster", "cluster.yaml", *words]
    environ = bench.environ | {"TERM": "xterm-256color"}
    process = subprocess.Popen(
        line, cwd=bench.laptop, env=environ, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while shows not in shown:
        shown += os.read(ours, 65536)
    drawn = shown
    os.write(ours, b"\x03")
    while process.poll() is None:
        with suppress(OSError):  # the terminal is gone with its last process
            shown += os.read(ours, 65536)
    os.close(ours)
    assert process.returncode in (0, 130) and leaves in shown, shown[-500:]
    return drawn


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists(SSHD) or not shutil.which("ssh-keygen"), reason="needs OpenSSH's sshd")
def test_through_a_real_sshd(bench: Bench) -> None:
    """As this user on this machine, with a key, a host key and a home of the test's own."""
    folder, user = bench.folder / "sshd", pwd.getpwuid(os.geteuid()).pw_name
    folder.mkdir(mode=0o700)
    for name in ("host_key", "user_key", "other_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "user_key.pub", folder / "authorized")
    port = 20000 + os.getpid() % 20000
    environ = f"HOME={json.dumps(str(bench.home))} PYTHONPATH={bench.environ['PYTHONPATH']}"
    environ += f" ARSCHED_CACHE={bench.environ['ARSCHED_CACHE']} ARSCHED_SPOOL={bench.folder / 'spool'}"
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/authorized\nPasswordAuthentication no\nSetEnv {environ}\n"
    )
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)
    real = f"-p {port} -o UserKnownHostsFile={folder}/known"
    program(bench.folder / "bin" / "ssh", f'#!/bin/sh\nexec {shutil.which("ssh")} {real} "$@"\n')
    bench.key = folder / "user_key"
    config = bench.write_cluster(head_ip="127.0.0.1")
    config.write_text(config.read_text().replace("ssh_user: ubuntu", f"ssh_user: {user}"))
    log = (folder / "log").open("w")
    sshd = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "config"], stdout=log, stderr=log)
    try:
        wait_until(lambda: "listening" in (folder / "log").read_text())
        out, err = bench.arsched("init", "--tag", "t", "--contract", "cpu")
        assert "c0001  baseline" in out, err
        bench.candidate("better", DEPTH=2)
        assert "c0002" in bench.arsched("submit", "candidates/better.py")[0]
        assert bench.git("rev-parse", "autoresearch/t")
        shown = shows_a_screen_until_ctrl_c(bench, "watch", shows=b"better", leaves=b"what runs goes on")
        rows = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode(errors="replace").splitlines()
        assert max(map(len, rows)) <= 71
        search = ("search", "--hours", "1", "--proposer", "tpe")
        shown = shows_a_screen_until_ctrl_c(bench, *search, shows=b" queued", leaves=b"left; it goes on at")
        assert b"\x1b[?25l" in shown, "the live table, redrawn"
        assert "has ended" in bench.arsched("stop")[0]
        bench.key = folder / "other_key"
        config = bench.write_cluster(head_ip="127.0.0.1")
        config.write_text(config.read_text().replace("ssh_user: ubuntu", f"ssh_user: {user}"))
        assert "refuses the key" in bench.arsched("status", code=1)[1]
        known = (folder / "known").read_text().split()
        other = (folder / "other_key.pub").read_text().split()
        (folder / "known").write_text(f"{known[0]} {other[0]} {other[1]}\n")
        assert "another host key" in bench.arsched("status", code=1)[1]
    finally:
        sshd.terminate()
        sshd.wait()
        log.close()
