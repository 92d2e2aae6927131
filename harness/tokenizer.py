"""The contract's tokenizer as train.py and the tools see it, stored as JSON.

Covers: vocabulary size and special tokens without any library; encoding and decoding through tiktoken, imported when
first used (a prepared node need not have it). Not covered: training one (harness.prepare.tokenizer_training).
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1


class TokenizerError(Exception):
    """A tokenizer file that cannot be read, or text asked for where tiktoken is missing."""


@dataclass(frozen=True)
class Tokenizer:
    """`ranks[i]` is the bytes of token i; `special_tokens` follow them, the first one begins every document."""

    pattern: str
    ranks: tuple[bytes, ...]
    special_tokens: tuple[str, ...]

    @classmethod
    def from_directory(cls, directory: str | Path | None = None) -> Tokenizer:
        """Read tokenizer.json of a cache folder, by default of this run's cache. Raises TokenizerError."""
        return cls.from_file(_current_tokenizer() if directory is None else Path(directory) / "tokenizer.json")

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """Raises TokenizerError when the file is missing or not one that `save` wrote."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TokenizerError(f"no tokenizer at {path}: {error}") from None

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The tokenizer that `to_json` wrote down. Raises ValueError."""
        try:
            fields = json.loads(text)
            if fields["format"] != FORMAT:
                raise ValueError(f"format {fields['format']}")
            ranks = tuple(base64.b64decode(token, validate=True) for token in fields["ranks"])
            return cls(fields["pattern"], ranks, tuple(fields["special_tokens"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a tokenizer ({error})") from None

    def to_json(self) -> str:
        """The file's content; `from_json` reads it back."""
        fields = {
            "format": FORMAT,
            "pattern": self.pattern,
            "special_tokens": list(self.special_tokens),
            "ranks": [base64.b64encode(token).decode("ascii") for token in self.ranks],
        }
        return json.dumps(fields, indent=0, ensure_ascii=True) + "\n"

    def get_vocab_size(self) -> int:
        return len(self.ranks) + len(self.special_tokens)

    def get_bos_token_id(self) -> int:
        """Id of the token that begins every document."""
        return len(self.ranks)

    def encode(
        self, text: str | Sequence[str], prepend: int | str | None = None, num_threads: int = 8
    ) -> list[int] | list[list[int]]:
        """Token ids of one text, or of each of several; `prepend` (an id or a special token) goes before each.

        Special tokens written out in a text are ordinary text. Raises TokenizerError without tiktoken.
        """
        first = [] if prepend is None else [prepend if isinstance(prepend, int) else self._special_id(prepend)]
        if isinstance(text, str):
            return first + list(self.encoding.encode_ordinary(text))
        batches = self.encoding.encode_ordinary_batch(list(text), num_threads=num_threads)
        return [first + list(ids) for ids in batches]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD. Raises TokenizerError without tiktoken."""
        return str(self.encoding.decode(list(ids)))

    def _special_id(self, name: str) -> int:
        return len(self.ranks) + self.special_tokens.index(name)

    @functools.cached_property
    def encoding(self) -> Any:
        """The same tokenizer as a tiktoken.Encoding."""
        try:
            import tiktoken
        except ImportError:
            raise TokenizerError("encoding and decoding text needs tiktoken: pip install tiktoken") from None
        return tiktoken.Encoding(
            name="arsched",
            pat_str=self.pattern,
            mergeable_ranks={token: rank for rank, token in enumerate(self.ranks)},
            special_tokens={name: self._special_id(name) for name in self.special_tokens},
        )


def _current_tokenizer() -> Path:
    from harness.session import current

    return current().cache.tokenizer_path
