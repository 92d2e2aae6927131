"""The agent proposer: what agents do, good and bad, in real worktrees, and that nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.domain.errors import ProposerProblem, UsageProblem
from scheduler.domain.search import Ask, NoIdea, ProposalFailure, Proposed, Proposer
from scheduler.proposers.agent import make
from tests.scheduler.git_kit import git, make_repository, no_configuration  # noqa: F401
from tests.scheduler.proposer_kit import (
    AGENT_COMMAND,
    AGENT_SOURCE,
    MARK,
    collect,
    make_agent_repository,
    make_ask,
    make_setup,
    marked,
)
from tests.waiting import wait_until

SOURCE = AGENT_SOURCE
SCHEDULER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from scheduler.proposers.agent import make
from tests.scheduler.proposer_kit import AGENT_SOURCE, make_agent_repository, make_ask, make_setup
proposer = make(make_setup(Path(sys.argv[2]), {"command": sys.argv[3]}))
proposer.ask(make_ask(b"DEPTH = 4\\n", commit=sys.argv[4]))
time.sleep(600)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_agent_repository(tmp_path / "repo")


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    value = uuid.uuid4().hex
    monkeypatch.setenv(MARK, value)
    yield value
    for pid in marked(value):
        os.kill(pid, signal.SIGKILL)


def ask_of(root: Path, ask_id: str = "p0001", seed: int = 1) -> Ask:
    return make_ask(SOURCE, ask_id, commit=git(root, "rev-parse", "HEAD").strip(), seed=seed)


def worktrees(root: Path) -> int:
    return git(root, "worktree", "list").count("\n") - 1


def left(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".arsched" / "proposals" / "agent").iterdir())


def answer(root: Path, command: str, **options: str) -> Proposed | NoIdea:
    proposer = make(make_setup(root, {"command": command, "retries": "0", **options}))
    proposer.ask(ask_of(root))
    [found] = collect(proposer)
    proposer.close()
    return found


def test_an_edit_is_an_idea_with_its_description(root: Path) -> None:
    idea = (
        '{"title": " Fewer layers ", "hypothesis": "cheaper steps", "theme": "depth", "parents": ["c0002", 3, "c0004"]}'
    )
    command = (
        f"sed -i 's/DEPTH = 4/DEPTH = 2/' train.py; echo '{idea}' > IDEA.json; echo working; touch x.pyc; rm x.pyc"
    )
    found = answer(root, command)
    assert found == Proposed(
        "p0001", SOURCE.replace(b"DEPTH = 4", b"DEPTH = 2"), "Fewer layers", "cheaper steps", "depth",
        ("c0002", "c0004"), "working\n",
    )  # fmt: skip
    assert (worktrees(root), left(root)) == (0, [])
    assert git(root, "status", "--porcelain") == ""


def test_the_agent_is_given_what_it_needs(root: Path) -> None:
    given = "$ARSCHED_ASK $ARSCHED_ROUND $ARSCHED_SEED $ARSCHED_BASE $ARSCHED_TRY"
    command = f'echo "{given}"; head -1 "$ARSCHED_NOTES"; test -n "$ARSCHED_PROMPT"; cat; git status --short'
    assert answer(root, command).log == "p0001 1 1 c0001 1\n# Notes\n?? NOTES.md\n"


@pytest.mark.parametrize(
    ("edit", "title"),
    [
        ("sed -i 's/0.04/0.06/; s/DEPTH = 4/DEPTH = 3/' train.py", "DEPTH 4 → 3, MATRIX_LR 0.04 → 0.06"),
        ("echo 'import sys' >> train.py", "import sys"),
        ("sed -i /import/d train.py", "without import os"),
        ("echo 'X = 1' >> train.py; git commit -qam 'a committed idea'", "a committed idea"),
        ("sed -i s/16/32/ train.py; echo '[1' > IDEA.json", "ASPECT_RATIO 16 → 32"),
        ("sed -i s/16/32/ train.py; ln -s /etc/passwd IDEA.json", "ASPECT_RATIO 16 → 32"),
        ("sed -i s/16/32/ train.py; mkfifo IDEA.json", "ASPECT_RATIO 16 → 32"),
        ("sed -i s/16/32/ train.py; git add -A; git commit -qm all", "all"),
        ("sed -i s/16/32/ train.py; mkdir -p .claude; touch .claude/settings.json", "ASPECT_RATIO 16 → 32"),
    ],
)
def test_a_title_comes_from_somewhere(root: Path, edit: str, title: str) -> None:
    found = answer(root, edit)
    assert isinstance(found, Proposed), found
    assert found.title == title


@pytest.mark.parametrize(
    ("command", "trouble", "said"),
    [
        ("true", ProposalFailure.UNCHANGED, "as it was"),
        ("echo why >&2; exit 3", ProposalFailure.CRASHED, "exit code 3: why"),
        ("kill -11 $$", ProposalFailure.CRASHED, "signal 11"),
        ("sh -c no-such-agent", ProposalFailure.UNUSABLE, "127"),
        ("./harness", ProposalFailure.UNUSABLE, "126"),
        ("echo x >> train.py; echo y > harness/judge.py", ProposalFailure.REFUSED, "harness/judge.py"),
        ("echo x >> train.py; echo y > extra.py", ProposalFailure.REFUSED, "extra.py"),
        ("echo y > harness/judge.py; git commit -qam 'x'", ProposalFailure.REFUSED, "harness/judge.py"),
        ("rm train.py", ProposalFailure.REFUSED, "train.py is gone"),
        ("rm train.py; ln -s /etc/passwd train.py", ProposalFailure.REFUSED, "regular file"),
        ("rm train.py; mkfifo train.py", ProposalFailure.REFUSED, "regular file"),
        ("rm .git; echo x >> train.py", ProposalFailure.REFUSED, "no worktree"),
        ("echo x >> train.py; printf 'a' > \"$(printf 'b\\033[31m\\n')\"", ProposalFailure.REFUSED, "also changes"),
    ],
)
def test_what_is_no_idea_says_why(root: Path, command: str, trouble: ProposalFailure, said: str) -> None:
    found = answer(root, command)
    assert isinstance(found, NoIdea)
    assert (found.trouble, said in found.reason) == (trouble, True), found
    assert found.reason.isprintable()
    assert (worktrees(root), left(root)) == (0, [])


def test_one_that_hangs_is_killed_and_answers_for_it(root: Path, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_LOT", "hang")
    found = answer(root, AGENT_COMMAND, limit_s="0.5")
    assert isinstance(found, NoIdea)
    assert (found.trouble, found.reason) == (
        ProposalFailure.TIMED_OUT,
        "it was still at work after 0.5 s: notes: 3 lines",
    )
    assert marked(mark) == []


def test_a_crash_is_tried_again_and_a_refusal_is_not(root: Path) -> None:
    second = 'test "$ARSCHED_TRY" = 2 && sed -i s/16/32/ train.py || { echo x > extra.py; exit 1; }'
    assert isinstance(answer(root, second, retries="1"), Proposed)
    refused = answer(root, "echo x > extra.py", retries="5")
    assert isinstance(refused, NoIdea) and "try" not in refused.reason
    crashed = answer(root, "exit 4", retries="2")
    assert isinstance(crashed, NoIdea) and crashed.reason == "it left with exit code 4 (try 3)"


def test_asks_work_side_by_side_and_answer_for_themselves(root: Path) -> None:
    there = root.parent / "there"
    meet = f"touch {there}.$ARSCHED_SEED; until [ -e {there}.5 -a -e {there}.6 ]; do sleep 0.01; done"
    command = f'sed -i "s/0.04/0.0$ARSCHED_SEED/" train.py; {meet}'
    proposer = make(make_setup(root, {"command": command}))
    assert proposer.capacity == 2
    for number in (5, 6):
        proposer.ask(ask_of(root, f"p000{number}", seed=number))
    found = {one.ask_id: one for one in collect(proposer, 2)}
    assert {key: one.title for key, one in found.items() if isinstance(one, Proposed)} == {
        "p0005": "MATRIX_LR 0.04 → 0.05",
        "p0006": "MATRIX_LR 0.04 → 0.06",
    }
    assert proposer.poll() == ()
    assert worktrees(root) == 0


def test_closing_kills_drops_and_says_nothing_more(
    root: Path, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposer = start_hanging(root, tmp_path, monkeypatch)
    assert worktrees(root) == 1
    proposer.close()
    assert marked(mark) == []
    assert (worktrees(root), left(root), proposer.poll()) == (0, [], ())


def start_hanging(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proposer:
    monkeypatch.setenv("SCRIPTED_LOT", "hang")
    monkeypatch.setenv("SCRIPTED_READY", str(tmp_path / "ready"))
    proposer = make(make_setup(root, {"command": AGENT_COMMAND}))
    proposer.ask(ask_of(root))
    wait_until((tmp_path / "ready").exists, "the agent")
    return proposer


def test_what_a_killed_scheduler_left_is_swept(
    root: Path, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_LOT", "hang")
    monkeypatch.setenv("SCRIPTED_READY", str(tmp_path / "ready"))
    head = git(root, "rev-parse", "HEAD").strip()
    here = str(Path(__file__).parents[2])
    scheduler = subprocess.Popen([sys.executable, "-c", SCHEDULER, here, str(root), AGENT_COMMAND, head])
    wait_until((tmp_path / "ready").exists, "the agent")
    scheduler.kill()
    scheduler.wait()
    wait_until(lambda: marked(mark) == [], "the end of everything")
    assert (worktrees(root), left(root)) == (1, ["p0001", "p0001.log"])
    make(make_setup(root, {"command": "true"})).close()
    assert worktrees(root) == 1, "a dry run changes nothing"
    assert isinstance(answer(root, "true"), NoIdea)
    assert (worktrees(root), left(root)) == (0, [])


def test_failed_worktrees_are_kept_on_request_and_survive_the_sweep(root: Path) -> None:
    for _ in range(2):
        assert isinstance(answer(root, "echo x > extra.py; exit 2", keep="1"), NoIdea)
    assert left(root) == ["p0001", "p0001-2", "p0001-2.kept", "p0001-2.log", "p0001.kept", "p0001.log"]
    assert isinstance(answer(root, "sed -i s/16/32/ train.py", keep="1"), Proposed)
    assert worktrees(root) == 2


def test_a_locked_down_worktree_is_dropped_all_the_same(root: Path) -> None:
    command = "mkdir -p __pycache__/deep && touch __pycache__/deep/x && chmod -R a-rwx __pycache__; git worktree lock ."
    assert isinstance(answer(root, f"{command}; ln -s / harness/all; sed -i s/16/32/ train.py"), NoIdea)
    assert (worktrees(root), left(root)) == (0, [])
    assert Path("/etc/passwd").exists()


@pytest.mark.parametrize("lot", ["good", "tuned", "repeat", "garbage", "broken", "fails", "daemon"])
def test_the_scripted_agent_brings_ideas(root: Path, mark: str, lot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train = (Path(__file__).parents[2] / "train.py").read_bytes()
    (root / "train.py").write_bytes(train)
    git(root, "commit", "--quiet", "--all", "--message", "the real one")
    monkeypatch.setenv("SCRIPTED_LOT", lot)
    proposer = make(make_setup(root, {"command": AGENT_COMMAND}))
    proposer.ask(make_ask(train, commit=git(root, "rev-parse", "HEAD").strip()))
    [found] = collect(proposer)
    assert isinstance(found, Proposed), found
    assert found.title
    warnings = {"daemon": "it left 1 process behind", "garbage": "IDEA.json was left unread"}
    assert found.warning.startswith(warnings[lot]) if lot in warnings else not found.warning
    assert marked(mark) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "wants a command"),
        ({"command": "true", "model": "M"}, "--model and --agent-args with --agent alone"),
        ({"preset": "sh", "arguments": "x"}, "no preset 'sh'"),
        ({"command": "true", "preset": "claude"}, "not both"),
        ({"preset": "unknown"}, "no preset 'unknown'"),
        ({"command": "true", "workers": "none"}, "workers"),
        ({"command": "true", "wrokers": "2"}, "wrokers"),
    ],
)
def test_bad_options_are_refused(root: Path, options: dict[str, str], said: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        make(make_setup(root, options))
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("command", "there"),
    [
        ("no-such-agent --fast", False),
        ("A=1 no-such-agent", False),
        ("/no/such/agent 'x y'", False),
        ("no-such-agent; true", False),
        ("A=1 sh -c 'no-such-agent'", True),
        ("exec true", True),
        ("if true; then true; fi", True),
        ("(cd / && true)", True),
        ("./of-the-worktree", True),
        ('"$AGENT" x', True),
        ("'unbalanced", True),
    ],
)
def test_a_command_that_is_not_there_is_refused_before_anything_begins(root: Path, command: str, there: bool) -> None:
    if there:
        make(make_setup(root, {"command": command})).close()
        return
    with pytest.raises(ProposerProblem, match="cannot be run: there is no program"):
        make(make_setup(root, {"command": command}))
    assert not (root / ".arsched").exists()


def test_an_ask_on_a_commit_that_is_not_there_cannot_begin(root: Path) -> None:
    proposer = make(make_setup(root, {"command": "true"}))
    with pytest.raises(ProposerProblem, match="p0001"):
        proposer.ask(make_ask(SOURCE, commit="0" * 40))
    assert proposer.poll() == ()
