"""Training the tokenizer, in a process of its own, and counting the bytes its tokens stand for.

Covers: byte-pair merges by rustbpe with the split pattern and the special tokens of
https://github.com/karpathy/autoresearch. The library holds the interpreter for as long as it merges, minutes on a large
corpus, in which Ctrl-C would do nothing: hence the process. Not covered: storing a tokenizer (harness.tokenizer).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rustbpe
from numpy.typing import NDArray

from harness.containment import die_with_parent
from harness.contract import SPECIAL_TOKENS, Contract
from harness.prepare.corpus import Shard, read_refills
from harness.prepare.stage import PrepareError, count
from harness.tokenizer import Tokenizer

# GPT-4's pattern, but numbers are split into at most two digits.
SPLIT_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"""
    r"""|\s*[\r\n]|\s+(?!\S)|\s+"""
)
_DOCUMENT_CHARS = 10_000  # of one document, at most: no single one may shape the vocabulary
_READ_TOGETHER = 1024
_PACKAGE_FOLDER = Path(__file__).resolve().parents[2]


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


def train_apart(contract: Contract, shards: tuple[Shard, ...], report: Callable[[str], None]) -> Tokenizer:
    """As train_tokenizer, in a child process that never outlives this one. Raises PrepareError.

    The child gets its request on stdin and answers with JSON lines on stdout.
    """
    request = {"contract": contract.to_json(), "shards": [[shard.name, str(shard.path)] for shard in shards]}
    paths = os.pathsep.join(filter(None, [str(_PACKAGE_FOLDER), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", __name__, str(os.getpid())]
    environment = os.environ | {"PYTHONPATH": paths}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as child:
        try:
            return _read_answer(child, json.dumps(request).encode(), report)
        finally:
            child.kill()


def _read_answer(child: subprocess.Popen[bytes], request: bytes, report: Callable[[str], None]) -> Tokenizer:
    assert child.stdin is not None and child.stdout is not None
    with contextlib.suppress(BrokenPipeError), child.stdin:
        child.stdin.write(request)
    for line in child.stdout:
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PrepareError(answer["error"], answer["hint"])
        if "tokenizer" in answer:
            return Tokenizer.from_json(answer["tokenizer"])
        report(answer["progress"])
    raise PrepareError(
        f"the tokenizer's training ended without an answer (exit code {child.wait()})",
        "is there enough memory? It is killed when the machine runs out of it",
    )


def main(argv: list[str]) -> None:
    """The child: reads its request, trains, answers."""
    if sys.platform == "linux":
        die_with_parent()
    if os.getppid() != int(argv[1]):  # it ended while this one was importing
        sys.exit("the process that started this one is gone")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; it ends this process
    request = json.load(sys.stdin)
    contract = Contract.from_json(request["contract"])
    shards = tuple(Shard(name, "train", Path(path)) for name, path in request["shards"])
    try:
        tokenizer = train_tokenizer(contract, shards, lambda text: _answer(progress=text))
    except PrepareError as error:
        _answer(error=str(error), hint=error.hint)
    except OSError as error:
        _answer(error=f"cannot read the corpus: {error}", hint="check the folder and its rights")
    else:
        _answer(tokenizer=tokenizer.to_json())


def _answer(**message: str) -> None:
    print(json.dumps(message), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv)
