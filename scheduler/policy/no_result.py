"""Whether a run whose attempts give no result is its candidate's fault: where two different slots had to give it up.

One slot may be broken, and a node that dies takes every run on it along; a candidate that two slots lose, each by
itself, is what they have in common. What is held against an attempt is kept with it in the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.domain.run import Attempt, Failed, Result
from scheduler.domain.text import one_line, shorten

STATUS = "invalid: no-result"
# Words of `infra: …` that a judge says of a run that a candidate may have brought about, once it was launched.
SUSPICIOUS = ("attention", "exchange", "kill", "scoring", "judge", "output")
_SHOWN_CHARACTERS = 150


def held_against(result: Result | None, reason: str, *, from_outside: bool) -> str:
    """What an attempt without a result that counts says against its candidate, "" for nothing.

    `result` is the judge's own of the `infra` family, None where the attempt was lost for `reason`. `from_outside`: it
    went with its slot or node, or its judge was ended by a signal that no fault of its own raises. The kernel names no
    sender, so an honest run and one that had its judge killed look alike: both are run again, and the third loss is
    `infra: lost`, never `invalid`. A candidate gains nothing by that. It has no score, as with any verdict. To try its
    luck again it would have to reach its judge, which full and weak sandboxes refuse by signal, and for want of memory
    the kernel takes the candidate first (harness/shim.py); with `--sandbox off` nothing is promised.
    """
    if from_outside:
        return ""
    if result is None:
        return shorten(f"lost: {one_line(reason)}", _SHOWN_CHARACTERS)
    word = result.verdict.status.removeprefix("infra: ")
    return shorten(one_line(reason), _SHOWN_CHARACTERS) if word in SUSPICIOUS and result.measured.launched else ""


def charge(attempts: Sequence[Attempt]) -> Failed | None:
    """The verdict on a run once two different slots hold something against it, else None."""
    held = {attempt.slot_id: attempt.charge for attempt in attempts if attempt.charge}
    if len(held) < 2:
        return None
    what = "; ".join(f"on {slot_id}: {charge}" for slot_id, charge in list(held.items())[:2])
    return Failed(STATUS, f"two slots got no result from it: {what}")
