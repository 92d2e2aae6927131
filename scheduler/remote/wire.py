"""What laptop and head say to each other: one request, and an answer that noise of login shells does not spoil.

A request is one line on the head's stdin, or its argument where stdin is a terminal. What a head says is data: it
moves no cursor here and fills no disk.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from contextlib import suppress
from typing import Any

from scheduler.domain.errors import ArschedError, ExitCode, LabProblem
from scheduler.domain.text import clean
from scheduler.node.code import ALL_PACKAGES, CODE_ROOT, code_digest

PROTOCOL = 1
MARK = "arsched-answer: "
REPOSITORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,50}-[0-9a-f]{12}")
MOST_BYTES = 128 << 20  # of an answer
MOST_PACK_BYTES = 64 << 20  # which an answer carries in base64
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
DRY_RUN = "dry-run-"  # begins the name of a repository that one command has made and drops
LABS = "labs"  # folder in the home of the head's user
Request = dict[str, Any]


def _code() -> str:
    return code_digest(CODE_ROOT, ALL_PACKAGES)  # the verbs, the rule and the ledger's form as well


def encode(request: Request) -> str:
    """One word of letters, digits, - and _, which no shell reads as anything else."""
    whole = {"protocol": PROTOCOL, "code": _code(), **request}
    return base64.urlsafe_b64encode(json.dumps(whole).encode()).decode()


def decode(word: str) -> Request:
    """Raises LabProblem where the laptop runs other code than this head."""
    try:
        request: Request = json.loads(base64.urlsafe_b64decode(word))
        spoken, code = request["protocol"], request["code"]
    except (binascii.Error, ValueError, KeyError, TypeError):
        raise LabProblem("the request from the laptop was cut off", "the same command again") from None
    if (spoken, code) != (PROTOCOL, _code()):
        what = f"the head runs other code of arsched ({_code()}) than this machine ({code})"
        stale = "rm -r ~/arsched/harness ~/arsched/scheduler"  # `ray up` copies, and deletes nothing
        hint = f"bring it there, when nothing runs: ray up cluster.yaml; if it stays so, first on the head: {stale}"
        raise LabProblem(what, hint)
    return request


def harmless(text: str) -> str:
    """What the head said without what could move a cursor or name a window; colours, which are asked for, stay."""
    return "".join(part if _COLOUR.fullmatch(part) else clean(part) for part in _COLOUR.split(text))


def translate(text: str, spelt: dict[str, str]) -> str:
    """`spelt`: words of the head -> what they are called on the laptop. One may be the beginning of another."""
    for there in sorted(spelt, key=len, reverse=True):
        text = text.replace(there, spelt[there])
    return text


def answer(value: dict[str, Any]) -> str:
    """A line for the head's stdout, whatever a login shell has left there without an end."""
    return f"\n{MARK}{json.dumps(value)}"


def problem_answer(problem: ArschedError) -> str:
    return answer({"error": problem.message, "hint": problem.hint, "exit_code": int(problem.exit_code)})


def read_answer(said: str) -> dict[str, Any] | None:
    """The answer in what the head said; None where there is none. Raises ArschedError with the head's problem."""
    found = next((line for line in said.splitlines()[::-1] if line.startswith(MARK)), None)
    try:
        value: dict[str, Any] = json.loads((found or "").removeprefix(MARK))
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    if "error" in value:
        problem = ArschedError(clean(str(value["error"])), clean(str(value.get("hint", ""))))
        with suppress(ValueError):
            problem.exit_code = ExitCode(value.get("exit_code", 1)) or problem.exit_code
        raise problem
    return value
