"""The real `arsched` command on a real Ray cluster, whose judge is source_judge. Run as a program.

Supervisors keep their spools in $ARSCHED_SPOOL.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from scheduler.cli.main import main
from scheduler.node.judge_process import Commands
from scheduler.node.supervisor import NodeSettings
from scheduler.ray.pool import RayPool

JUDGE = (sys.executable, "-S", str(Path(__file__).resolve().parents[1] / "scheduler" / "source_judge.py"))

if __name__ == "__main__":
    connect = RayPool.connect
    settings = NodeSettings(Path(os.environ["ARSCHED_SPOOL"]), Commands(JUDGE, (*JUDGE, "cache"), (*JUDGE, "sandbox")))

    def connect_with_judge(*where: Any, **more: Any) -> RayPool:
        return connect(*where, settings=settings, **more)

    RayPool.connect = connect_with_judge  # type: ignore[method-assign, assignment]
    main()
