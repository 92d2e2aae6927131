"""docs/laptop.md as typed on `lap`: each of its commands, the lid closed in the middle of a search, and found again.

The hosts and their cluster: tests/cluster/run.py. Without sshd and Ray: tests/scheduler/test_laptop.py.
"""

from __future__ import annotations

import json
import re

from tests.cluster.terminal import NODES, USER, Command, Said, Trial, ask, hosts, on, wait_for

FOLDER = "~/arsched"  # the clone, where cluster.yaml lies
TAG = "lap"
OURS = "source .venv/bin/activate; arsched --cluster cluster.yaml"
SEARCH = "search --runs 4 --contract short.yaml --proposer tpe"
DEAD_LINK_S = 180.0  # ssh gives a link up after a minute; what a loaded machine needs


def arsched(words: str, *, show: int = 40) -> Said:
    return on("lap", f"{OURS} {words}", folder=FOLDER, show=show)


def from_the_laptop(trial: Trial) -> None:
    begin(trial)
    submit(trial)
    look(trial)
    refuse(trial)
    search(trial)
    come_back(trial)


def begin(trial: Trial) -> None:
    said = arsched(f"init --tag {TAG} --contract short.yaml")
    trial.promise(said.code == 0 and "c0001  baseline" in said.text, "init on the head")
    trial.promise(
        f"a repository for this one on rig@{NODES['h1']}" in said.text, "init says where the lab is, in ~/labs"
    )
    trial.promise("arsched --cluster cluster.yaml new NAME" in said.text, "what to type next is for the laptop")
    trial.promise(seen_commits() != "", "the baseline is fetched")


def seen_commits() -> str:
    return ask("lap", f"cd {FOLDER} && git rev-parse -q --verify refs/remotes/autoresearch/{TAG} || true").strip()


def submit(trial: Trial) -> None:
    said = arsched("new wider")
    trial.promise(said.code == 0 and "candidates/wider" in said.text, "new makes a worktree here")
    ask("lap", f"cd {FOLDER} && sed -i 's/^EMBEDDING_LR = .*/EMBEDDING_LR = 0.7/' candidates/wider/train.py"
               " && sed 's/^EMBEDDING_LR = .*/EMBEDDING_LR = 0.8/' candidates/wider/train.py > candidates/file.py"
               " && echo 'def broken(' > candidates/bad.py")  # fmt: skip
    said = arsched("submit candidates/*")
    trial.promise(all(f"queued    c{n:04} {name}" in said.text for n, name in ((2, "file"), (3, "wider"))),
                  "a file and a worktree are candidates")  # fmt: skip
    trial.promise("refused   candidates/bad.py" in said.text and said.code == 3, "what breaks a rule is refused here")
    said = arsched("submit candidates/file.py --json")
    trial.promise(said.code == 0 and '"c0002"' in said.text, "the same candidate again is known")
    said = arsched("promote c0002")
    trial.promise(said.code == 0, "promote")
    there = ask("h1", f"cd ~/labs/arsched-* && git rev-parse autoresearch/{TAG}").strip()
    trial.promise(seen_commits() == there != "", "what was promoted is fetched")
    said = on("lap", f"git log --oneline autoresearch/{TAG}", folder=FOLDER, show=6)
    trial.promise(said.code == 0 and there[:7] in said.text, "git log autoresearch/TAG shows the lab's branch")
    kept = f"git show cluster/{USER}@{NODES['h1']}/candidates/{TAG}/c0002:train.py | diff - candidates/file.py"
    trial.promise(on("lap", kept, folder=FOLDER).code == 0, "every candidate is kept as a ref")


def look(trial: Trial) -> None:
    said = arsched("status")
    trial.promise(said.code == 0 and "c0002" in said.text, "status")
    said = arsched("leaderboard")
    trial.promise(said.code == 0 and "c0003" in said.text, "leaderboard")
    said = arsched("show c0003 --json", show=3)
    trial.promise(said.code == 0 and json.loads(said.text), "show --json prints one value")
    said = arsched("watch", show=24)
    trial.promise(said.code == 0 and TAG in said.text, "watch prints a frame")
    said = arsched("report")
    made = ask("lap", f"ls {FOLDER}/report")
    trial.promise(said.code == 0 and "index.html" in made and "wrote report/index.html" in said.text,
                  "report is here")  # fmt: skip
    changed = ask("lap", f"cd {FOLDER} && git status --porcelain").split("\n")
    trial.promise(all("cluster.yaml" in line or "short.yaml" in line for line in changed if line), "nothing is changed")


def refuse(trial: Trial) -> None:
    said = arsched("submit candidates/file.py --address 10.99.0.12:6379")
    trial.promise(said.code == 2 and "means the cluster of" in said.text, "--address of another is refused")
    said = on("lap", f"export RAY_ADDRESS=10.99.0.12:6379; {OURS} status", folder=FOLDER)
    trial.promise(said.code == 2 and "unset RAY_ADDRESS" in said.text, "RAY_ADDRESS of another is refused")
    ask("lap", f"cd {FOLDER} && echo >> scheduler/cli/status.py")
    said = arsched("leaderboard")
    ask("lap", f"cd {FOLDER} && git checkout -q scheduler")
    trial.promise(said.code == 1 and "other code" in said.text and "ray up cluster.yaml" in said.text,
                  "a head with other code is named, with the way to mend it")  # fmt: skip


def search(trial: Trial) -> None:
    """The lid is closed: first everything here is killed, then the cable is out until ssh gives up."""
    typed = Command("lap", f"{OURS} {SEARCH}", FOLDER)
    wait_for(lambda: re.search("^result ", typed.text(), re.M) or typed.ended, "a result is there")
    hosts("root", "lap", "pkill", "-9", "-f", "scheduler|arsched --cluster", quiet=True)  # lap's own processes
    print("   --- the laptop is closed (all of arsched there is killed)", flush=True)
    wait_for(lambda: typed.ended, "it is over on the laptop", 60)
    typed.show()
    trial.promise("arsched search" in ask("h1", "ps -eo args"), "the search goes on at the head")
    again = Command("lap", f"{OURS} {SEARCH}", FOLDER)
    wait_for(lambda: "at work already" in again.text() or again.ended, "it is found again")
    trial.promise("at work already" in again.text() or "ended meanwhile" in again.text(), "the search is found again")
    if not again.ended:
        hosts("cut", "lap")
        print("   --- the laptop's cable is out", flush=True)
        said_s = wait_for(lambda: again.ended, "the lost link is said", DEAD_LINK_S)
        hosts("mend", "lap")
        trial.promise(said_s is not None and "what was begun there goes on" in again.text(), "a lost link is said")
    again.end()


def come_back(trial: Trial) -> None:
    said = arsched(SEARCH)
    trial.promise(said.code == 0 and re.search(r"search 1 ended", said.text), "its end is heard")
    said = arsched("status")
    trial.promise("search      1, ended" in said.text, "there was one search")
    there = ask("h1", f"cd ~/labs/arsched-* && git rev-parse autoresearch/{TAG}").strip()
    trial.promise(seen_commits() == there != "", "what it promoted is fetched")
    on("lap", f"git log --oneline autoresearch/{TAG}", folder=FOLDER, show=6)
