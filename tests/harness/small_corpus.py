"""A contract small enough to prepare in a fraction of a second, over a folder of made-up documents."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

FIELDS: dict[str, Any] = {
    "name": "small",
    "summary": "made-up words, for tests",
    "device": "cpu",
    "corpus": {"kind": "folder", "root": "corpus", "document_chars": 200, "train_shards": 3},
    "sequence_length": 16,
    "vocab_size": 320,
    "tokenizer_chars": 100_000,
    "pack_buffer_documents": 50,
    "pack_refill_documents": 16,
    "train_tokens": 20_000,
    "evaluation_tokens": 640,
    "holdout_tokens": 320,
    "budget": {"seconds": 1, "clock": "wall", "grace_s": 0.5, "wall_limit_s": 10},
    "limits": {"startup_s": 30, "evaluation_s": 30, "teardown_s": 5, "log_mb": 1},
    "threads": 1,
    "noise_prior_bpb": 0.01,
    "train_constants": {"DEPTH": 1},
}
HUB = {
    "kind": "hub", "root": "owner/texts", "document_chars": 0, "train_shards": 2, "val_shard": 9, "holdout_shard": 7,
}  # fmt: skip


def small_fields(**changes: Any) -> dict[str, Any]:
    """Fields of the small contract; a dotted path is spelled with two underscores, like budget__seconds=3."""
    fields = copy.deepcopy(FIELDS)
    for path, value in changes.items():
        *outer, name = path.split("__")
        place = fields
        for step in outer:
            place = place[step]
        place[name] = value
    return fields


def write_contract(folder: Path, **changes: Any) -> Path:
    """The small contract as a file next to its corpus folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.json"
    path.write_text(json.dumps(small_fields(**changes)))
    return path


def documents(count: int, seed: int = 0) -> list[str]:
    """Texts of 5 to 120 words over a small vocabulary, some of them beyond ASCII."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 7))) for _ in range(200)] + [
        "naïve",
        "ключ",
        "数据",
        "🙂",
    ]
    return [" ".join(rng.choices(words, k=rng.randint(5, 120))) + f"\nend {number}\n" for number in range(count)]


def write_corpus(folder: Path, count: int = 300) -> Path:
    """The folder corpus that the small contract names, as JSON lines."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text}) for text in documents(count)]
    (corpus / "texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return corpus


def write_shard(path: Path, texts: list[str], row_group: int = 50) -> None:
    """A parquet shard as the hub has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": texts}), path, row_group_size=row_group)


def write_hub_shards(folder: Path) -> dict[str, bytes]:
    """The files a hub contract with `HUB` needs, by name."""
    for seed, number in enumerate((0, 1, 9, 7)):
        write_shard(folder / f"shard_{number:05d}.parquet", documents(120, seed))
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}
