"""What a candidate may try with its judge's output folder, by kind; bodies for tests/fixtures/hostile/forger.py.

None of them mounts anything or signals anybody: they are safe to run as root.
"""

from __future__ import annotations

from pathlib import Path

from tests.harness.judging import HOSTILE

VICTIM = "victim"  # a file next to the output folder that no one may write to

# The folder stays where it is: the judge takes its names back.
ON_NAMES = {
    "a forged file": "forge()",
    "a forged file and folders at fixed temporary names": """
forge()
for name in NAMES:
    (OUT / f".{name}.tmp").mkdir()
""",
    "a folder at each name": """
for name in NAMES:
    (empty(OUT / name) / "x").mkdir(parents=True)
""",
    "a deep and locked tree": """
here = os.open(OUT, os.O_RDONLY)
empty(OUT / "result.json")
for depth in range(1500):
    name = "result.json" if depth == 0 else "d"
    os.mkdir(name, dir_fd=here)
    here, above = os.open(name, os.O_RDONLY, dir_fd=here), here
    os.close(above)
(OUT / "result.json").chmod(0)
""",
    "a link at each name and at fixed temporary names": f"""
for name in NAMES:
    empty(OUT / name).symlink_to(OUT.parent / {VICTIM!r})
    (OUT / f".{{name}}.tmp").symlink_to(OUT.parent / {VICTIM!r})
""",
    "a FIFO at each name and at fixed temporary names": """
for name in NAMES:
    os.mkfifo(empty(OUT / name))
    os.mkfifo(OUT / f".{name}.tmp")
""",
    "folders no one may write to or pass": "forge(); OUT.chmod(0o500); OUT.parent.chmod(0o600)",
    "a forged file in place of run.log that grows": """
empty(OUT / "run.log").write_text("short")
os.truncate(OUT / "run.log", 1 << 33)
""",
    "a process left behind that forges on": """
if os.fork() == 0:
    os.setsid()
    while True:
        forge()
""",
}

# The folder itself goes: the candidate answers for that.
ON_THE_FOLDER = {
    "moved away": "OUT.rename(OUT.with_name('away'))",
    "moved away with a forged twin in its place": "OUT.rename(OUT.with_name('away')); forge()",
    "moved away behind a link to a forged twin": """
OUT.rename(OUT.with_name("away"))
forge(OUT.with_name("twin"))
OUT.symlink_to(OUT.with_name("twin"))
""",
    "removed": "empty(OUT)",
    "removed with a forged twin in its place": "empty(OUT); forge()",
    "a file in its place": "empty(OUT).write_text(FORGED)",
    "a FIFO in its place": "os.mkfifo(empty(OUT))",
    "a dangling link in its place": "empty(OUT).symlink_to('nowhere')",
}


def forger(attack: str, ending: str = "") -> str:
    """A train.py that attacks at once, and then goes on as `ending`."""
    return (HOSTILE / "forger.py").read_text().replace("ATTACK  # noqa: B018, F821\n", attack + "\n") + ending


def write_forger(path: Path, attack: str) -> Path:
    path.write_text(forger(attack))
    return path
