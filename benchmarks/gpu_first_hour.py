"""The first hour on a GPU node: eight questions, one call, one Markdown section for docs/log.md.

    python benchmarks/gpu_first_hour.py                          # everything, at the standard budget of 300 s
    python benchmarks/gpu_first_hour.py --only 1,2,3 --seconds 300 --time-limit 580
    python benchmarks/gpu_first_hour.py --smoke                  # no GPU: the plumbing, on the cpu contract

Makes its own corpus from the Python sources below sys.prefix, in the standard shape. Every answer is written as soon as
it is known, so an interrupted call keeps what it had; one that cannot be answered says why, and the next is asked.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout, nothing installed

from gpu_lab import Lab, Options, Unanswered, open_lab
from gpu_questions import Answer, numbered, title_of


def main() -> int:
    arguments = parse(sys.argv[1:])
    options = Options(arguments.workdir, arguments.smoke, arguments.seconds, arguments.seeds, arguments.upstream)
    report = Report(arguments.out, options)
    try:
        lab = open_lab(options)
    except Unanswered as missing:
        report.add("Nothing could be measured", [f"- {missing}"])
        return 1
    deadline = time.monotonic() + arguments.time_limit
    for number, question in numbered():
        if number in arguments.only:
            report.add(title_of(question), ask(question, lab, deadline))
    print(f"\nwritten: {arguments.out}", flush=True)
    return 0


def ask(question: Callable[[Lab], Answer], lab: Lab, deadline: float) -> Answer:
    """The answer, or one line that says why there is none."""
    if time.monotonic() > deadline:
        return ["- not asked: the time limit had passed"]
    print(f"\n{title_of(question)}", flush=True)
    began = time.monotonic()
    try:
        return [*question(lab), f"- (asked for {time.monotonic() - began:.0f} s)"]
    except Unanswered as missing:
        return [f"- not answered: {missing}"]
    except subprocess.TimeoutExpired as late:
        return [f"- not answered: no answer within {late.timeout:.0f} s"]


class Report:
    """A Markdown section that is whole on disk after every answer."""

    def __init__(self, path: Path, options: Options) -> None:
        self._path = path
        kind = "a smoke run on CPU: plumbing only, no figure here means anything" if options.smoke else "measured"
        self._lines = [f"## {datetime.now(UTC):%Y-%m-%d}: the first hour on a GPU ({kind})", "", machine(), ""]
        self._lines += ["`python " + " ".join(["benchmarks/gpu_first_hour.py", *sys.argv[1:]]) + "`", ""]

    def add(self, title: str, answer: Answer) -> None:
        self._lines += [f"### {title}", "", *answer, ""]
        print("\n".join(answer), flush=True)
        beside = self._path.with_name(self._path.name + ".tmp")
        beside.write_text("\n".join(self._lines), encoding="utf-8")
        beside.replace(self._path)


def machine() -> str:
    """One line: device, driver, torch, Python."""
    code = (
        "import torch; c = torch.cuda; "
        "print(c.get_device_name() if c.is_available() else 'no GPU', '· torch', torch.__version__)"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "none"
    return f"{seen or 'torch missing'} · driver {driver} · Python {platform.python_version()} · {platform.machine()}"


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="exercise the script on CPU; measures nothing")
    parser.add_argument("--only", type=question_numbers, default="1,2,3,4,5,6,7,8", help="questions, e.g. 1,2,3")
    parser.add_argument("--seconds", type=float, default=300, help="training budget of a run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="runs for question 5 (default: %(default)s)")
    parser.add_argument("--upstream", type=Path, help="a copy of upstream's train.py, for question 1")
    parser.add_argument("--time-limit", type=float, default=3600, help="seconds after which no new question is asked")
    parser.add_argument(
        "--workdir", type=Path, default=Path("out/gpu_first_hour"), help="runs, contract, compile cache"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("gpu_first_hour.md"), help="the Markdown (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    arguments.workdir = arguments.workdir.resolve() / f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    return arguments


def question_numbers(text: str) -> frozenset[int]:
    numbers = frozenset(int(part) for part in text.split(","))
    if not numbers <= frozenset(range(1, 9)):
        raise argparse.ArgumentTypeError("questions have the numbers 1 to 8")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
