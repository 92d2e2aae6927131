"""A judge for candidates that set in Python what comes of them: SCORE, STATUS, TAKES_S (wall seconds), GATE (a path).

Obeys the real judge's command line, locks and files, like fake_judge.py, whose program it is. Standard library only.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import sys
import time

from fake_judge import FakeJudge, answer_question, parse  # type: ignore[import-not-found]


class SourceJudge(FakeJudge):  # type: ignore[misc]
    def run(self) -> int:
        with self.arguments.lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            source = self.arguments.train.read_bytes()
            settings = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(source).body}
            self.report_progress(1)
            time.sleep(settings.get("TAKES_S", 0.05))
            if "GATE" in settings:
                self.do_wait(settings["GATE"])
            return int(self.finish(json.dumps(self.judge(settings, source))))

    def judge(self, settings: dict[str, object], source: bytes) -> dict[str, object]:
        digests = {"train_py": hashlib.sha256(source).hexdigest(), "cache": self.arguments.expect_cache}
        score = settings.get("SCORE")
        if isinstance(score, float):  # repeats that agree to the last digit would be clones
            score += self.arguments.seed * 1e-8
        return {
            "format": 1, "status": settings.get("STATUS", "ok"), "reason": "", "val_bpb": score,
            "seed": self.arguments.seed, "digests": digests, "wall_s": 0.1,
        }  # fmt: skip


if __name__ == "__main__":
    sys.exit(answer_question() if sys.argv[1:2] in (["cache"], ["sandbox"]) else SourceJudge(parse()).run())
