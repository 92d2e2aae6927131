"""One run from launch to result.json: the judge's table of contents.

Covers: lock, cache, scratch, launch, watch, ending whatever the candidate spawned, and the result, which is written last
whatever happened before. Not covered: each of those steps (their modules), and reading the command line.
"""

from __future__ import annotations

import sys

from harness.cache import Cache, CacheError, open_cache
from harness.containment import Containment
from harness.judge.clock import BudgetClock
from harness.judge.conversation import Conversation
from harness.judge.facts import kernel_memory_kills
from harness.judge.infra import Infra, claim_output, hold_lock
from harness.judge.interrupt import Interrupt
from harness.judge.launch import Candidate, launch
from harness.judge.logpump import LogPump
from harness.judge.offers import Offers, offers_for
from harness.judge.order import Order
from harness.judge.progress import PROGRESS_NAME, Progress
from harness.judge.report import LOG_NAME, Record
from harness.judge.result import write_result
from harness.judge.scratch import Scratch
from harness.judge.verdict import Verdict, of_exit
from harness.judge.watch import Watch
from harness.processes import TreeClock, kill_descendants


def hold_court(order: Order, containment: Containment) -> int:
    """Run the candidate, write result.json, say the verdict on standard error; returns the exit code."""
    interrupt = Interrupt()
    record = Record(order, containment)
    try:
        with claim_output(order.out), hold_lock(order.lock, interrupt) as lock_fd:
            verdict = _judge(order, record, interrupt, lock_fd, own_namespace=containment == "namespace")
            write_result(order.out, record.result(verdict))
    except Infra as failure:
        verdict = failure.verdict
        if failure.reportable:
            write_result(order.out, record.result(verdict))
    sys.stderr.write(_sentence(record, verdict) + "\n")
    return verdict.exit_code


def _judge(order: Order, record: Record, interrupt: Interrupt, lock_fd: int | None, *, own_namespace: bool) -> Verdict:
    cache = record.cache = _open_cache(order)
    scratch = Scratch.make(order.out, order.contract, record.train_py)
    try:
        with offers_for(order, cache) as offers:
            kills_before = kernel_memory_kills()
            candidate = launch(order, cache, scratch, lock_fd)
            log = LogPump(candidate.log_fd, order.out / LOG_NAME, int(order.contract.limits.log_mb * 2**20))
            verdict = _watch(order, record, interrupt, candidate, log, offers, own_namespace=own_namespace)
    finally:
        scratch.remove()
    if verdict is not None:
        return verdict
    killed_for_memory = kernel_memory_kills() > kills_before
    return of_exit(candidate.exit_code or 0, log.tail_text(), kernel_killed_for_memory=killed_for_memory)


def _watch(
    order: Order,
    record: Record,
    interrupt: Interrupt,
    candidate: Candidate,
    log: LogPump,
    offers: Offers,
    *,
    own_namespace: bool,
) -> Verdict | None:
    """Watch the candidate until a verdict falls, then end it and all it spawned; None when it ended unscored by itself."""
    assert record.cache is not None
    tree = TreeClock(candidate.pid)
    clock = BudgetClock(order.contract.budget, tree)
    conversation = Conversation(order, record.cache, candidate.socket, clock, offers)
    progress = Progress(order.out / PROGRESS_NAME, order.contract.budget.seconds)
    watch = Watch(order.contract, candidate, conversation, clock, tree, log, progress, interrupt)
    try:
        return watch.until_verdict()
    finally:
        conversation.stop_clock()
        candidate.kill()
        all_dead = kill_descendants(watch.on_reaped, own_namespace=own_namespace)
        progress.end_line()
        log.finish()
        conversation.close()
        record.take(candidate, conversation, log)
        if not all_dead:
            raise Infra("kill", "a process of this run would not die of SIGKILL")


def _open_cache(order: Order) -> Cache:
    try:
        cache = open_cache(order.contract)
    except CacheError as error:
        raise Infra("cache", f"{error} ({hint})" if (hint := getattr(error, "hint", "")) else str(error)) from error
    if order.expect_cache not in (None, cache.digest):
        raise Infra("cache", f"the prepared cache here is {cache.digest[:12]}, expected {str(order.expect_cache)[:12]}")
    return cache


def _sentence(record: Record, verdict: Verdict) -> str:
    score = record.score
    figure = f"  val_bpb {score.val_bpb:.6f}" if score is not None and verdict.scored else ""
    return f"{verdict.status}{figure}" + (f"  {verdict.reason}" if verdict.reason else "")
