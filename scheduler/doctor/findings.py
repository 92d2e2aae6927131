"""What an examination finds: fine, worth knowing, or in the way; with what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from scheduler.domain.errors import ArschedError


class Grade(StrEnum):
    OK = "ok"
    NOTE = "note"  # runs go on without it
    PROBLEM = "problem"  # no run can be believed or made until it is mended


@dataclass(frozen=True, slots=True)
class Finding:
    """`about` is a word like "git" or a slot's id."""

    about: str
    grade: Grade
    said: str
    hint: str = ""


def good(about: str, said: str) -> Finding:
    return Finding(about, Grade.OK, said)


def note(about: str, said: str, hint: str = "") -> Finding:
    return Finding(about, Grade.NOTE, said, hint)


def problem(about: str, said: str, hint: str = "") -> Finding:
    return Finding(about, Grade.PROBLEM, said, hint)


def from_error(about: str, error: ArschedError) -> Finding:
    return Finding(about, Grade.PROBLEM, error.message, error.hint)
