"""A folder of one's own texts as a corpus: parquet (column `text`), JSON lines (field `text`) and plain text files.

Covers: reading works file by file, in order of file names. Not covered: which of them are trained on
(harness.prepare.shards deals them out).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.prepare.errors import PrepareError
from harness.prepare.shards import read_refills

_READ_TOGETHER = 1024


def folder_works(root: str, report: Callable[[str], None]) -> Iterator[str]:
    """Every non-empty text in the folder and below. Raises PrepareError, naming file and line."""
    folder = Path(root)
    if not folder.is_dir():
        raise PrepareError(f"corpus folder {folder} does not exist", "mend corpus.root in the contract")
    files = sorted(path for path in folder.rglob("*") if path.suffix in _READERS and path.is_file())
    if not files:
        raise PrepareError(f"corpus folder {folder} has no .parquet, .jsonl or .txt file", "mend corpus.root")
    for done, path in enumerate(files):
        report(f"{done} of {len(files)} files")
        yield from (text for text in _READERS[path.suffix](path) if text and not text.isspace())


def _parquet(path: Path) -> Iterator[str]:
    for texts in read_refills(path, _READ_TOGETHER):
        yield from texts


def _json_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _text_field(line, f"{path}:{number}")


def _text_field(line: bytes, where: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError):
        raise PrepareError(f"{where} is no JSON object with a field `text`", "mend or remove that line") from None
    if not isinstance(text, str):
        raise PrepareError(f"{where}: field `text` is not text", "mend or remove that line")
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON can spell half a surrogate pair, UTF-8 cannot


def _plain(path: Path) -> Iterator[str]:
    try:
        yield path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PrepareError(f"{path} is not UTF-8 text (byte {error.start})", "convert or remove that file") from None


_READERS: dict[str, Callable[[Path], Iterator[str]]] = {".parquet": _parquet, ".jsonl": _json_lines, ".txt": _plain}
