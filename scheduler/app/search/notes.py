"""What an ask says of the lab: NOTES.md as text, written anew when the ledger has changed."""

from __future__ import annotations

from scheduler.app.views.plain import one_line
from scheduler.app.workspace import Workspace
from scheduler.policy.noise import board_noise

LAST_DECISIONS = 40


class Notes:
    """Call it with the number of the ask."""

    def __init__(self, space: Workspace) -> None:
        self._space = space
        self._stamp: object = None
        self._text = ""

    def __call__(self, ask_number: int) -> str:
        stamp = self._space.ledger.stamp()
        if stamp != self._stamp:
            self._stamp, self._text = stamp, self._write()
        return self._text

    def _write(self) -> str:
        ledger, tag = self._space.ledger, self._space.tag
        board = ledger.board(tag)
        base, sigma = board.baseline, board_noise(board).sigma
        score = f"{base.mean:.4f} over {base.n} runs" if base.n else "not measured yet"
        decided = [one_line(record.sentence) for record in ledger.decisions.history(tag)[-LAST_DECISIONS:]]
        lines = [
            "# Your task",
            "Change train.py in this folder, once, so that its val_bpb gets lower; change nothing else; then end.",
            "Leave IDEA.json beside it if you can: title, hypothesis, theme, parents.",
            "",
            "# The lab",
            f"baseline {base.candidate_id}: val_bpb {score}; noise of a run: {sigma:.5f} bpb",
            "",
            "# What was decided lately",
            *(f"- {sentence}" for sentence in decided),
        ]
        return "\n".join(lines) + "\n"
