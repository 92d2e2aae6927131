"""Plants one fault at a time in a copy of the code and runs the test suite on it: each must turn the suite red.

    python tests/mutants.py              # all of them; exit code 1 when one was not found
    python tests/mutants.py lease clock  # those whose subject has one of these words

The tests that should see a fault are run first; only when they do not, the whole suite is. Not covered: whether the
tests pass without a fault (make test), beyond those named here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = (".venv", "demo", "__pycache__", ".mypy_cache", ".ruff_cache", ".hypothesis", ".pytest_cache")


@dataclass(frozen=True)
class Fault:
    """`old`, which stands once in `file`, becomes `new`; `tests` should see it."""

    subject: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


FAULTS = (
    Fault(
        "a result counts without the lease",
        "scheduler/ledger/runs.py",
        "            if not self._end_attempt(ref, attempt, result.verdict.status, charge):\n",
        "            if not self._end_attempt(ref, attempt, result.verdict.status, charge) and attempt < 0:\n",
        ("tests/scheduler/test_ledger_runs.py",),
    ),
    Fault(
        "a run is leased twice",
        "scheduler/ledger/db.py",
        'return self.update(table, "number = ? AND state = ?", number, from_,',
        "return self.update(table, \"number = ? AND ? != ''\", number, from_,",
        ("tests/scheduler/test_ledger_runs.py", "tests/scheduler/test_ledger_processes.py"),
    ),
    Fault(
        "P is rounded",
        "scheduler/domain/text.py",
        "from decimal import ROUND_FLOOR, Decimal",
        "from decimal import ROUND_HALF_UP as ROUND_FLOOR, Decimal",
        ("tests/scheduler/test_views_screens.py", "tests/scheduler/test_brief.py"),
    ),
    Fault(
        "a slot takes what a living one of another name runs",
        "scheduler/node/supervisor.py",
        "        return not self._spools.is_present(spool.slot_id)\n",
        "        return True\n",
        ("tests/scheduler/test_node_restart.py",),
    ),
    Fault(
        "what a node's slots left under another name is found by none",
        "scheduler/node/supervisor.py",
        "        return not self._spools.is_present(spool.slot_id)\n",
        "        return False\n",
        ("tests/scheduler/test_node_restart.py",),
    ),
    Fault(
        "ids are sorted as text",
        "scheduler/domain/text.py",
        "return letters, int(ref[len(letters) :] or 0)",
        "return ref, 0",
        ("tests/scheduler/test_policy_displaced.py", "tests/scheduler/test_views_verbs.py"),
    ),
    Fault(
        "logits are scored where the candidate can still change them",
        "harness/judge/exchange_host.py",
        "        return log_probabilities(self._private, ids)",
        "        return log_probabilities(shared, ids)",
        ("tests/harness/test_judge_evaluation.py",),
    ),
    Fault(
        "the buffer of logits is not poisoned",
        "harness/judge/exchange_host.py",
        "        self._logits.fill(np.nan)",
        "        pass",
        ("tests/harness/test_judge_evaluation.py",),
    ),
    Fault(
        "the slot's lock is not taken",
        "harness/judge/run.py",
        "fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(lock_fd, fcntl.LOCK_UN)",
        ("tests/harness/test_judge_endings.py",),
    ),
    Fault(
        "two schedulers run one queue",
        "scheduler/queue/runtime.py",
        "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        ("tests/scheduler/test_app_processes.py", "tests/scheduler/test_app_lost.py"),
    ),
    Fault(
        "who deletes a lock's file opens it to others",
        "scheduler/queue/runtime.py",
        "self._with_folder and not self._take_folder()",
        "False",
        ("tests/scheduler/test_app_lost.py",),
    ),
    Fault(
        "nothing is saved of a ledger that goes",
        "scheduler/ledger/db.py",
        "copy_database(self._connection, folder / name, database_id)",
        "pass",
        ("tests/scheduler/test_app_lost.py",),
    ),
    Fault(
        "training past the budget is scored",
        "harness/judge/clock.py",
        "return used_s <= self._budget.seconds",
        "return True",
        ("tests/harness/test_judge_clock.py", "tests/harness/test_judge_hostile.py"),
    ),
    Fault(
        "a result is believed without the judge's digest",
        "scheduler/domain/slot.py",
        '    if result is None or digest_line != f"{hashlib.sha256(result).hexdigest()} {nonce}\\n".encode():',
        "    if result is None:",
        ("tests/scheduler/test_acceptance.py",),
    ),
    Fault(
        "a result counts without its attempt's nonce",
        "scheduler/domain/slot.py",
        'return bool(nonce) and isinstance(raw, dict) and raw.get("nonce") == nonce',
        "return isinstance(raw, dict)",
        ("tests/scheduler/test_acceptance.py", "tests/scheduler/test_app_attempts.py"),
    ),
    Fault(
        "clones count as repeats",
        "scheduler/domain/candidate.py",
        "if abs(scores[group[0]] - score) <= CLONE_BPB",
        "if abs(scores[group[0]] - score) < 0",
        ("tests/scheduler/test_policy_clones.py",),
    ),
    Fault(
        "git runs the filters of a repository",
        "scheduler/git/commits.py",
        '["git", *OPTIONS, *off, *arguments]',
        '["git", *OPTIONS, *arguments]',
        ("tests/scheduler/test_git_nothing_else.py",),
    ),
    Fault(
        "bytecode next to the sources is run",
        "scheduler/node/code.py",
        '"-X", f"pycache_prefix={bytecode_folder(cache_root())}", ',
        "",
        ("tests/scheduler/test_node_code.py",),
    ),
    Fault(
        "a file appears before it is whole",
        "harness/files.py",
        "                os.fsync(file.fileno())\n        temporary.replace(path)",
        "                os.fsync(file.fileno())\n        path.write_bytes(temporary.read_bytes())",
        ("tests/harness/test_files.py",),
    ),
    Fault(
        "a first run promotes as if it were a repeat",
        "scheduler/policy/gates.py",
        "return gates.promote_now if n == 1 else",
        "return gates.promote if n == 1 else",
        ("tests/scheduler/test_policy_gates.py",),
    ),
    Fault(
        "the last position before a perturbation is not probed",
        "harness/judge/probes.py",
        "(np.maximum(readings.sketches[number][:cut], _FLOOR) for number in (source, cell))",
        "(np.maximum(readings.sketches[number][: cut - 1], _FLOOR) for number in (source, cell))",
        ("tests/harness/test_probes.py",),
    ),
    Fault(
        "decoys decide nothing",
        "harness/judge/probes.py",
        "return max(probes.decoy_sign_z, probes.decoy_sum_z, probes.decoy_tail_z) > DECOY_Z",
        "return False",
        ("tests/harness/test_probes.py",),
    ),
    Fault(
        "the trend decides nothing",
        "harness/judge/probes.py",
        "    if probes.trend_z < -TREND_Z:",
        "    if probes.trend_z < -math.inf:",
        ("tests/harness/test_probes.py",),
    ),
    Fault(
        "the snapshot is taken after the next request",
        "harness/judge/evaluation.py",
        "        if not waits:",
        "        if not current.last:",
        ("tests/harness/test_judge_evaluation.py",),
    ),
    Fault(
        "a result is believed that nothing came through the pipe for",
        "scheduler/domain/slot.py",
        """    if not digest_line:
        return "the judge ended without a result" if result is None else "the judge did not vouch for its result"
    if result is None or digest_line""",
        """    if result is None or digest_line and digest_line""",
        ("tests/scheduler/test_acceptance.py", "tests/scheduler/test_node_forgery.py"),
    ),
    Fault(
        "the sandbox is silently not applied",
        "harness/shim.py",
        """        reached = enter(confinement)
        self_test(confinement)
""",
        """        reached = f"{confinement.level}: as asked for"
""",
        ("tests/hostile/test_hostile.py",),
    ),
    Fault(
        "the clock is not read at the end of an evaluation",
        "harness/judge/protocol_session.py",
        "self.evaluation_charged_s = self._cost.charged_s()",
        "self.evaluation_charged_s = 0.0",
        ("tests/hostile/test_hostile.py",),
    ),
    Fault(
        "validation rows are not compared with the manifest",
        "harness/judge/data.py",
        "if hashlib.sha256(content).hexdigest() != cache.files[path.relative_to(cache.directory).as_posix()].sha256:",
        "if not content:",
        ("tests/harness/test_judge_data.py",),
    ),
    Fault(
        "the holdout decides nothing",
        "harness/judge/probes.py",
        "if probes.holdout_gap_nats > GAP_NATS and probes.holdout_gap_z > GAP_Z:",
        "if probes.holdout_gap_nats > math.inf:",
        ("tests/harness/test_probes.py",),
    ),
    Fault(
        "a promotion waits for siblings however long they take",
        "scheduler/policy/siblings.py",
        "    if not measured <= now < bound:\n",
        "    if not measured <= now:\n",
        ("tests/scheduler/test_policy_siblings.py",),
    ),
    Fault(
        "runs begin while a promotion waits",
        "scheduler/queue/place.py",
        "        if is_holding(board):\n",
        "        if is_holding(board) and not queued:\n",
        ("tests/scheduler/test_app_siblings.py",),
    ),
    Fault(
        "nodes drift together",
        "scheduler/policy/occasions.py",
        "near * (node[:, None] == node)",
        "near * (node[:, None] == node[0])",
        ("tests/scheduler/test_policy_drift.py",),
    ),
    Fault(
        "a drifting machine is believed to be steady",
        "scheduler/policy/drift.py",
        "is_steady = p_steady >= STEADY",
        "is_steady = p_steady >= 0",
        ("tests/scheduler/test_policy_drift.py",),
    ),
    Fault(
        "a machine in doubt counts as one that drifts",
        "scheduler/policy/drift.py",
        "if noise.p_unsteady >= 1 or not (noise.drift or noise.offset):",
        "if True:",
        ("tests/scheduler/test_policy_doubt.py",),
    ),
    Fault(
        "a baseline that has stepped leaves the drift as unlikely as before",
        "scheduler/policy/drift.py",
        "1 - min(p_steady, float(prior[steady].sum())) if has_stepped else 1 - p_steady",
        "1 - p_steady",
        ("tests/scheduler/test_policy_steps.py",),
    ),
    Fault(
        "more slots have no more first scores looked at",
        "scheduler/policy/population.py",
        "min(MOST_FIRSTS, FIRSTS_PER_SLOT * slots)",
        "min(MOST_FIRSTS, FIRSTS_PER_SLOT * LEAST_SLOTS)",
        ("tests/scheduler/test_policy_population.py",),
    ),
    Fault(
        "a baseline whose later runs are better leaves the machine steady",
        "scheduler/policy/stats.py",
        "if not (noise.drift or noise.offset) and later_is_better(lab.baseline, noise):",
        "if False:",
        ("tests/scheduler/test_policy_steps.py",),
    ),
    Fault(
        "a promotion waits for no control on a machine that seems steady",
        "scheduler/policy/controls.py",
        "not (how or lab.gates.control_share * lab.trials_on_baseline >= 1)",
        "not how",
        ("tests/scheduler/test_policy_controls.py",),
    ),
    Fault(
        "a promotion takes no control in advance of the share",
        "scheduler/policy/controls.py",
        "left = _controls_left(lab, wanted) + bool(how)",
        "left = _controls_left(lab, wanted)",
        ("tests/scheduler/test_policy_controls.py",),
    ),
    Fault(
        "slots that differ ask no more of repeats",
        "scheduler/policy/gates.py",
        "return max(bar, gates.promote_now) if slots_differ(noise) else bar",
        "return bar",
        ("tests/scheduler/test_policy_gates_drift.py",),
    ),
    Fault(
        "a drift is looked for as if it were rough",
        "scheduler/policy/drift.py",
        "z, parts = residuals(groups, scale_s, smooth=True)",
        "z, parts = residuals(groups, scale_s, smooth=False)",
        ("tests/scheduler/test_policy_drift.py",),
    ),
    Fault(
        "controls know no share",
        "scheduler/policy/controls.py",
        "return int(lab.gates.control_share * lab.trials_on_baseline) - _controls_bought(lab, wanted)",
        "return int(lab.gates.control_share * lab.trials_on_baseline) + 9",
        ("tests/scheduler/test_policy_controls.py",),
    ),
    Fault(
        "a drifting machine asks no more of a promotion",
        "scheduler/policy/gates.py",
        "    if may_drift(noise) or machines_differ(candidate, base):\n        return max(bar, gates.drift_promote)",
        "    if machines_differ(candidate, base):\n        return max(bar, gates.drift_promote)",
        ("tests/scheduler/test_policy_gates_drift.py",),
    ),
    Fault(
        "a drift that scores have shown asks no more than one that may be",
        "scheduler/policy/gates.py",
        "if has_drifted(noise):",
        "if has_drifted(noise) and not noise.drift:",
        ("tests/scheduler/test_policy_gates_drift.py",),
    ),
    Fault(
        "a bar that drift raised has to be passed in the usual runs",
        "scheduler/policy/gates.py",
        "if _is_spent(candidate, gates, more_runs):",
        "if _is_spent(candidate, gates):",
        ("tests/scheduler/test_policy_gates_drift.py",),
    ),
    Fault(
        "one made from an older baseline passes the usual bar on a machine that drifts",
        "scheduler/policy/gates.py",
        "bar = max(gates.promote_now, promotion_bar(candidate, base, noise, gates))",
        "bar = gates.promote_now",
        ("tests/scheduler/test_policy_gates_drift.py",),
    ),
    Fault(
        "runs beyond the usual have no control next to them",
        "scheduler/policy/controls.py",
        "return beyond and (may_drift(noise) or machines_differ(stats, base))",
        "return False",
        ("tests/scheduler/test_policy_controls.py",),
    ),
    Fault(
        "runs beyond the usual have seeds that no baseline has",
        "scheduler/ledger/decisions.py",
        "within = board.gates.max_runs if board.noise_prior_seed_bpb else 0",
        "within = 0",
        ("tests/scheduler/test_ledger_decisions.py",),
    ),
    Fault(
        "runs of a quiet and a busy machine are compared at the usual bars",
        "scheduler/policy/gates.py",
        "    if may_drift(noise) or machines_differ(candidate, base):\n        return max(bar, gates.drift_promote)",
        "    if may_drift(noise):\n        return max(bar, gates.drift_promote)",
        ("tests/scheduler/test_policy_gates_drift.py",),
    ),
    Fault(
        "what a busy core adds stays in comparisons",
        "scheduler/policy/drift.py",
        "added += noise.busy.added_bpb * busyness(occasions, noise.busy.alone_s)",
        "pass",
        ("tests/scheduler/test_policy_busy_core.py",),
    ),
    Fault(
        "a candidate is better for having idled",
        "scheduler/policy/drift.py",
        "diff = max(diff, _least_squares(*runs,",
        "diff = min(diff, _least_squares(*runs,",
        ("tests/scheduler/test_policy_busy_core.py",),
    ),
    Fault(
        "a busy core is looked for under clocks that a candidate may idle on",
        "scheduler/policy/occasions.py",
        "return occasion.train_s * occasion.speed if occasion.train_s and occasion.speed else None",
        "return occasion.train_s * (occasion.speed or 1.0) if occasion.train_s else None",
        ("tests/scheduler/test_policy_busy_core.py",),
    ),
    Fault(
        "a claim begins with one slot",
        "scheduler/policy/dispatch.py",
        "if known and not busy and not known & set(free):",
        "if not busy and not known & set(free):",
        ("tests/scheduler/test_policy_dispatch.py",),
    ),
    Fault(
        "a suspect score's occasion stays behind",
        "scheduler/policy/stats.py",
        "tuple(candidate.occasions[i] for i in order)",
        "candidate.occasions[candidate.suspect_scores :]",
        ("tests/scheduler/test_policy_drift.py",),
    ),
)


def main(words: list[str]) -> int:
    chosen = [fault for fault in FAULTS if not words or any(word in fault.subject for word in words)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        if not passes(copy, *sorted({test for fault in chosen for test in fault.tests})):
            print("the tests named here fail without any fault; nothing can be said")
            return 1
        missed = [fault for fault in chosen if not is_found(copy, fault)]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} faults found")
    return 1 if missed or not chosen else 0


def is_found(copy: Path, fault: Fault) -> bool:
    """Plant the fault, run the tests, take it out again."""
    path = copy / fault.file
    source = path.read_text(encoding="utf-8")
    if source.count(fault.old) != 1:
        print(f"NO PLACE  {fault.subject}: {fault.file} has {source.count(fault.old)} places that read {fault.old!r}")
        return False
    path.write_text(source.replace(fault.old, fault.new), encoding="utf-8")
    began = time.monotonic()
    where = "its tests" if not passes(copy, *fault.tests) else "the suite" if not passes(copy) else ""
    path.write_text(source, encoding="utf-8")
    verdict, seconds = "found" if where else "NOT FOUND", time.monotonic() - began
    print(f"{verdict}  {fault.subject}  {where}  {seconds:.0f} s", flush=True)
    return bool(where)


def passes(copy: Path, *tests: str) -> bool:
    """Whether these tests, or all of the fast suite, pass. A suite that could not run has not passed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    workers = [] if tests else ["-n", "logical", "--maxprocesses", "8", "--dist", "loadgroup"]
    environ = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*command, *workers], cwd=copy, env=environ, stdout=subprocess.DEVNULL).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
