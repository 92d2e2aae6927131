"""The shards of a contract's corpus on this disk, wherever they come from.

Covers: choosing by the corpus' kind, building the shards of local texts once. Not covered: the kinds themselves
(harness.prepare.hub, python_sources, folder_sources).
"""

from __future__ import annotations

from pathlib import Path

from harness.contract import Contract
from harness.files import whole_folder
from harness.prepare.folder_sources import folder_works
from harness.prepare.hub import hub_shards
from harness.prepare.progress import Progress
from harness.prepare.python_sources import python_works
from harness.prepare.shards import Shard, deal, dealt


def corpus_shards(contract: Contract, folder: Path, brought: Path | None, progress: Progress) -> tuple[Shard, ...]:
    """Every shard, training ones first and in order. `folder`: for shards made here. `brought`: files by hand.

    Raises PrepareError.
    """
    if contract.corpus.kind == "hub":
        return hub_shards(contract.corpus, brought, progress)
    if not folder.is_dir():
        _build(contract, folder, progress)
    return dealt(folder, contract.corpus.train_shards)


def _build(contract: Contract, folder: Path, progress: Progress) -> None:
    corpus = contract.corpus
    sources = python_works if corpus.kind == "python" else folder_works
    with progress.stage("corpus"), whole_folder(folder) as fresh:
        deal(sources(corpus.root, progress.show), fresh, corpus.train_shards, corpus.document_chars)
