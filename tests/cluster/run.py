"""A cluster as people meet it: the shipped cluster.yaml, `ray up` from a laptop, three nodes, and what breaks there.

`make test-cluster`, or `python -m tests.cluster.run --only up,doctor` for some steps, in their order, on hosts that an
earlier call left up. Prints what a user sees; exit code 1 when a promise is broken. The hosts: tests/cluster/hosts.sh.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable

from tests.cluster.laptop import from_the_laptop
from tests.cluster.terminal import (
    BASE,
    NODES,
    ROOT,
    SCRIPT,
    USER,
    WHEELS,
    WORKERS,
    Command,
    Trial,
    ask,
    hosts,
    on,
    print_tail,
    surroundings,
    wait_for,
)  # fmt: skip

CUT_S = 90.0
HEAD_SAID_S = 17.0  # 15 s, and two of looking
# The cpu contract, cut to seconds.
SHORTER: dict[str, object] = {
    "name": "short", "tokenizer_chars": 1_000_000, "train_tokens": 1_048_576, "train_shards": 4,
    "evaluation_tokens": 16_384, "holdout_tokens": 16_384,
}  # fmt: skip
BUDGET_S = 4
CACHE = "/home/rig/.cache/arsched"
DOCTOR = "arsched doctor --quick --contract ~/arsched/short.yaml --address auto"
OURS = r"ray::|raylet|gcs_server|site-packages/ray|harness\.|train\.py|arsched (submit|search)"
LEDGER = """
import collections, sqlite3
db = sqlite3.connect("file:.git/arsched/ledger.db?mode=ro", uri=True)
ask = lambda text: db.execute(text).fetchall()
print("open", ask("SELECT count(*) FROM run WHERE state IN ('queued', 'running')")[0][0])
print("results", ask("SELECT count(*) FROM result")[0][0])
print("finished", ask("SELECT count(*) FROM run WHERE state = 'finished'")[0][0])
print("twice", ask("SELECT count(*) FROM (SELECT 1 FROM result GROUP BY run HAVING count(*) > 1)")[0][0])
print("unscored", ask("SELECT count(*) FROM result WHERE family != 'scored'")[0][0])
print("unfinal", ask("SELECT count(*) FROM candidate WHERE state = 'open' AND number NOT IN"
    " (SELECT candidate FROM run JOIN result ON result.run = run.number)")[0][0])
nodes = collections.Counter(slot.partition("/")[0] for slot, in ask(
    "SELECT slot_id FROM attempt JOIN result ON result.run = attempt.run AND result.attempt = attempt.number"))
print("nodes", " ".join(f"{node}:{n}" for node, n in sorted(nodes.items())))
"""


def living_nodes() -> int:
    """As Ray on the head counts them."""
    script = 'import ray, logging; ray.init(address="auto", logging_level="ERROR", log_to_driver=False); '
    counted = ask("h1", f"~/arsched/.venv/bin/python -c '{script}print(sum(n[\"Alive\"] for n in ray.nodes()))'")
    return int(counted.split()[-1]) if counted.split() and counted.split()[-1].isdigit() else 0


def ledger() -> dict[str, str]:
    script = BASE / "ledger.py"
    script.write_text(LEDGER)
    hosts("root", "h1", "true", quiet=True)
    with script.open() as file:
        done = subprocess.run(
            ["bash", str(SCRIPT), "on", "h1", "cd ~/lab && python3 -"], stdin=file, capture_output=True, text=True,
            env=surroundings(), check=False,
        )  # fmt: skip
    return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())


def left_running() -> list[str]:
    found = []
    for host in NODES:
        listed = hosts("root", host, "ps", "-eo", "pid,args", quiet=True).text
        found += [f"{host}: {line.strip()[:150]}" for line in listed.splitlines() if re.search(OURS, line)]
    return found


def bring_up_hosts(trial: Trial) -> None:
    if not any(WHEELS.glob("ray-*.whl")):
        print("   fetching what hosts install (once)", flush=True)
        hosts("wheels", str(ROOT))
    hosts("down")  # what an interrupted call left
    hosts("up")
    print("   lap, h1 (head), h2, h3", flush=True)


def install_on_laptop(trial: Trial) -> None:
    """A checkout, its packages, the cluster's token; then the file is filled in as its header says."""
    carry = f"git -C {ROOT} ls-files -co --exclude-standard | tar -c -C {ROOT} -T - | bash {SCRIPT} on lap "
    subprocess.run([*("bash", "-o", "pipefail", "-c"), carry + "'mkdir -p arsched && tar -x -C arsched'"],
                   check=True, env=surroundings())  # fmt: skip
    ask("lap", "cd arsched && git config --global user.name rig && git config --global user.email rig@lap"
               " && git init -q -b main && git add --all && git commit -qm clone")  # fmt: skip
    trial.promise(on("lap", "make install", folder="~/arsched", show=3).code == 0, "make install")
    tools = ask("lap", "ls ~/arsched/.venv/bin")
    trial.promise(not re.search(r"^(pytest|mypy|ruff)$", tools, re.M), "a node gets no test tools")
    ask("lap", "test -e ~/.ray/auth_token || (cd arsched && .venv/bin/ray get-auth-token --generate)")
    write_cluster_file()


def write_cluster_file(contract: str = "short.yaml") -> None:
    text = (ROOT / "cluster.yaml").read_text()
    workers = ", ".join(address for host, address in NODES.items() if host != "h1")
    for old, new in (
        ("head_ip: 192.0.2.10 ", f"head_ip: {NODES['h1']} "),
        ("worker_ips: [] ", f"worker_ips: [{workers}] "),
        ("ssh_user: ubuntu ", f"ssh_user: {USER} "),
        ("  ~/arsched/LICENSE: LICENSE\n", f"  ~/arsched/LICENSE: LICENSE\n  ~/arsched/{contract}: {contract}\n"),
        ("prepare --contract standard", f"prepare --contract ~/arsched/{contract}"),
    ):
        if old not in text:
            raise SystemExit(f"cluster.yaml has no {old!r} any more")
        text = text.replace(old, new)
    put("lap", "arsched/cluster.yaml", text)
    put("lap", f"arsched/{contract}", short_contract())


def short_contract(**changes: object) -> str:
    text = (ROOT / "harness" / "contracts" / "cpu.yaml").read_text()
    for field, value in (SHORTER | changes).items():
        text = re.sub(rf"^{field}: \S+", f"{field}: {value}", text, flags=re.M)
    return re.sub(r"^  seconds: \d+", f"  seconds: {BUDGET_S}", text, flags=re.M)


def put(host: str, path: str, text: str) -> None:
    subprocess.run(["bash", str(SCRIPT), "on", host, f"cat > {path}"], input=text, text=True, check=True,
                   env=surroundings())  # fmt: skip


def ray_up(trial: Trial) -> None:
    trial.promise(on("lap", "chmod 600 ~/.ray/auth_token; source .venv/bin/activate; ray up -y cluster.yaml",
                     folder="~/arsched", show=12).code == 0, "ray up")  # fmt: skip
    clone_lab()
    said = on("h1", DOCTOR, folder="~/lab", show=60)
    named = all(re.search(rf"{address} .*being set up|{address} .*setup", said.text) for address in WORKERS)
    trial.promise(named or "3 nodes with" in said.text, "doctor names the workers that are still being set up")
    trial.promise(
        wait_for(lambda: living_nodes() == len(NODES), "every listed node is up"), "all listed workers come up"
    )


def ray_status(trial: Trial) -> None:
    """The autoscaler counts a node some seconds after it has joined."""
    active = f"{len(NODES)} local.cluster.node"
    wait_for(lambda: active in ask("h1", "ray status"), "the autoscaler counts every node")
    said = on("h1", "ray status", show=30)
    trial.promise(said.code == 0 and "Traceback" not in said.text and active in said.text, "plain `ray status` works")


def clone_lab() -> None:
    """A repository with a train.py on the head, as a user's clone would be."""
    carry = f"tar -c -C {ROOT} train.py program.md | bash {SCRIPT} on h1 'mkdir -p lab && tar -x -C lab'"
    subprocess.run(["bash", "-o", "pipefail", "-c", carry], check=True, env=surroundings())
    ask("h1", "cd lab && git init -q -b main . && git config user.name rig && git config user.email rig@lap"
              " && git add . && git commit -qm start")  # fmt: skip


def init(trial: Trial) -> None:
    said = on("h1", "arsched init --tag first --contract ~/arsched/short.yaml --address auto", folder="~/lab")
    trial.promise(said.code == 0, "init on the cluster")


def doctor(trial: Trial) -> None:
    wait_for(lambda: living_nodes() == len(NODES), "every listed node is up")
    said = on("h1", DOCTOR, folder="~/lab", show=60)
    trial.promise("3 nodes with" in said.text, "doctor on the head counts three nodes")


def submission(count: int) -> str:
    """The command that submits some candidates which are new to the lab; they are written."""
    words = [f"c{time.time_ns() // 1000 % 10**9 + number}.py" for number in range(count)]
    edit = "s/^EMBEDDING_LR = [0-9.]*/EMBEDDING_LR = 0.6"
    ask("h1", "cd lab && " + "; ".join(f"sed '{edit}{word[1:-3]:0>9}/' train.py > {word}" for word in words))
    return f"arsched submit {' '.join(words)} --address auto"


def prepare(trial: Trial) -> None:
    """A second contract on all nodes from the head's cache; then once more with a node whose disk refuses."""
    command = "arsched prepare --all-nodes --address auto --contract ~/"
    for name, refuses in (("second", ""), ("third", "h2")):
        put("h1", f"{name}.yaml", short_contract(name=name, train_tokens=524_288 if name == "second" else 262_144))
        if refuses:
            hosts("root", refuses, "chmod", "a-w", CACHE)
        said = on("h1", f"{command}{name}.yaml", folder="~/lab")
        if refuses:
            hosts("root", refuses, "chmod", "u+w", CACHE)
        there = {host: ask(host, f"ls -d ~/.cache/arsched/{name}-*/manifest.json") for host in NODES}
        whole = {host for host, listed in there.items() if "No such file" not in listed}
        trial.promise(whole == NODES.keys() - {refuses}, f"every node that can has the cache of {name}")
        trial.promise(said.code == bool(refuses) and (f"{refuses} is not prepared" in said.text or not refuses),
                      "a node that cannot is named, with exit code 1")  # fmt: skip
    left = [ask(host, "ls ~/.cache/arsched | grep arriving") for host in NODES]
    trial.promise(not any(left), "nothing half-made is left")


def check_ledger(trial: Trial) -> None:
    found = ledger()
    print(f"   ledger: {found}", flush=True)
    whole = found.get("open") == found.get("twice") == found.get("unfinal") == "0"
    trial.promise(whole and found["results"] == found["finished"], "every run has one result, every candidate is over")
    trial.promise(all(f"{host}:" in found.get("nodes", "") for host in NODES), "every node was used")


def submit(trial: Trial) -> None:
    said = on("h1", submission(8), folder="~/lab", show=60)
    trial.promise(said.code == 0, "submit ends with 0")
    check_ledger(trial)


SEARCH = "arsched search --proposer tpe --runs 14 --claim-runs 2 --address auto"


def during(trial: Trial, line: str, happens: Callable[[Command], None]) -> None:
    """Something happens in the middle of a command, which goes on by itself."""
    before = int(ledger().get("results", 0))
    command = Command("h1", line, "~/lab")
    wait_for(lambda: command.ended or int(ledger().get("results", 0)) >= before + 2, "two results are there")
    command.show()
    happens(command)
    trial.promise(command.end() == 0, "the command goes on by itself and ends with 0")
    check_ledger(trial)


def cut_a_link(trial: Trial) -> None:
    def happens(command: Command) -> None:
        hosts("cut", "h2")
        print(f"   --- the cable of h2 is pulled for {CUT_S:.0f} s", flush=True)
        time.sleep(CUT_S)
        hosts("mend", "h2")
        print("   --- it is back", flush=True)
        trial.promise("h2 is gone" in command.show(), "the lost node is named")

    during(trial, submission(14), happens)
    trial.promise(wait_for(lambda: living_nodes() == len(NODES), "every node is up again"), "h2 comes back by itself")


def cut_the_power(trial: Trial) -> None:
    def happens(command: Command) -> None:
        hosts("crash", "h3")
        print("   --- h3 has no power", flush=True)
        wait_for(lambda: "h3 is gone" in command.text() or command.ended, "the lost node is named")
        trial.promise("h3 is gone" in command.show(), "the lost node is named")
        said = on("h1", DOCTOR, folder="~/lab", show=60)
        trial.promise(said.code == 1 and NODES["h3"] in said.text, "doctor names the missing node")
        hosts("boot", "h3")
        print("   --- h3 boots", flush=True)

    during(trial, submission(14), happens)
    trial.promise(wait_for(lambda: living_nodes() == len(NODES), "every node is up again"), "h3 comes back by itself")


def kill_the_head(trial: Trial) -> None:
    def happens(command: Command) -> None:
        hosts("root", "h1", "pkill", "-9", "-x", "gcs_server")  # of that host's own processes
        print("   --- the head's gcs_server is killed", flush=True)
        before = len(command.text())
        after_s = wait_for(lambda: "gone" in command.text()[before:] or command.ended, "it is said", 90)
        command.show()
        trial.promise(
            after_s is not None and after_s < HEAD_SAID_S, f"that the head is gone is said in {HEAD_SAID_S} s"
        )
        trial.promise(not command.ended, "the search waits")
        on("lap", "source .venv/bin/activate; ray up -y cluster.yaml", folder="~/arsched", show=5)
        wait_for(lambda: living_nodes() == len(NODES), "every node is up again")

    during(trial, SEARCH, happens)


def ray_down(trial: Trial) -> None:
    said = on("lap", "source .venv/bin/activate; ray down -y cluster.yaml", folder="~/arsched", show=15)
    trial.promise(said.code == 0 and "command not found" not in said.text, "ray down")
    gone = wait_for(lambda: not left_running(), "nothing of arsched or Ray runs", 300)
    trial.promise(gone is not None, "ray down ends everything")
    print_tail("\n".join(left_running()), 20)
    shared = [hosts("root", host, "ls", "/dev/shm").text for host in NODES]
    trial.promise(not any(shared), "no shared memory is left")


def odd_hosts(trial: Trial) -> None:
    """No way out of the rack, and workers of one name: the cluster comes up and is used all the same."""
    hosts("down")
    hosts("up", environ={"ROUTELESS": "h1 h2 h3", "NAMED": "h2:gpu h3:gpu"})
    command = "source .venv/bin/activate; ray up -y cluster.yaml"
    trial.promise(on("lap", command, folder="~/arsched", show=3).code == 0, "ray up without a default route")
    trial.promise(wait_for(lambda: living_nodes() == len(NODES), "every node is up"), "all nodes find the head")
    prepare = "arsched prepare --all-nodes --contract ~/arsched/short.yaml"
    trial.promise(on("h1", prepare, folder="~/lab", show=8).code == 0, "all nodes prepare under their new names")
    said = on("h1", DOCTOR, folder="~/lab", show=60)
    trial.promise("3 nodes with 6 slots" in said.text and said.code == 0, "doctor")
    said = on("h1", submission(6), folder="~/lab", show=60)
    trial.promise(said.code == 0 and len(set(re.findall(r" on (gpu[^/ ]*)/", said.text))) > 1,
                  "nodes of one name are distinguished, and used")  # fmt: skip
    on("lap", "source .venv/bin/activate; ray down -y cluster.yaml", folder="~/arsched", show=3)


def take_down_hosts(trial: Trial) -> None:
    hosts("down")


Step = Callable[[Trial], None]
STEPS: dict[str, Step] = {
    "hosts": bring_up_hosts, "install": install_on_laptop, "up": ray_up, "status": ray_status, "doctor": doctor,
    "init": init, "prepare": prepare, "submit": submit, "cut": cut_a_link, "power": cut_the_power,
    "head": kill_the_head, "laptop": from_the_laptop, "down": ray_down, "odd": odd_hosts, "end": take_down_hosts,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.run", description=__doc__)
    parser.add_argument("--only", default=",".join(STEPS), help=f"steps, of: {','.join(STEPS)}")
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := [name for name in names if name not in STEPS]:
        parser.error(f"no step {', '.join(unknown)}; there are: {', '.join(STEPS)}")
    if hosts("can", quiet=True).code:
        print(hosts("can", quiet=True).text, end="", file=sys.stderr)
        return 1
    trial = Trial()
    try:
        for name in names:
            print(f"== {name}", flush=True)
            STEPS[name](trial)
    finally:
        if "hosts" in names and "end" in names:
            hosts("down", quiet=True)
    print(f"{len(trial.broken)} broken" + "".join(f"\n   {words}" for words in trial.broken), flush=True)
    return 1 if trial.broken else 0


if __name__ == "__main__":
    sys.exit(main())
