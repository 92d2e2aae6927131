"""The packed rows of a split, written to disk.

Covers: how many rows a contract asks for, planning, gathering, writing with plain writes (a memory map would answer a
full disk with SIGBUS). Not covered: reading them back (harness.rows).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.contract import Contract
from harness.files import whole_file
from harness.packing import Plan, TokenStore, gather_rows, plan_rows
from harness.prepare.errors import PrepareError
from harness.prepare.progress import Progress, count, size
from harness.prepare.shards import Split
from harness.prepare.tokenising import TokenFolder, open_store

_CHUNK_TOKENS = 1 << 22
_TOKEN_BYTES = 2


def rows_of(contract: Contract, split: Split) -> int:
    """Rows the contract asks for: training rows cover train_tokens, the others are exact."""
    tokens = {"train": contract.train_tokens, "val": contract.evaluation_tokens, "holdout": contract.holdout_tokens}
    return -(-tokens[split] // contract.sequence_length)


def require_space(contract: Contract, folder: Path) -> None:
    """Raise PrepareError now rather than after minutes of packing, if the rows cannot fit on the disk."""
    rows = sum(rows_of(contract, split) for split in ("train", "val", "holdout"))
    need, free = rows * (contract.sequence_length + 1) * _TOKEN_BYTES, shutil.disk_usage(folder).free
    if need > free:
        raise PrepareError(
            f"the disk of {folder} is too full: the rows need {size(need)}, {size(free)} are free",
            "free some space there, or set ARSCHED_CACHE to a folder on another disk",
        )


def write_rows(
    contract: Contract, places: list[TokenFolder], rows: int, rows_path: Path, epochs_path: Path | None, show: Progress
) -> None:
    """Pack `rows` rows out of the shards' tokens into uint16 [rows, T+1], and their epochs into int32 [rows]."""
    store, refills = open_store(places)
    plan = plan_rows(
        store.lengths,
        refills,
        rows,
        contract.sequence_length + 1,
        contract.pack_buffer_documents,
        lambda done, total: show.show(f"planned {count(done)} of {count(total)} rows"),
    )
    _write_tokens(plan, store, rows_path, show)
    if epochs_path is not None:
        with whole_file(epochs_path) as file:
            file.write(plan.row_epochs.astype("<i4").tobytes())
    if epochs_path is None and plan.row_epochs[-1] > 1:
        show.say(f"NOTE: the text of these {rows} rows is short: it is gone through {plan.row_epochs[-1]} times")
    show.show(f"{count(rows)} rows, up to epoch {plan.row_epochs[-1]}")


def _write_tokens(plan: Plan, store: TokenStore, path: Path, show: Progress) -> None:
    total = int(plan.takes.sum(dtype="int64"))
    done = 0
    with whole_file(path) as file:
        for tokens in gather_rows(plan, store, _CHUNK_TOKENS):
            file.write(tokens.astype("<u2", copy=False).data)
            done += len(tokens)
            show.show(f"written {count(done)} of {count(total)} tokens")
