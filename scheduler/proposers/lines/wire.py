"""The two kinds of line: what an ask says, and what an answer means. Values in, values out.

to it    {"ask", "base", "round", "seed", "train_py", "brief", "trials": [{"candidate", "base", "val_bpb",
          "failure", "proposer", "pending"}]}
from it  {"ask", "train_py": "..."} or {"ask", "constants": {NAME: value}}, each with "title", "hypothesis",
         "theme", "parents" as it likes; or {"ask", "no_idea": "why", "exhausted": true when it is done for good}
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from scheduler.domain.errors import CandidateRejected
from scheduler.domain.proposal import Answer, Ask, NoIdea, Proposed, Trouble
from scheduler.policy.constants import rewrite_constants
from scheduler.policy.literals import Constant
from scheduler.proposers.titles import describe_change

MAX_LINE_BYTES = 1 << 20  # a train.py at its limit, every character escaped
_QUOTED = 120


class BadLine(Exception):
    """A line that is no answer to anything: whoever wrote it is not to be trusted with the next one."""


def spell_ask(ask: Ask) -> bytes:
    """One line, ended."""
    trials = [
        {
            "candidate": trial.candidate_id,
            "base": trial.base_id,
            "val_bpb": trial.val_bpb,
            "failure": trial.failure,
            "proposer": trial.proposer,
            "pending": trial.pending,
        }
        for trial in ask.trials
    ]
    line = {
        "ask": ask.id,
        "base": ask.base_id,
        "round": ask.round,
        "seed": ask.seed,
        "train_py": _text(ask.train_py),
        "brief": ask.brief,
        "trials": trials,
    }
    return json.dumps(line).encode() + b"\n"


def read_line(line: bytes) -> tuple[str, Mapping[str, object]]:
    """The ask's id and the answer. Raises BadLine."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        raise BadLine(f"it wrote a line that is not JSON: {quote(line)}") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("ask"), str):
        raise BadLine(f'it wrote a line without "ask": {quote(line)}')
    return answer["ask"], answer


def read_answer(ask: Ask, answer: Mapping[str, object]) -> Answer:
    """What a line means for its ask."""
    if "no_idea" in answer:
        trouble = Trouble.EXHAUSTED if answer.get("exhausted") is True else Trouble.UNCHANGED
        return NoIdea(ask.id, trouble, _string(answer, "no_idea") or "it has no idea")
    try:
        data = _source(ask, answer)
    except BadLine as problem:
        return NoIdea(ask.id, Trouble.MALFORMED, str(problem))
    except CandidateRejected as problem:
        return NoIdea(ask.id, Trouble.REFUSED, problem.message)
    if data == ask.train_py:
        return NoIdea(ask.id, Trouble.UNCHANGED, "it left train.py as it was")
    title = _string(answer, "title") or describe_change(_text(ask.train_py), _text(data))
    return Proposed(
        ask.id, data, title, _string(answer, "hypothesis"), _string(answer, "theme"), _strings(answer, "parents")
    )


def quote(line: bytes) -> str:
    """The beginning of a line, printable."""
    text = "".join(c if c.isprintable() else "?" for c in line[: 4 * _QUOTED].decode("utf-8", "replace"))
    return repr(text[:_QUOTED]) + (" …" if len(text) > _QUOTED else "")


def _source(ask: Ask, answer: Mapping[str, object]) -> bytes:
    source, constants = answer.get("train_py"), answer.get("constants")
    if isinstance(source, str) and constants is None:
        return source.encode("utf-8", "surrogatepass")
    if isinstance(constants, dict) and source is None:
        values = {name: _constant(name, value) for name, value in constants.items()}
        return rewrite_constants(_text(ask.train_py), values).encode()
    raise BadLine('an answer has either "train_py" as text, or "constants" as an object, or "no_idea"')


def _constant(name: str, value: object) -> Constant:
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, list):
        return tuple(_constant(name, one) for one in value)
    raise BadLine(f"the constant {quote(name.encode())} is no number, text or list")


def _string(answer: Mapping[str, object], name: str) -> str:
    value = answer.get(name)
    return value.strip() if isinstance(value, str) else ""


def _strings(answer: Mapping[str, object], name: str) -> tuple[str, ...]:
    value = answer.get(name)
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _text(source: bytes) -> str:
    return source.decode("utf-8", "replace")
