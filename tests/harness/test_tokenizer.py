"""The tokenizer: stored without pickle, the same as tiktoken's, and every byte of text counted once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness.contract import load_contract
from harness.prepare.corpus import Shard
from harness.prepare.rows import encode
from harness.prepare.stage import PrepareError
from harness.prepare.tokenizer import train_apart, train_tokenizer, true_token_bytes, upstream_token_bytes
from harness.tokenizer import Tokenizer, TokenizerError
from tests.harness.small_corpus import documents, write_contract, write_shard

ODD_TEXTS = [
    "", " ", "\n\n  \t", "naïve ключ 数据 🙂", "<|reserved_0|> is text here", "a" * 5000, "\x00\x7f\u2028",
    "e\u0301" * 50, "12345 67", "don't DON'T", "\r\n\r\n", "🙂" * 100,
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_shard(folder / "a.parquet", documents(200))
    contract = load_contract(str(write_contract(folder)))
    return train_tokenizer(contract, (Shard("a", "train", folder / "a.parquet"),), lambda _: None)


def test_it_survives_its_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    again = Tokenizer.from_directory(tmp_path)
    assert again == tokenizer
    assert [again.encode(text) for text in ODD_TEXTS] == [tokenizer.encode(text) for text in ODD_TEXTS]


def test_the_vocabulary_is_whole(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == 320 == tokenizer.encoding.n_vocab
    assert tokenizer.get_bos_token_id() == tokenizer.encoding.encode_single_token("<|reserved_0|>") == 316
    assert len(set(tokenizer.ranks)) == 316 and {bytes([byte]) for byte in range(256)} <= set(tokenizer.ranks)


def test_encoding_takes_texts_lists_and_prepends(tokenizer: Tokenizer) -> None:
    plain = tokenizer.encode("some words")
    assert tokenizer.encode("some words", prepend="<|reserved_0|>") == [316, *plain]
    assert tokenizer.encode(["some words", ""], prepend=316) == [[316, *plain], [316]]
    assert tokenizer.decode(plain) == "some words"


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_a_special_token_in_a_text_is_text(tokenizer: Tokenizer, text: str) -> None:
    tokens = encode(tokenizer.encoding, text)
    assert tokens.tolist() == tokenizer.encoding.encode_ordinary(text)
    assert (tokens < 316).all() and tokenizer.decode(tokens.tolist()) == text


def test_half_a_surrogate_pair_is_encoded_as_encode_ordinary_does(tokenizer: Tokenizer) -> None:
    assert encode(tokenizer.encoding, "a\ud800b").tolist() == tokenizer.encoding.encode_ordinary("a\ud800b")


def test_true_bytes_add_up_to_the_text(tokenizer: Tokenizer) -> None:
    counts = true_token_bytes(tokenizer)
    assert counts.dtype == np.int32 and len(counts) == 320 and (counts[316:] == 0).all()
    for text in [*ODD_TEXTS, *documents(20, seed=3)]:
        assert counts[encode(tokenizer.encoding, text)].sum() == len(text.encode())


def test_upstream_bytes_are_those_of_decoding_each_token_alone(tokenizer: Tokenizer) -> None:
    counts = upstream_token_bytes(tokenizer)
    decoded = [tokenizer.encoding.decode([token]) for token in range(316)]
    assert counts[:316].tolist() == [len(text.encode()) for text in decoded]
    assert (counts[316:] == 0).all()
    broken = [token for token, text in enumerate(decoded) if text == "\ufffd"]
    assert len(broken) >= 128 and (counts[broken] == 3).all()
    assert (counts >= true_token_bytes(tokenizer)).all()


def test_training_is_reproducible_and_stops_at_its_limit(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", documents(200))
    contract = load_contract(str(write_contract(tmp_path)))
    shards = (Shard("a", "train", tmp_path / "a.parquet"),)
    assert train_tokenizer(contract, shards, lambda _: None) == tokenizer
    short = load_contract(str(write_contract(tmp_path, tokenizer_chars=20_000)))
    assert train_tokenizer(short, shards, lambda _: None) != tokenizer


@pytest.mark.parametrize(
    "content",
    [None, "", "{}", "[]", json.dumps({"format": 9}), json.dumps({"format": 1, "pattern": "", "ranks": ["!"]})],
)
def test_a_file_that_is_no_tokenizer(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match="no tokenizer at"):
        Tokenizer.from_directory(tmp_path)


def test_training_apart_is_the_same_training(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", documents(200))
    contract = load_contract(str(write_contract(tmp_path)))
    heard: list[str] = []
    assert train_apart(contract, (Shard("a", "train", tmp_path / "a.parquet"),), heard.append) == tokenizer
    assert heard[-1] == "merging"


@pytest.mark.parametrize(
    ("content", "words"), [(b"PAR1", "cannot read"), (None, "No such file"), ("little", "tokens, not for 320")]
)
def test_a_failure_apart_is_raised_here(tmp_path: Path, content: bytes | str | None, words: str) -> None:
    path = tmp_path / "a.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        write_shard(path, [content])
    with pytest.raises(PrepareError, match=words):
        train_apart(load_contract(str(write_contract(tmp_path))), (Shard("a", "train", path),), lambda _: None)


def test_a_child_that_dies_is_reported_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.prepare.tokenizer.sys.executable", "/bin/false")
    with pytest.raises(PrepareError, match=r"without an answer \(exit code 1\)"):
        train_apart(load_contract(str(write_contract(tmp_path))), (), lambda _: None)
