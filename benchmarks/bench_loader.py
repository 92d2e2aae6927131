"""How many CPU-seconds does a million training tokens cost: packed on the fly, and read from prepared rows?

All sides serve the same batches (int64 x and y on the CPU) of the same corpus, Python's standard library, and it is
checked that they are equal. `on the fly`: parquet, tiktoken's batch encoder over refills of 128 documents, best fit by
scanning a list of 1000, as training scripts do it. `at its best`: the same with an encoder without Python lists and a
buffer that finds its document in a few bit operations: what is left is tokenising. `prepared`: the rows of
harness.prepare through harness.loader's own path, a file larger than any cache of a processor, mapped afresh. Counted
are CPU-seconds of the process, all threads; the sides take turns, and the spread is over the repetitions.

    python benchmarks/bench_loader.py [--repeats 5] [--shape standard|cpu] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from harness.cache import Cache
from harness.contract import Contract, Corpus, load_contract
from harness.loader import feed_for
from harness.packing import DocumentBuffer
from harness.prepare.build import corpus_shards, prepare
from harness.prepare.corpus import Shard, read_refills
from harness.prepare.rows import encode
from harness.prepare.stage import PrepareProgress
from harness.rows import RowStream, read_rows
from harness.tokenizer import Tokenizer

PROMISE = 500
CHECKED_BATCHES = 3
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Shape:
    """Rows per batch, tokens to serve on the fly (slow) and from rows (fast), tokens prepared."""

    contract: str
    batch_size: int
    slow_tokens: int
    fast_tokens: int


SHAPES = {"standard": Shape("standard", 128, 4 << 20, 128 << 20), "cpu": Shape("cpu", 16, 1 << 19, 32 << 20)}


@dataclass(frozen=True)
class Bench:
    """A prepared contract, its shards, and the three ways to serve it."""

    contract: Contract
    cache: Cache
    shards: list[Shard]
    tokenizer: Tokenizer
    batch_size: int

    def prepared(self) -> Batches:
        length = self.contract.sequence_length
        feed = feed_for("cpu", self.batch_size, length + 1, self.contract.vocab_size)
        epochs = np.memmap(self.cache.train_epochs_path, dtype="<i4", mode="r")
        stream = RowStream(read_rows(self.cache.train_rows_path, length), epochs)
        while True:
            yield feed(stream.take(self.batch_size)[0])

    def on_the_fly(self) -> Batches:
        return self._batches(self._rows_by_scanning())

    def at_its_best(self) -> Batches:
        return self._batches(self._rows_by_bits())

    def _refills(self) -> Iterator[list[str]]:
        for shard in itertools.cycle(self.shards):
            yield from read_refills(shard.path, self.contract.pack_refill_documents)

    def _batches(self, rows: Iterator[torch.Tensor]) -> Batches:
        while True:
            batch = torch.stack(list(itertools.islice(rows, self.batch_size)))
            yield batch[:, :-1].contiguous(), batch[:, 1:].contiguous()

    def _rows_by_scanning(self) -> Iterator[torch.Tensor]:
        refills, bos = self._refills(), self.tokenizer.get_bos_token_id()
        waiting: list[list[int]] = []
        row = torch.empty(self.contract.sequence_length + 1, dtype=torch.int64)
        while True:
            filled = 0
            while filled < len(row):
                while len(waiting) < self.contract.pack_buffer_documents:
                    waiting += self.tokenizer.encode(next(refills), prepend=bos)  # type: ignore[arg-type]
                document = waiting.pop(scan(waiting, len(row) - filled))[: len(row) - filled]
                row[filled : filled + len(document)] = torch.tensor(document)
                filled += len(document)
            yield row.clone()

    def _rows_by_bits(self) -> Iterator[torch.Tensor]:
        refills, encoding = self._refills(), self.tokenizer.encoding
        bos = np.array([self.tokenizer.get_bos_token_id()], dtype=np.uint32)
        buffer, waiting, number = DocumentBuffer(self.contract.sequence_length + 1), {}, itertools.count()
        while True:
            row = np.empty(self.contract.sequence_length + 1, dtype=np.int64)
            filled = 0
            while filled < len(row):
                while buffer.waiting < self.contract.pack_buffer_documents:
                    for text in next(refills):
                        document = next(number)
                        waiting[document] = np.concatenate([bos, encode(encoding, text)])
                        buffer.add(document, len(waiting[document]))
                document, taken = buffer.place(len(row) - filled)
                row[filled : filled + taken] = waiting.pop(document)[:taken]
                filled += taken
            yield torch.from_numpy(row)


def scan(waiting: list[list[int]], room: int) -> int:
    """Index of the longest document that fits, else of the shortest; the first one of its length."""
    best, best_length = -1, 0
    for index, document in enumerate(waiting):
        if best_length < len(document) <= room:
            best, best_length = index, len(document)
    return best if best >= 0 else min(range(len(waiting)), key=lambda index: len(waiting[index]))


def cpu_seconds_per_mtok(make: Callable[[], Batches], batches: int, tokens: int) -> float:
    """CPU-seconds of this process per million tokens, from the first batch on."""
    serve = make()
    began = time.process_time()
    for _ in range(batches):
        next(serve)
    return (time.process_time() - began) / (batches * tokens) * 1e6


def set_up(shape: Shape, folder: Path) -> Bench:
    """Prepare the shape's contract over the standard library, in a cache root of its own."""
    os.environ["ARSCHED_CACHE"] = str(folder)
    corpus = Corpus("python", "stdlib", document_chars=2000 if shape.contract == "cpu" else 8000, train_shards=8)
    like = load_contract(shape.contract)
    contract = dataclasses.replace(
        like, device="cpu", corpus=corpus, train_tokens=shape.fast_tokens,
        evaluation_tokens=like.sequence_length, holdout_tokens=like.sequence_length,
    )  # fmt: skip
    cache = prepare(contract, None, PrepareProgress()).cache
    shards = [s for s in corpus_shards(contract, folder / "shards", None, PrepareProgress()) if s.split == "train"]
    return Bench(contract, cache, shards, Tokenizer.from_directory(cache.directory), shape.batch_size)


def check_equal(bench: Bench) -> None:
    """The three sides serve the same batches. Raises SystemExit."""
    sides = [bench.prepared(), bench.on_the_fly(), bench.at_its_best()]
    for _ in range(CHECKED_BATCHES):
        (x, y), *others = (next(side) for side in sides)
        if not all(torch.equal(x, other_x) and torch.equal(y, other_y) for other_x, other_y in others):
            raise SystemExit("the sides serve different batches: nothing to compare")


def measure(shape: Shape, repeats: int, folder: Path) -> dict[str, list[float]]:
    """CPU-seconds per million tokens of every side, one figure per repetition."""
    bench = set_up(shape, folder)
    check_equal(bench)
    tokens = shape.batch_size * bench.contract.sequence_length
    slow, fast = shape.slow_tokens // tokens, shape.fast_tokens // tokens
    sides = [
        ("on the fly", bench.on_the_fly, slow),
        ("at its best", bench.at_its_best, slow),
        ("prepared", bench.prepared, fast),
    ]
    figures: dict[str, list[float]] = {name: [] for name, _, _ in sides}
    for repeat in range(repeats):
        for name, make, batches in sides:
            figures[name].append(cpu_seconds_per_mtok(make, batches, tokens))
            print(f"repeat {repeat + 1} of {repeats}: {name} {figures[name][-1]:.5f}", file=sys.stderr, flush=True)
    return figures


def table(name: str, shape: Shape, figures: dict[str, list[float]]) -> str:
    """The figures of one shape for a terminal or a page."""
    contract = load_contract(shape.contract)
    fastest = statistics.median(figures["prepared"])
    lines = [f"{name}: {shape.batch_size} rows of {contract.sequence_length} tokens, vocabulary {contract.vocab_size}"]
    for side, values in figures.items():
        middle = statistics.median(values)
        spread = f"{min(values):.5f} to {max(values):.5f}"
        ratio = "" if side == "prepared" else f"   {middle / fastest:6.0f} times prepared"
        lines.append(f"  {side:12} {middle:8.5f} CPU-s/Mtok  ({spread}){ratio}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shape", choices=sorted(SHAPES), action="append", help="default: both")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of the table")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name in given.shape or sorted(SHAPES, reverse=True):
        with tempfile.TemporaryDirectory(prefix="arsched-bench-") as folder:
            results[name] = measure(SHAPES[name], given.repeats, Path(folder))
    if given.json:
        print(json.dumps(results))
    else:
        print("\n".join(table(name, SHAPES[name], figures) for name, figures in results.items()))
        print(f"on {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    kept = all(
        statistics.median(f["on the fly"]) >= PROMISE * statistics.median(f["prepared"]) for f in results.values()
    )
    print(f"promise of {PROMISE} times: {'kept' if kept else 'NOT kept'}", file=sys.stderr)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
