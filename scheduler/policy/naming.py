"""What a candidate is called: a short name from a title, told apart from the names there are."""

from __future__ import annotations

import re
from collections.abc import Container

NAME_CHARACTERS = 40
_LIKE_AN_ID = re.compile(r"[a-z]?[0-9]+|last")


def slug(title: str) -> str:
    """A name for a folder or a column from a title, never one that reads like an id."""
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:NAME_CHARACTERS].strip("-")
    return f"idea-{words}".strip("-") if not words or _LIKE_AN_ID.fullmatch(words) else words


def free_name(name: str, taken: Container[str]) -> str:
    """`name`, or `name-2`, `name-3`, … when it is taken: a candidate keeps its name for ever."""
    if name not in taken:
        return name
    number = 2
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"
