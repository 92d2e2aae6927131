"""What an evaluation may cost on the budget's clock: as much as a model that is frozen, and every forward the same.

The judge reads the clock when it asks and when it is answered. What goes beyond is computation that the budget did not
pay for, training in the first forward for example, and is charged to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from harness.protocol import Op

FORWARD_FACTOR = 3.0  # a forward may cost this many times the lower quartile: caches, a collector, a clock change
_FORWARD_SLACK_S = 0.005  # what reading a clock may be wrong by
_SLACK_SHARE, _LEAST_SLACK_S, _MOST_SLACK_S = 0.02, 0.05, 1.0  # of the budget: opening buffers, first touches


def charge_s(forwards_s: Sequence[float], other_s: float, budget_s: float) -> float:
    """Seconds to charge for an evaluation whose forwards cost that and that spent `other_s` outside them."""
    costs = np.asarray(forwards_s, dtype=np.float64)
    free = FORWARD_FACTOR * np.quantile(costs, 0.25) + _FORWARD_SLACK_S if len(costs) else 0.0
    slack = min(max(_LEAST_SLACK_S, _SLACK_SHARE * budget_s), _MOST_SLACK_S)
    return max(0.0, float(np.maximum(costs - free, 0.0).sum()) + other_s - slack)


class EvaluationCost:
    """Books the time between asking and being answered, by forward; `used_s` reads the budget's clock.

    `wall`: on a wall clock the judge's own work between the answers is not the candidate's; on a CPU clock, which
    counts the candidate alone, what runs then is.
    """

    def __init__(self, used_s: Callable[[], float], budget_s: float, *, wall: bool) -> None:
        self._used_s, self._budget_s, self._wall = used_s, budget_s, wall
        self._booked_s = used_s()  # the clock's reading that everything is booked up to
        self._asked, self._in_forward = True, False
        self._forwards_s: list[float] = []
        self._other_s = 0.0

    def candidate_answered(self) -> None:
        """The candidate has done what it was asked, if it was."""
        if self._asked:
            spent_s = self._book()
            if self._in_forward:
                self._forwards_s[-1] += spent_s
            else:
                self._other_s += spent_s
            self._asked = False

    def candidate_asked(self, op: Op, *, begins_forward: bool) -> None:
        """A request goes out: from now on the time is the candidate's."""
        self._book_between()
        self._asked, self._in_forward = True, op in (Op.BATCH, Op.SLICE)
        if begins_forward:
            self._forwards_s.append(0.0)

    def charged_s(self) -> float:
        """What the budget is charged with, once the evaluation is over."""
        self._book_between()
        return charge_s(self._forwards_s, self._other_s, self._budget_s)

    def _book_between(self) -> None:
        """What has been used since the last answer, while the candidate was asked nothing."""
        spent_s = self._book()
        if not self._wall:
            self._other_s += spent_s

    def _book(self) -> float:
        before_s, self._booked_s = self._booked_s, self._used_s()
        return self._booked_s - before_s
