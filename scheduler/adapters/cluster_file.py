"""How many nodes a cluster.yaml of `ray up` names. Reads nothing else of it; Ray checks the rest."""

from __future__ import annotations

from pathlib import Path

from scheduler.domain.errors import LabProblem


def read_node_count(path: Path) -> int | None:
    """Head and workers; None without such a file. Raises LabProblem when it cannot be read."""
    import yaml

    if not path.is_file():
        return None
    try:
        provider = yaml.safe_load(path.read_text(encoding="utf-8"))["provider"]
        return 1 + len(provider.get("worker_ips") or ())
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as problem:
        reason = " ".join(str(problem).split())
        raise LabProblem(f"{path} cannot be read: {reason}", "compare it with the one arsched ships") from None
