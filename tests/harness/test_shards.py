"""Texts on this machine as a corpus: nothing lost in cutting, documents sharded whole, bad files named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.prepare.corpus import cut, folder_documents, local_shards, read_refills, readable, write_shards
from harness.prepare.stage import PrepareError
from tests.harness.small_corpus import documents, write_shard


@given(st.text(alphabet="ab \n\r\u2028\x0c", max_size=400), st.integers(1, 60))
def test_cutting_loses_nothing_and_stays_near_the_limit(text: str, limit: int) -> None:
    pieces = list(cut(text, limit))
    assert "".join(pieces) == text
    assert all(len(piece) <= 2 * limit for piece in pieces)
    assert all(len(piece) >= limit for piece in pieces[:-1])


def test_an_uncut_document_stays_whole() -> None:
    assert list(cut("line\n" * 1000, 0)) == ["line\n" * 1000]
    assert list(cut("ab\ncd\nef\ngh\n", 5)) == ["ab\ncd\n", "ef\ngh\n"]


def texts_of(folder: Path, train_shards: int) -> dict[str, list[str]]:
    return {
        shard.name: [text for refill in read_refills(shard.path, 128) for text in refill]
        for shard in local_shards(folder, train_shards)
    }


def test_sharding_is_balanced_whole_and_reproducible(tmp_path: Path) -> None:
    texts = [f"document {number} {text}" for number, text in enumerate(documents(300))]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_shards(texts, tmp_path / name, 3, piece_chars=100)
    sharded = texts_of(tmp_path / "one", 3)
    assert sharded == texts_of(tmp_path / "two", 3)
    assert sorted(sharded) == ["holdout", "train-00000", "train-00001", "train-00002", "val"]
    sizes = [sum(map(len, pieces)) for pieces in sharded.values()]
    assert max(sizes) - min(sizes) < max(map(len, texts))
    splits = {name: set(pieces) for name, pieces in sharded.items() if not name.startswith("train")}
    splits["train"] = {piece for name, pieces in sharded.items() if name.startswith("train") for piece in pieces}
    for text in texts:
        assert [set(cut(text, 100)) <= pieces for pieces in splits.values()].count(True) == 1


def test_every_training_shard_has_pieces_of_every_long_training_document(tmp_path: Path) -> None:
    """Else a run's score would depend on which documents lie where its seed begins."""
    texts = [f"{number} " * 400 for number in range(100, 160)]
    write_shards(texts, tmp_path, 3, piece_chars=100)
    sharded = [{piece.split()[1] for piece in pieces} for pieces in texts_of(tmp_path, 3).values()]
    *training, val, holdout = sharded
    assert training[0] == training[1] == training[2] and len(training[0]) > 20
    assert not training[0] & (val | holdout) and not val & holdout


def test_refills_never_cross_row_groups(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", [str(number) for number in range(250)], row_group=100)
    refills = list(read_refills(tmp_path / "a.parquet", 64))
    assert [len(refill) for refill in refills] == [64, 36, 64, 36, 50]
    assert [text for refill in refills for text in refill] == [str(number) for number in range(250)]


def test_a_file_that_is_not_whole_is_not_readable(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", documents(50))
    content = (tmp_path / "a.parquet").read_bytes()
    assert readable(tmp_path / "a.parquet")
    for name, kept in (("cut", content[:-10]), ("none", b""), ("other", b"text")):
        (tmp_path / name).write_bytes(kept)
        assert not readable(tmp_path / name)
    assert not readable(tmp_path / "missing")
    (tmp_path / "hole.parquet").write_bytes(content[:100] + bytes(200) + content[300:])
    with pytest.raises(PrepareError, match=r"cannot read .*hole\.parquet"):
        list(read_refills(tmp_path / "hole.parquet", 64))


def test_a_folder_gives_every_text_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "a.txt").write_text("plain text", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "first"}\n\n{"text": "half \\ud800", "more": 1}\n{"text": " "}\n')
    (tmp_path / "c.csv").write_text("not,read")
    write_shard(tmp_path / "below" / "d.parquet", ["third", ""])
    assert list(folder_documents(str(tmp_path), lambda _: None)) == ["plain text", "first", "half ?", "third"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"txt": "y"}\n', "a.jsonl:2"),
        ("a.jsonl", b"not json\n", "a.jsonl:1"),
        ("a.jsonl", json.dumps({"text": 3}).encode(), "not text"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1"),
        ("a.txt", b"caf\xe9", "not UTF-8 text"),
        ("a.parquet", b"PAR1", "cannot read"),
        ("a.csv", b"", "no .parquet, .jsonl or .txt"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PrepareError, match=words):
        list(folder_documents(str(tmp_path), lambda _: None))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match="does not exist"):
        list(folder_documents(str(tmp_path / "none"), lambda _: None))
