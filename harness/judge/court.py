"""One run from launch to result.json: the judge's table of contents.

Covers: output directory, lock, cache, scratch, launch, hearing, end, and the result, which is written last whatever
happened before. Not covered: each of those steps (their modules), and reading the command line.
"""

from __future__ import annotations

import errno
import sys

from harness.cache import Cache, CacheError, open_cache
from harness.containment import Containment
from harness.judge.compile_caches import keep_caches, seed_caches
from harness.judge.hearing import Hearing
from harness.judge.infra import Infra, hold_lock
from harness.judge.interrupt import Interrupt
from harness.judge.launch import launch
from harness.judge.order import Order
from harness.judge.output import Output, claim_output, send_digest
from harness.judge.report import Record
from harness.judge.scratch import Scratch
from harness.judge.verdict import Verdict, after_settling

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def hold_court(order: Order, containment: Containment) -> int:
    """Run the candidate, write result.json, say the verdict on standard error; returns the exit code."""
    interrupt = Interrupt(containment)
    record = Record(order, containment)
    try:
        with claim_output(order.out) as output:
            verdict = after_settling(_judge(order, record, interrupt, output), output.settle())
            text = record.result(verdict).to_json()
            output.put_result(text)
            if order.digest_fd is not None:
                send_digest(order.digest_fd, text)
    except Infra as failure:  # the output directory is not ours to write to
        verdict = failure.verdict
    except OSError as error:
        verdict = Verdict("infra: output", f"cannot write the result: {error}")
    sys.stderr.write(_sentence(record, verdict) + "\n")
    return verdict.exit_code


def _judge(order: Order, record: Record, interrupt: Interrupt, output: Output) -> Verdict:
    try:
        with hold_lock(order.lock, interrupt) as lock_fd:
            record.cache = _open_cache(order)
            return _hear(order, record.cache, record, interrupt, output, lock_fd)
    except Infra as failure:
        return failure.verdict
    except OSError as error:
        return Verdict("infra: disk" if error.errno in _DISK_FULL else "infra: judge", str(error))
    except Exception as error:  # a fault of the judge's must not pass for one of the candidate's, nor go unrecorded
        return Verdict("infra: judge", f"{type(error).__name__}: {error}")


def _hear(
    order: Order, cache: Cache, record: Record, interrupt: Interrupt, output: Output, lock_fd: int | None
) -> Verdict:
    own_namespace = record.containment == "namespace"
    scratch = Scratch.make(order.out, order.contract, record.train_py)
    try:
        record.seeded = seed_caches(order.seed_caches, scratch.caches)
        candidate = launch(order, cache, scratch, lock_fd)
        try:
            with Hearing(order, cache, candidate, output, interrupt, own_namespace=own_namespace) as hearing:
                verdict = hearing.watch()
            record.take(hearing)
        finally:
            all_dead = candidate.end(own_namespace=own_namespace)
        if all_dead and verdict.status == "ok":
            keep_caches(scratch.caches, order.keep_caches)
    finally:
        scratch.remove()
    if not all_dead:
        raise Infra("kill", "a process of this run would not die of SIGKILL")
    return verdict


def _open_cache(order: Order) -> Cache:
    try:
        cache = open_cache(order.contract)
    except CacheError as error:
        raise Infra("cache", f"{error} ({error.hint})" if error.hint else str(error)) from error
    if order.expect_cache not in (None, cache.digest):
        raise Infra("cache", f"the prepared cache here is {cache.digest[:12]}, expected {str(order.expect_cache)[:12]}")
    return cache


def _sentence(record: Record, verdict: Verdict) -> str:
    score = record.score
    figure = f"  val_bpb {score.val_bpb:.6f}" if score is not None and verdict.scored else ""
    return f"{verdict.status}{figure}" + (f"  {verdict.reason}" if verdict.reason else "")
