"""The rooms and their doors, read from the import statements of every file.

Covers: which package may import which, which module may name an outside thing, and that cheap commands stay cheap.
Each rule is also run against a source that breaks it: a rule that cannot fail is no rule.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.mutants import FAULTS

ROOT = Path(__file__).resolve().parents[1]

# Standard library modules a pure decision has no use for: clocks, disks, processes, randomness, the network.
IMPURE = {
    *("asyncio", "datetime", "ctypes", "fcntl", "glob", "io", "multiprocessing", "os", "pathlib", "random", "select"),
    *("shutil", "signal", "socket", "sqlite3", "subprocess", "sys", "tempfile", "threading", "time", "urllib"),
}
# What a prepared node may lack: the judge and train.py run on numpy and torch alone.
NOT_ON_A_NODE = {
    *("click", "filelock", "git", "kernels", "matplotlib", "platformdirs", "pyarrow", "ray", "huggingface_hub", "rich"),
    *("rustbpe", "scipy", "tiktoken", "yaml"),
}


MOST_FILES = 250
MOST_LINES = 400
# Words of our own that the field has better ones for; as parts of names too, but not inside other words.
RETIRED = re.compile(
    r"(?<![A-Za-z])(?i:nights?|courts?|hearings?|keepers?|parties|hands|told|beside|for[\s_]+ever|heed|nobody|somebody"
    r"|obituary|remarks?|tallies)(?![a-z])|(?:Nights?|Court|Keeper|Nobody|Stay|Moment|Hands)(?![a-z])"
)
READ = (".py", ".md", ".yaml", ".toml", ".html", "Makefile")
WORD_LISTS = {"tests/test_architecture.py"}
PURE = ("scheduler.domain", "scheduler.policy")
# One package per outside thing: SQLite, git, a node's processes, Ray, commands that have ideas.
ADAPTERS = ("scheduler.ledger", "scheduler.git", "scheduler.node", "scheduler.ray", "scheduler.proposers")


@dataclass(frozen=True)
class Import:
    """`module` imports `target`; `lazy` when the statement sits inside a function."""

    module: str
    target: str
    lazy: bool

    @property
    def top(self) -> str:
        return self.target.partition(".")[0]


def imports_of(module: str, source: str) -> Iterator[Import]:
    tree = ast.parse(source)
    lazy = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)}
    typing_only = {id(n) for i in ast.walk(tree) if _is_type_checking(i) for n in ast.walk(i)}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, id(node) in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            yield from (Import(module, f"{base}.{alias.name}", id(node) in lazy) for alias in node.names)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".")[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


@cache
def all_imports() -> list[Import]:
    found = []
    for path in sorted([*(ROOT / "harness").rglob("*.py"), *(ROOT / "scheduler").rglob("*.py"), ROOT / "train.py"]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        # The compatibility folder stands in for upstream's own modules, under upstream's names.
        if not module.startswith("harness.upstream"):
            found += imports_of(module, path.read_text(encoding="utf-8"))
    return found


def inside(name: str, *rooms: str) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


# Each rule says whether one import breaks it.


def harness_knows_the_scheduler(i: Import) -> bool:
    return inside(i.module, "harness") and i.top == "scheduler"


def scheduler_reaches_past_the_contract(i: Import) -> bool:
    door = inside(i.target, "harness.contract") and not inside(i.module, *PURE, *ADAPTERS)
    door |= inside(i.target, "harness.files") and not inside(i.module, *PURE)
    return inside(i.module, "scheduler") and i.top == "harness" and not door


def domain_leaves_the_standard_library(i: Import) -> bool:
    own = inside(i.target, "scheduler.domain")
    return (
        inside(i.module, "scheduler.domain") and not own and (i.top not in sys.stdlib_module_names or i.top in IMPURE)
    )


def policy_touches_the_world(i: Import) -> bool:
    own = inside(i.target, "scheduler.domain", "scheduler.policy")
    statistics = i.top in ("numpy", "scipy") and i.lazy  # pure, and slow to import
    outside = i.top not in sys.stdlib_module_names or i.top in IMPURE
    return inside(i.module, "scheduler.policy") and outside and not own and not statistics


def second_module_imports_ray(i: Import) -> bool:
    return i.top == "ray" and i.module != "scheduler.ray.pool"


def ray_is_imported_eagerly(i: Import) -> bool:
    return i.top == "ray" and not i.lazy


def sqlite_outside_the_ledger(i: Import) -> bool:
    return i.top == "sqlite3" and not inside(i.module, "scheduler.ledger")


def git_outside_its_adapter(i: Import) -> bool:
    return i.top == "git" and not inside(i.module, "scheduler.git")


def adapters_look_upwards(i: Import) -> bool:
    # Proposers write candidates, so they need the pure tools that read and rewrite one.
    tools = ["scheduler.policy"] if inside(i.module, "scheduler.proposers") else []
    allowed = inside(i.target, "scheduler.domain", "scheduler.lab", *ADAPTERS, *tools) or i.target == "scheduler"
    return inside(i.module, *ADAPTERS) and i.top == "scheduler" and not allowed


def reading_side_acts(i: Import) -> bool:
    reads = inside(i.module, "scheduler.views", "scheduler.screens", "scheduler.report")
    return reads and inside(i.target, "scheduler.queue.loop", "scheduler.ray.pool", "scheduler.node.supervisor")


def judging_needs_more_than_numpy_and_torch(i: Import) -> bool:
    judges = inside(i.module, "harness") and not inside(i.module, "harness.prepare")
    return judges and not i.lazy and i.top in NOT_ON_A_NODE


def train_py_knows_the_lab(i: Import) -> bool:
    return i.module == "train" and i.top not in {"harness", "torch", "numpy"} and i.top not in sys.stdlib_module_names


RULES = [
    (harness_knows_the_scheduler, "harness.judge", "from scheduler.domain import run"),
    (scheduler_reaches_past_the_contract, "scheduler.queue.loop", "import harness.cache"),
    (scheduler_reaches_past_the_contract, "scheduler.policy.gates", "from harness.contract import Contract"),
    (domain_leaves_the_standard_library, "scheduler.domain.run", "import numpy"),
    (domain_leaves_the_standard_library, "scheduler.domain.run", "import subprocess"),
    (policy_touches_the_world, "scheduler.policy.gates", "import time"),
    (policy_touches_the_world, "scheduler.policy.gates", "from pathlib import Path"),
    (policy_touches_the_world, "scheduler.policy.gates", "def f():\n    import ray"),
    (policy_touches_the_world, "scheduler.policy.stats", "import scipy"),
    (second_module_imports_ray, "scheduler.queue.loop", "def f():\n    import ray"),
    (ray_is_imported_eagerly, "scheduler.ray.pool", "import ray"),
    (sqlite_outside_the_ledger, "scheduler.queue.loop", "import sqlite3"),
    (git_outside_its_adapter, "scheduler.queue.loop", "from git import Repo"),
    (adapters_look_upwards, "scheduler.node.supervisor", "from scheduler.queue import loop"),
    (adapters_look_upwards, "scheduler.node.supervisor", "from scheduler.policy import constants"),
    (adapters_look_upwards, "scheduler.proposers.tpe", "from scheduler.queue import loop"),
    (reading_side_acts, "scheduler.views.status", "from scheduler.queue.loop import Loop"),
    (judging_needs_more_than_numpy_and_torch, "harness.session", "import yaml"),
    (train_py_knows_the_lab, "train", "import ray"),
]


@pytest.mark.parametrize(
    "rule", sorted({rule for rule, _, _ in RULES}, key=lambda r: r.__name__), ids=lambda r: r.__name__
)
def test_no_import_breaks_the_rule(rule) -> None:
    assert [f"{i.module} -> {i.target}" for i in all_imports() if rule(i)] == []


@pytest.mark.parametrize(("rule", "module", "source"), RULES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_the_rule_sees_a_breach(rule, module: str, source: str) -> None:
    assert any(rule(i) for i in imports_of(module, source))


# What holds for the whole house rather than for one import: each finding is a line of text.


def circles(imports: list[Import], modules: set[str]) -> list[str]:
    """Groups of modules that import each other, directly or through others, sooner or later."""
    reaches: dict[str, set[str]] = {module: set() for module in modules}
    for i in imports:
        target = i.target if i.target in modules else i.target.rpartition(".")[0]
        if i.module in modules and target in modules and target != i.module:
            reaches[i.module].add(target)
    for middle in modules:
        for module in modules:
            if middle in reaches[module]:
                reaches[module] |= reaches[middle]
    return sorted(module for module in modules if module in reaches[module])


def names_of_two_classes(sources: dict[str, str]) -> list[str]:
    """Public classes that share their name with another."""
    homes: dict[str, list[str]] = {}
    for module, source in sources.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)
    return [f"{name}: {', '.join(places)}" for name, places in sorted(homes.items()) if len(places) > 1]


def too_long(sources: dict[str, str]) -> list[str]:
    return [module for module, source in sources.items() if source.count("\n") > MOST_LINES]


def retired_words(texts: dict[str, str]) -> list[str]:
    return [f"{place}: {word[0]}" for place, text in texts.items() for word in RETIRED.finditer(text)]


def product_sources() -> dict[str, str]:
    """Module name -> source, of harness and scheduler; the compatibility folder has upstream's names."""
    found = {}
    for path in sorted([*(ROOT / "harness").rglob("*.py"), *(ROOT / "scheduler").rglob("*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return {name: text for name, text in found.items() if not name.startswith("harness.upstream")}


def prose() -> dict[str, str]:
    """Every text of the project that a person reads, file names included; this file lists the words themselves."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    files = [ROOT / name for name in listed.stdout.splitlines() if name.endswith(READ) and name not in WORD_LISTS]
    return {str(path.relative_to(ROOT)): f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in files}


def test_no_module_is_in_a_circle() -> None:
    assert circles(all_imports(), set(product_sources())) == []
    ring = [Import("a", "b.f", False), Import("b", "c", True), Import("c", "a", False), Import("d", "a", False)]
    assert circles(ring, {"a", "b", "c", "d"}) == ["a", "b", "c"]


def test_no_two_public_classes_share_a_name() -> None:
    assert names_of_two_classes(product_sources()) == []
    assert names_of_two_classes({"a": "class X: ...", "b": "class X: ...\nclass Y: ..."}) == ["X: a, b"]


def test_a_file_holds_one_subject_and_the_house_stays_small() -> None:
    sources = product_sources()
    assert too_long(sources) == []
    assert len(sources) <= MOST_FILES
    assert too_long({"a": "\n" * 401, "b": "\n" * 400}) == ["a"]


# The command line's output, the entry that flushes it, the terminal that measures it, and what takes it from Ray.
WRITES_STDOUT = {
    "scheduler.cli.output",
    "scheduler.cli.main",
    "scheduler.screens.terminal",
    "scheduler.queue.diversion",
}


def second_ways_to_stdout(sources: dict[str, str]) -> list[str]:
    """Where else than in cli.output something is printed: there every sign has a spelling in every encoding."""
    found = []
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            said = ast.unparse(node) if isinstance(node, ast.Call | ast.Attribute) else ""
            prints = said.startswith("print(") and "file=sys.stderr" not in said
            if prints or said.startswith("click.echo(") or said == "sys.stdout" or said.startswith("Console()"):
                found.append(f"{module}: {said}")
    return [line for line in found if line.partition(":")[0] not in WRITES_STDOUT]


def test_nothing_writes_to_stdout_but_the_command_lines_own_output() -> None:
    sources = {name: text for name, text in product_sources().items() if inside(name, "scheduler")}
    assert second_ways_to_stdout(sources) == []
    breaches = ("print('x')", "click.echo('x')", "sys.stdout.write('x')", "Console()", "print('x', file=sys.stderr)")
    assert [len(second_ways_to_stdout({"a": breach})) for breach in breaches] == [1, 1, 1, 1, 0]


def numbered_placeholders(sources: dict[str, str]) -> list[str]:
    """SQL with `?1`: bound to a sequence it warns since Python 3.12 and is an error from 3.14."""
    return [name for name, text in sources.items() if re.search(r"[=(,]\s*\?1\b", text)]


def test_sql_takes_its_values_by_position_alone() -> None:
    assert numbered_placeholders(product_sources()) == []
    assert numbered_placeholders({"a": "tag = ?1", "b": "VALUES (?, ?)", "c": "VALUES (?1)"}) == ["a", "c"]


def test_every_fault_that_is_to_be_planted_has_its_place_and_its_tests() -> None:
    """A fault without a place is found by no test, and tests/mutants.py is seldom run whole."""
    lost = [fault.subject for fault in FAULTS if (ROOT / fault.file).read_text(encoding="utf-8").count(fault.old) != 1]
    lost += [test for fault in FAULTS for test in fault.tests if not (ROOT / test).is_file()]
    assert lost == []


def test_the_projects_texts_use_the_words_of_the_field() -> None:
    assert retired_words(prose()) == []
    assert retired_words({"a": "hold_court overnight", "b": "kept for ever\nTwoNights"}) == [
        "a: court",
        "b: for ever",
        "b: Nights",
    ]


@pytest.mark.parametrize(
    "statement",
    ["import harness, harness.contract", "import scheduler.cli.main", "import scheduler.cli.status"],
)
def test_a_cheap_command_imports_nothing_heavy(statement: str) -> None:
    probe = f"{statement}; import sys; print([m for m in ('ray', 'torch', 'numpy', 'matplotlib') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=True)
    assert said.stdout.strip() == "[]"


def test_the_package_says_one_version() -> None:
    import tomllib

    import harness

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == harness.__version__
