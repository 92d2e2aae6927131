"""A search of real runs on the `cpu` contract while neighbours come and go: does it believe what only the load did?

    python benchmarks/bench_busy_search.py --ideas 30                 ideas that change nothing, and their effects
    python benchmarks/bench_busy_search.py --ideas 20 --real 4        four edits that matter among them
    python benchmarks/bench_busy_search.py --ideas 30 --quiet         without the load

Makes a repository and a lab of its own in a temporary folder, or in --folder, and proposes the ideas itself by JSON
lines. With --real the baseline has FAULTS. Prints every effect with its error, how many lie within one and two errors
of 0, the promotions and the claim.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine_load import machine_load
from scheduler.policy.constants import rewrite_constants

# Every one of 0.03 bpb or more on the baseline that the ones before it make, with a faulty learning rate put right.
FAULTS: dict[str, int | float] = {"MATRIX_LR": 0.4}
REAL: tuple[dict[str, int | float], ...] = (
    {"DEPTH": 2, "ASPECT_RATIO": 32},
    {"SOFTCAP": 0.0},
    {"MATRIX_LR": 0.04},
    {"DEPTH": 1, "ASPECT_RATIO": 64},
)
COPIED = ("train.py", "program.md", "candidates/README.md")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ideas", type=int, default=30)
    parser.add_argument("--real", type=int, default=0, choices=range(len(REAL) + 1), help="ideas that matter, of these")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--load-seed", type=int, default=7)
    parser.add_argument("--quiet", action="store_true", help="no load")
    parser.add_argument("--folder", type=Path, help="keep the lab there")
    parser.add_argument("--propose", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.propose:
        return propose(asked.ideas, asked.real, asked.load_seed)
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="busy-search-"))
    make_repository(folder, FAULTS if asked.real else {})
    proposer = [sys.executable, str(Path(__file__).resolve()), "--propose", "--ideas", str(asked.ideas)]
    proposer += ["--real", str(asked.real), "--load-seed", str(asked.load_seed)]
    arsched(folder, "prepare", "--contract", "cpu")
    with machine_load(None if asked.quiet else asked.load_seed):
        arsched(folder, "init", "--tag", "busy", "--slots", str(asked.slots))
        arsched(
            *(folder, "search", "--proposer", "lines", "--option", f"lines.command={shlex.join(proposer)}"),
            *("--rounds", "1", "--ideas", str(asked.ideas), "--slots", str(asked.slots)),
        )
    show(json.loads(read(folder, "leaderboard", "--json")), json.loads(read(folder, "status", "--json")))
    print(f"\nthe lab: {folder}")
    return 0


def propose(ideas: int, real: int, seed: int) -> int:
    """Answer every ask by the next idea; those that matter come at places drawn by `seed`."""
    places = dict(zip(sorted(random.Random(seed).sample(range(ideas), real)), REAL, strict=False))
    for number, line in enumerate(sys.stdin):
        ask = json.loads(line)
        if number >= ideas:
            answer: dict[str, Any] = {"no_idea": "all are made", "exhausted": True}
        elif number in places:
            text = rewrite_constants(ask["train_py"], places[number])
            answer = {"train_py": text, "title": f"real: {json.dumps(places[number])}"}
        else:
            answer = {"train_py": f"{ask['train_py']}\nUNREAD_{number} = {number}\n", "title": f"nothing {number}"}
        print(json.dumps({"ask": ask["ask"], **answer}), flush=True)
    return 0


def make_repository(folder: Path, faults: dict[str, int | float]) -> None:
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    train = folder / "train.py"
    train.write_text(rewrite_constants(train.read_text(encoding="utf-8"), faults), encoding="utf-8")
    (folder / ".gitignore").write_text("/.arsched/\n", encoding="utf-8")
    git = ("git", "-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "baseline")):
        subprocess.run([*git, *command], cwd=folder, check=True)


def arsched(folder: Path, *words: str) -> None:
    """Run it; where it fails it has said why, and so ends this script."""
    if code := subprocess.run(_command(*words), cwd=folder, env=_environment()).returncode:
        sys.exit(code)


def read(folder: Path, *words: str) -> str:
    done = subprocess.run(_command(*words), cwd=folder, check=True, env=_environment(), capture_output=True, text=True)
    return done.stdout


def _command(*words: str) -> list[str]:
    return [sys.executable, "-c", "import sys; from scheduler.cli.main import main; sys.exit(main())", *words]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def show(board: dict[str, Any], status: dict[str, Any]) -> None:
    rows = [row for row in board["candidates"] if row["effect_bpb"] is not None]
    print("\n| idea | runs | effect on its baseline | P(better) | state |\n|---|---|---|---|---|")
    for row in rows:
        effect = f"{row['effect_bpb']:+.4f} ± {row['effect_se_bpb']:.4f}"
        print(f"| {row['title']} | {row['runs']} | {effect} | {row['p_better']:.2f} | {row['detail']} |")
    nothing = [row for row in rows if row["title"].startswith("nothing")]
    if len(nothing) > 1:
        effects = [row["effect_bpb"] for row in nothing]
        errors = [row["effect_bpb"] / row["effect_se_bpb"] for row in nothing]
        # All share the baseline's error, so the mean's is not smaller than that by the root of their number.
        mean, scatter = statistics.fmean(effects), statistics.stdev(effects)
        typical = math.sqrt(statistics.fmean([row["effect_se_bpb"] ** 2 for row in nothing]))
        within = [sum(abs(z) <= bound for z in errors) for bound in (1, 2)]
        print(f"\n{len(nothing)} ideas without effect: mean {mean:+.4f}, sd {scatter:.4f}, error {typical:.4f}")
        print(f"within one error of 0: {within[0]}, within two: {within[1]} of {len(nothing)}")
        promoted = [row["candidate"] for row in nothing if row["status"] in ("baseline", "promoted")]
        print(f"promoted without being better: {', '.join(promoted) or 'none'}")
    print(f"noise: {board['noise_sd_bpb']:.4f} over {board['noise_repeats']} repeats")
    print("status:", json.dumps(status.get("claim") or status.get("search"), indent=1))


if __name__ == "__main__":
    sys.exit(main())
