"""Several ideas from one session of an agent: each is one, each refusal names its place, and nothing else slips in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.domain.search import Answer, NoIdea, ProposalFailure, Proposed, SeveralIdeas
from scheduler.proposers.agent import make, prompt_for
from tests.scheduler.git_kit import git, make_repository, no_configuration  # noqa: F401
from tests.scheduler.proposer_kit import (
    AGENT_COMMAND,
    AGENT_SOURCE,
    collect,
    make_agent_repository,
    make_ask,
    make_setup,
)

SOURCE = AGENT_SOURCE
PATCH = """--- a/train.py
+++ b/train.py
@@ -1,9 +1,9 @@
 import os

-DEPTH = 4  # layers
+DEPTH = 5  # layers
 MATRIX_LR = 0.04
"""
FOLDER = "mkdir -p candidates/{0} && sed 's/DEPTH = 4/DEPTH = 1{0}/' train.py > candidates/{0}/train.py"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_agent_repository(tmp_path / "repo")


def answer(root: Path, command: str, ideas: int = 4, source: bytes = SOURCE) -> Answer:
    proposer = make(make_setup(root, {"command": command, "retries": "0", "ideas": str(ideas)}))
    assert proposer.ideas_per_ask == ideas  # type: ignore[attr-defined]
    ask = make_ask(source, commit=git(root, "rev-parse", "HEAD").strip())
    proposer.ask(replace(ask, ideas=ideas))
    [found] = collect(proposer)
    proposer.close()
    return found


def several(root: Path, command: str, ideas: int = 4) -> list[Proposed | NoIdea]:
    found = answer(root, command, ideas)
    assert isinstance(found, SeveralIdeas), found
    return list(found.answers)


def listed(root: Path, *entries: object) -> str:
    """A command that leaves these in IDEA.json."""
    path = root.parent / "ideas.json"
    path.write_text(json.dumps({"ideas": entries}))
    return f"cp {path} IDEA.json"


def test_each_folder_is_an_idea_in_the_order_of_their_numbers(root: Path) -> None:
    note = 'echo \'{{"title": "the {0}th", "parents": ["c0002"]}}\' > candidates/{0}/IDEA.json'
    command = "; ".join(f"{FOLDER.format(n)}; {note.format(n)}" for n in (10, 2, 1))
    found = several(root, command)
    assert [(one.title, one.parents) for one in found if isinstance(one, Proposed)] == [
        *(("the 1th", ("c0002",)), ("the 2th", ("c0002",)), ("the 10th", ("c0002",)))
    ]
    assert [one.train_py for one in found if isinstance(one, Proposed)] == [
        SOURCE.replace(b"DEPTH = 4", b"DEPTH = 1%d" % n) for n in (1, 2, 10)
    ]


def test_entries_bring_patches_constants_and_whole_files(root: Path) -> None:
    whole = SOURCE.decode().replace("16", "32")
    command = listed(
        root,
        {"patch": PATCH, "title": "deeper"},
        {"constants": {"MATRIX_LR": 0.06}, "theme": "rates"},
        {"train_py": "\ufeff" + whole.replace("\n", "\r\n")},
    )
    patched, named, full = several(root, command)
    assert isinstance(patched, Proposed) and isinstance(named, Proposed) and isinstance(full, Proposed)
    assert (patched.train_py, patched.title) == (SOURCE.replace(b"DEPTH = 4", b"DEPTH = 5"), "deeper")
    assert (named.train_py, named.theme) == (SOURCE.replace(b"0.04", b"0.06"), "rates")
    assert (full.train_py, full.title) == (whole.encode(), "ASPECT_RATIO 16 → 32")


@pytest.mark.parametrize(
    ("entry", "trouble", "said"),
    [
        ({"patch": PATCH.replace("DEPTH = 4", "DEPTH = 3")}, ProposalFailure.REFUSED, "does not apply"),
        ({"patch": "nothing like a patch"}, ProposalFailure.REFUSED, "does not apply"),
        ({"patch": PATCH.replace("train.py", "harness.py")}, ProposalFailure.REFUSED, "also changes harness.py"),
        ({"patch": f"{PATCH}diff --git a/é.py b/é.py\n{PATCH.replace('train', 'é')}"}, ProposalFailure.REFUSED, "é.py"),
        ({"patch": PATCH.replace("b/train.py", "b/../train.py")}, ProposalFailure.REFUSED, "train.py"),
        ({"patch": "rename from train.py\nrename to b.py\n"}, ProposalFailure.REFUSED, "does not apply"),
        (
            {"patch": "diff --git a/train.py b/b.py\nsimilarity index 100%\nrename from train.py\nrename to b.py\n"},
            ProposalFailure.REFUSED,
            "also changes b.py",
        ),
        ({"constants": {"NO_SUCH": 1}}, ProposalFailure.REFUSED, "no constant NO_SUCH"),
        ({"patch": PATCH, "train_py": "x"}, ProposalFailure.MALFORMED, "one of"),
        ({}, ProposalFailure.MALFORMED, "one of"),
        ("deeper", ProposalFailure.MALFORMED, "no object"),
    ],
)
def test_a_bad_entry_is_refused_alone_and_named(root: Path, entry: object, trouble: ProposalFailure, said: str) -> None:
    good = {"constants": {"DEPTH": 3}}
    first, bad, last = several(root, listed(root, good, entry, {"constants": {"DEPTH": 2}}))
    assert isinstance(first, Proposed) and isinstance(last, Proposed)
    assert isinstance(bad, NoIdea) and bad.trouble is trouble
    assert bad.reason.startswith("IDEA.json, idea 2: ") and said in bad.reason


@pytest.mark.parametrize(
    "patch",
    [
        PATCH.replace("\n", "\r\n"),
        "\ufeff" + PATCH,
        PATCH.replace("a/train", "train").replace("b/train", "train"),
        PATCH.replace("a/train", "i/train").replace("b/train", "w/train"),
        "diff --git a/train.py b/train.py\nindex 1..2 100644\n" + PATCH,
        PATCH.replace("@@ -1,9 +1,9 @@", "@@ -1,4 +1,4 @@ whatever").rstrip("\n"),
    ],
)
def test_a_patch_is_taken_as_git_prints_it_anywhere(root: Path, patch: str) -> None:
    """With the line ends of an editor, or as diff.noprefix and diff.mnemonicPrefix have it."""
    (found,) = several(root, listed(root, {"patch": patch}))
    assert isinstance(found, Proposed), found
    assert found.train_py == SOURCE.replace(b"DEPTH = 4", b"DEPTH = 5")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("echo x > candidates/2/judge.py", "it also changes judge.py"),
        ("rm candidates/2/train.py; ln -s /etc/passwd candidates/2/train.py", "no regular file"),
        ("cp train.py candidates/2/train.py", "as it was"),
        ("rm candidates/2/train.py", "holds no train.py"),
        ("git init -q candidates/2", "it also changes .git"),
        ("cp train.py candidates/2/train.py; echo '{,' > candidates/2/IDEA.json", "IDEA.json was left unread"),
    ],
)
def test_a_bad_folder_is_refused_alone_and_named(root: Path, edit: str, said: str) -> None:
    command = "; ".join([*(FOLDER.format(n) for n in (1, 2, 3)), edit])
    first, bad, last = several(root, command)
    assert isinstance(first, Proposed) and isinstance(last, Proposed)
    assert isinstance(bad, NoIdea) and bad.reason.startswith("candidates/2: ") and said in bad.reason, bad


def test_links_are_no_folders(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "train.py").write_text("SECRET = 1\n")
    found = several(root, f"{FOLDER.format(1)}; ln -s {other} candidates/2")
    assert len(found) == 1 and isinstance(found[0], Proposed)
    breach = answer(root, f"ln -s {tmp_path} candidates; sed -i s/16/32/ train.py")
    assert isinstance(breach, NoIdea) and "also changes candidates" in breach.reason


def test_a_change_of_train_py_itself_is_one_more_idea(root: Path) -> None:
    found = several(root, f"{FOLDER.format(1)}; sed -i s/16/32/ train.py")
    assert [one.title for one in found if isinstance(one, Proposed)] == ["ASPECT_RATIO 16 → 32", "DEPTH 4 → 11"]


def test_nothing_left_is_one_answer(root: Path) -> None:
    (only,) = several(root, "true")
    assert isinstance(only, NoIdea) and only.trouble is ProposalFailure.UNCHANGED


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ("""'{"ideas": [{"constants": {"DEPTH": 3}},]}'""", "IDEA.json was left unread: it is not a JSON object"),
        ("""'{"ideas": {"1": {"constants": {"DEPTH": 3}}}}'""", '"ideas" is no list'),
    ],
)
def test_a_list_of_ideas_that_cannot_be_read_is_the_reason(root: Path, left: str, said: str) -> None:
    (only,) = several(root, f"echo {left} > IDEA.json")
    assert isinstance(only, NoIdea) and said in only.reason


def test_more_than_wanted_are_cut_and_warned_of(root: Path) -> None:
    command = "; ".join(FOLDER.format(n) for n in (1, 2, 3, 4, 5))
    *_, last = found = several(root, command, ideas=3)
    assert len(found) == 3 and isinstance(last, Proposed)
    assert last.warning == "it left 5 ideas; wanted: 3"


def test_a_change_outside_is_a_breach_of_the_whole_session(root: Path) -> None:
    found = answer(root, f"{FOLDER.format(1)}; echo x > harness/judge.py")
    assert isinstance(found, NoIdea) and "harness/judge.py" in found.reason
    single = answer(root, f"{FOLDER.format(1)}; sed -i s/16/32/ train.py", ideas=1)
    assert isinstance(single, Proposed) and b"DEPTH = 4 " in single.train_py
    assert single.warning == "it left 2 ideas; wanted: 1"
    folder = answer(root, FOLDER.format(1), ideas=1)
    assert isinstance(folder, Proposed) and b"DEPTH = 11" in folder.train_py, (
        "the last ask may want fewer than the rest"
    )


def test_the_prompt_and_the_environment_say_how_many(root: Path) -> None:
    prompt = prompt_for(5, None)
    assert "have 5 well-founded ideas" in prompt and "candidates/1 to candidates/5" in prompt and "manual" not in prompt
    (found,) = several(root, 'echo "$ARSCHED_IDEAS wanted"; echo "$ARSCHED_PROMPT" | head -c 20', ideas=5)
    assert found.log.startswith("5 wanted\nYou improve train.py")


def test_the_scripted_agent_brings_as_many_as_are_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = (Path(__file__).parents[2] / "train.py").read_bytes()
    (root / "train.py").write_bytes(train)
    git(root, "commit", "--quiet", "--all", "--message", "the real one")
    monkeypatch.setenv("SCRIPTED_LOT", "several")
    found = answer(root, AGENT_COMMAND, ideas=6, source=train)
    assert isinstance(found, SeveralIdeas) and len(found.answers) == 6
    assert len({one.train_py for one in found.answers if isinstance(one, Proposed)}) == 6
