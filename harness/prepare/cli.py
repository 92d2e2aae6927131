"""`python -m harness.prepare`: arguments, exit codes, and one clear message for everything that can go wrong.

Exit codes: 0 prepared or verified, 1 failed, 2 wrong usage, 3 --verify found the cache wanting, 130 stopped by Ctrl-C.
stdout is data (nothing, or one JSON line), stderr is for people.
"""

from __future__ import annotations

import argparse
import errno
import json
import sys
from pathlib import Path

from harness.cache import Cache, CacheError, cache_directory, describe, open_cache, verify_cache
from harness.contract import Contract, ContractError, describe_references, load_contract
from harness.files import cache_root
from harness.prepare.build import discard_build, is_cache, prepare
from harness.prepare.stage import PrepareError, PrepareProgress, count

_DONE, _FAILED, _USAGE, _NO, _STOPPED = 0, 1, 2, 3, 130
# EFBIG: a file size limit (ulimit -f) is as much the end of the disk as a full one.
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code and never lets an exception through that a person can cause."""
    given = _parser().parse_args(argv)
    try:
        contract = load_contract(given.contract)
    except ContractError as error:
        return _complain(_USAGE, str(error), error.hint)
    if given.brought is not None and (problem := _wrong_folder(contract, given.brought)):
        return _complain(_USAGE, problem, "see: python -m harness.prepare --help")
    if given.calibrate and contract.budget.clock != "work":
        return _complain(_USAGE, f"--calibrate is for work clocks; {contract.name} has another", "")
    try:
        if given.verify:
            return _verify(contract, given.json)
        return _prepare(contract, given.brought, given.json, calibrate_anew=given.calibrate)
    except (PrepareError, CacheError) as error:
        return _complain(_FAILED, str(error), error.hint)
    except OSError as error:
        return _report_disk(contract, error)
    except KeyboardInterrupt:
        return _complain(_STOPPED, "stopped", "what is finished is kept; the same command goes on from there")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.prepare",
        description="Build the cache of a contract on this node. Interrupted, it goes on where it stopped.",
        epilog="exit codes: 0 done, 1 failed, 2 wrong usage, 3 --verify found the cache wanting, 130 stopped by Ctrl-C",
    )
    add = parser.add_argument
    add("--contract", required=True, metavar="C", help=describe_references())
    add("--from", dest="brought", type=Path, metavar="DIR", help="take shards, or another node's cache, from there")
    add("--calibrate", action="store_true", help="measure anew what a work clock counts in; refused on a busy machine")
    add("--verify", action="store_true", help="only check the cache that is there, reading all of it")
    add("--json", action="store_true", help="print one JSON object about the cache on stdout")
    return parser


def _wrong_folder(contract: Contract, brought: Path) -> str:
    if not brought.is_dir():
        return f"--from {brought}: no such folder"
    if contract.corpus.kind != "hub" and not is_cache(brought):
        return f"--from {brought} has no manifest.json, and {contract.name} needs no shards: bring a copy of a cache"
    return ""


def _prepare(contract: Contract, brought: Path | None, as_json: bool, *, calibrate_anew: bool) -> int:
    done = prepare(contract, brought, PrepareProgress(), calibrate_anew=calibrate_anew)
    cache, verb = done.cache, "prepared" if done.built else "already prepared:"
    tokens = count(cache.train_rows * contract.sequence_length), count(cache.val_rows * contract.sequence_length)
    summary = f"{verb} {contract.name} at {cache.directory}: {tokens[0]} training tokens, {tokens[1]} to validate on"
    return _report(summary, cache, as_json, built=done.built)


def _report(summary: str, cache: Cache, as_json: bool, *, built: bool) -> int:
    _print(f"{summary}, digest {cache.digest[:12]}")
    _print(f"made with {', '.join(f'{name} {version}' for name, version in cache.versions.items())}")
    if cache.contract.corpus.kind == "python":
        _print(
            "NOTE: candidates can read the text of this corpus, this Python's own sources:\n"
            "      scores under it can be forged by looking the text up"
        )
    if as_json:
        print(json.dumps(describe(cache) | {"built": built}))  # noqa: T201
    return _DONE


def _verify(contract: Contract, as_json: bool) -> int:
    progress = PrepareProgress()
    try:
        cache = open_cache(contract)
        with progress.stage(f"reading {cache.directory}"):
            verify_cache(cache, full=True)
    except CacheError as error:
        hint = f"remove {cache_directory(contract)}, then {error.hint}"
        return _complain(_NO, str(error), hint if cache_directory(contract).exists() else error.hint)
    return _report(f"whole: {cache.directory}", cache, as_json, built=False)


def _report_disk(contract: Contract, error: OSError) -> int:
    where = error.filename or cache_root()
    if error.errno not in _FULL_DISK:
        hint = "let this user write there, or set ARSCHED_CACHE to a folder where it may"
        return _complain(_FAILED, f"{where}: {error.strerror or error}", hint)
    discard_build(contract)
    return _complain(
        _FAILED,
        f"no space left in {cache_root()} ({error.strerror}); nothing half-made was left there",
        "free some space, or set ARSCHED_CACHE to a folder on another disk",
    )


def _complain(code: int, message: str, hint: str) -> int:
    _print(f"error: {message}")
    if hint:
        _print(f"hint: {hint}")
    return code


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
