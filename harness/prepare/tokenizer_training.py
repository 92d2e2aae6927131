"""Training the tokenizer on the training shards, and counting the bytes its tokens stand for.

Covers: byte-pair merges by rustbpe with the split pattern and the special tokens of
https://github.com/karpathy/autoresearch; true byte counts, and upstream's. Not covered: storing (harness.tokenizer).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import rustbpe
from numpy.typing import NDArray

from harness.contract import SPECIAL_TOKENS, Contract
from harness.prepare.errors import PrepareError
from harness.prepare.progress import count
from harness.prepare.shards import Shard, read_refills
from harness.tokenizer import Tokenizer

# GPT-4's pattern, but numbers are split into at most two digits.
SPLIT_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"""
    r"""|\s*[\r\n]|\s+(?!\S)|\s+"""
)
_DOCUMENT_CHARS = 10_000  # of one document, at most: no single one may shape the vocabulary
_READ_TOGETHER = 1024


def train_tokenizer(contract: Contract, shards: tuple[Shard, ...], report: Callable[[str], None]) -> Tokenizer:
    """Learn contract.vocab_size tokens, special ones included. Raises PrepareError when the text is too small."""
    trainer = rustbpe.Tokenizer()
    texts = _texts(shards, contract.tokenizer_chars, report)
    trainer.train_from_iterator(texts, contract.vocab_size - SPECIAL_TOKENS, pattern=SPLIT_PATTERN)
    ranks = sorted((rank, bytes(token)) for token, rank in trainer.get_mergeable_ranks())
    tokenizer = Tokenizer(
        SPLIT_PATTERN, tuple(token for _, token in ranks), tuple(f"<|reserved_{i}|>" for i in range(SPECIAL_TOKENS))
    )
    if tokenizer.get_vocab_size() != contract.vocab_size:
        raise PrepareError(
            f"the corpus has text for {tokenizer.get_vocab_size()} tokens, not for {contract.vocab_size}",
            "bring more text, or lower vocab_size in the contract",
        )
    return tokenizer


def _texts(shards: tuple[Shard, ...], limit_chars: int, report: Callable[[str], None]) -> Iterator[str]:
    chars = 0
    for shard in shards:
        for texts in read_refills(shard.path, _READ_TOGETHER):
            for text in texts:
                yield text[:_DOCUMENT_CHARS]
                chars += min(len(text), _DOCUMENT_CHARS)
                if chars >= limit_chars:
                    report("merging")
                    return
            report(f"{count(chars)} of {count(limit_chars)} characters read")
    report("merging")


def true_token_bytes(tokenizer: Tokenizer) -> NDArray[np.int32]:
    """int32 [V]: bytes of text each token stands for; special tokens stand for none."""
    lengths = [len(token) for token in tokenizer.ranks]
    return np.array(lengths + [0] * len(tokenizer.special_tokens), dtype=np.int32)


def upstream_token_bytes(tokenizer: Tokenizer) -> NDArray[np.int32]:
    """int32 [V] counted after decoding each token alone: every undecodable piece becomes U+FFFD, 3 bytes."""
    lengths = [len(token.decode("utf-8", errors="replace").encode("utf-8")) for token in tokenizer.ranks]
    return np.array(lengths + [0] * len(tokenizer.special_tokens), dtype=np.int32)
