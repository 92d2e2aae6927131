"""The one exception of preparing that is meant for a person's eyes."""

from __future__ import annotations


class PrepareError(Exception):
    """Preparing cannot go on: the message says what failed and where, `hint` what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
