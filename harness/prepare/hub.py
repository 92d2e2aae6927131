"""What a node fetches from the hub before any run: shards of a data set, and the attention kernel for its GPUs.

Covers: shards in a folder that a person brought, in our own store or in upstream's cache folder (files are used where
they lie, never copied), removing the scored ones; downloading what is missing, several at once, by the hub's client
(HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, proxies); Flash Attention 3 through `kernels`
(https://huggingface.co/docs/kernels) for the torch that is installed. Without the kernel runs are slower, so failing
there is a note and no error. Not covered: choosing and loading a kernel (harness.attention).
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cache import FA3_REPOSITORY, FA3_VERSION, KERNEL_NOTE_NAME, kernel_directory, sha256_of
from harness.contract import Corpus
from harness.files import PARTIAL_SUFFIX, cache_root, home_folder, remove_tree, whole_folder, write_atomic
from harness.gpu_record import torch_version
from harness.prepare.corpus import Shard, Split, readable
from harness.prepare.stage import PrepareError, PrepareProgress, held, interruptible, run_in_threads, size

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

_AT_A_TIME = 4
_UPSTREAM_REPOSITORY = "karpathy/climbmix-400b-shuffle"
BROUGHT_KERNEL = "kernel"
_DENIED = "access denied; a token is read from HF_TOKEN or `hf auth login`"
_FINAL = {401: _DENIED, 403: _DENIED, 404: "not found", 410: "gone", 451: "withheld"}
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to give up on a file: after `attempts` in a row that brought nothing new, or `rejects` wrong files.

    A transfer has failed when nothing comes for `silence_s`, or less than `crawl_bytes_per_s` for longer than that.
    """

    attempts: int = 5
    rejects: int = 3
    connect_s: float = 10.0
    silence_s: float = 30.0
    crawl_bytes_per_s: float = 1000.0
    pause_s: float = 1.0
    longest_pause_s: float = 60.0


POLICY = RetryPolicy()


def hub_shards(corpus: Corpus, brought: Path | None, progress: PrepareProgress) -> tuple[Shard, ...]:
    """Every shard of the corpus, training ones first and in order; the caller holds the store.

    Raises PrepareError naming what is missing.
    """
    store, splits = _store(corpus), _splits(corpus)
    places = [place for place in (brought, store, _upstream_folder(corpus)) if place is not None]
    found = {number: path for number in splits if (path := _find(number, places, progress))}
    missing = [number for number in splits if number not in found]
    if missing:
        with progress.stage(f"downloading {len(missing)} of {len(splits)} shards"):
            _Downloads(corpus.root, [shard_file(number) for number in missing], store, progress).run()
        found |= {number: store / shard_file(number) for number in missing}
    return tuple(Shard(found[number].stem, split, found[number]) for number, split in splits.items())


@contextmanager
def held_store(corpus: Corpus, progress: PrepareProgress) -> Iterator[None]:
    """Keep other preparations from adding and removing shards; nothing to hold for a corpus that is not the hub's."""
    with held(_store(corpus) / ".lock", progress) if corpus.kind == "hub" else nullcontext():
        yield


def remove_scored_shards(corpus: Corpus, brought: Path | None, progress: PrepareProgress) -> None:
    """Remove the validation and holdout shards from our store; a note where a person keeps them, which stay."""
    names = [shard_file(number) for number, split in _splits(corpus).items() if split != "train"]
    with held_store(corpus, progress):
        for name in names:
            (_store(corpus) / name).unlink(missing_ok=True)
    for place in (brought, _upstream_folder(corpus)):
        if place is not None and (there := [name for name in names if (place / name).is_file()]):
            progress.print(
                f"NOTE: the text that runs are scored on stays readable in {place}: {', '.join(there)}\n"
                "      remove it there, or see to it that candidates cannot open that folder"
            )


def _store(corpus: Corpus) -> Path:
    return cache_root() / "shards" / corpus.root.replace("/", "--")


def _upstream_folder(corpus: Corpus) -> Path | None:
    home = home_folder()
    return home / ".cache" / "autoresearch" / "data" if home and corpus.root == _UPSTREAM_REPOSITORY else None


def shard_file(number: int) -> str:
    """Name of a shard's file on the hub."""
    return f"shard_{number:05d}.parquet"


def _splits(corpus: Corpus) -> dict[int, Split]:
    """Split of every shard's number, training ones first."""
    splits: dict[int, Split] = dict.fromkeys(range(corpus.train_shards), "train")
    apart: tuple[tuple[int | None, Split], ...] = ((corpus.val_shard, "val"), (corpus.holdout_shard, "holdout"))
    return splits | {number: split for number, split in apart if number is not None}


def _find(number: int, places: list[Path], progress: PrepareProgress) -> Path | None:
    for place in places:
        path = place / shard_file(number)
        if path.is_file():
            if readable(path):
                return path.resolve()
            progress.print(f"passing over {path}: not a whole parquet file with a column `text`")
    return None


class _Downloads:
    """Downloads into the store; what has arrived is kept for the next call, whatever happens to the others."""

    def __init__(self, repository: str, names: list[str], store: Path, progress: PrepareProgress) -> None:
        self._repository, self._names, self._store, self._progress = repository, names, store, progress
        self._began = time.monotonic()
        self._stop = threading.Event()
        # Written by the threads, one key each.
        self._arrived: dict[str, int] = {}
        self._done: set[str] = set()
        self._failed: dict[str, str] = {}

    def run(self) -> None:
        """Raises PrepareError when any file is still missing; a full disk raises OSError and leaves no part of one."""
        try:
            run_in_threads([partial(self._one, name) for name in self._names], _AT_A_TIME, self._stop)
        except OSError:
            for part in self._store.glob(f"*{PARTIAL_SUFFIX}*"):
                part.unlink(missing_ok=True)
            raise
        if self._failed:
            name, reason = sorted(self._failed.items())[0]
            missing = ", ".join(name for name in self._names if name not in self._done)
            page = _url(self._repository, "").removesuffix("/resolve/main/")
            raise PrepareError(
                f"cannot download {_url(self._repository, name)}: {reason}",
                "run it again to go on where it stopped, or bring the missing files by hand: put them into a folder "
                f"and add --from FOLDER. They are at {page}: {missing}",
            )

    def _one(self, name: str) -> None:
        if self._failed:  # what one file could not get, the next one will not get either
            return
        try:
            Download(_url(self._repository, name), self._store / name, partial(self._show, name), self._stop).run()
            self._done.add(name)
        except DownloadFailed as failure:
            self._failed[name] = str(failure)

    def _show(self, name: str, arrived: int, trouble: str) -> None:
        self._arrived[name] = arrived
        total = sum(list(self._arrived.values()))
        speed = total / max(0.1, time.monotonic() - self._began)
        state = f"{len(self._done)} of {len(self._names)} files, {size(total)}, {size(speed)}/s"
        self._progress.show(f"{state}; {name}: {trouble}" if trouble else state)


def _url(repository: str, name: str) -> str:
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return f"{endpoint.rstrip('/')}/datasets/{repository}/resolve/main/{name}"


class DownloadFailed(Exception):
    """Given up on a file; the message has the reason in a few words."""


class _Trouble(Exception):
    """This attempt failed, another may not. `pause_s`: what the server asked for; `rejected`: a wrong file arrived."""

    def __init__(self, reason: str, pause_s: float = 0.0, *, rejected: bool = False) -> None:
        super().__init__(reason)
        self.pause_s, self.rejected = pause_s, rejected


class Download:
    """One shard on its way from `url` to `target`, where it appears whole or not at all.

    What has arrived waits under a partial name, also for a later process, and is gone on with if the hub names the
    file's sha256: only then would a mixture of two files be noticed. `report(arrived bytes, trouble)` is called as
    bytes arrive (trouble "") and before each retry (trouble: the reason).
    """

    def __init__(self, url: str, target: Path, report: Callable[[int, str], None], stop: threading.Event) -> None:
        self._url, self._target, self._report, self._stop = url, target, report, stop
        self._part = target.with_name(target.name + PARTIAL_SUFFIX)

    def run(self) -> None:
        """Return when `target` is there. Raises DownloadFailed, and OSError when the disk refuses."""
        fruitless = rejects = most_bytes = 0
        while not self._stop.is_set():
            try:
                self._attempt()
                return
            except _Trouble as trouble:
                arrived = self._arrived_bytes()
                fruitless = 0 if arrived > most_bytes else fruitless + 1
                most_bytes = max(most_bytes, arrived)
                rejects += trouble.rejected
                if fruitless >= POLICY.attempts or rejects >= POLICY.rejects:
                    raise DownloadFailed(str(trouble)) from None
                grown_s = POLICY.pause_s * 2 ** max(0, fruitless - 1) * random.uniform(0.8, 1.2)
                pause_s = min(max(grown_s, trouble.pause_s), POLICY.longest_pause_s)
                self._report(arrived, f"{trouble}; trying again in {pause_s:.0f} s")
                self._stop.wait(pause_s)
        raise DownloadFailed("stopped")

    def _arrived_bytes(self) -> int:
        return self._part.stat().st_size if self._part.is_file() else 0

    def _attempt(self) -> None:
        _set_up_hub()
        from huggingface_hub import get_hf_file_metadata

        try:
            promised = get_hf_file_metadata(self._url, timeout=POLICY.silence_s, library_name="arsched")
            self._receive(promised)
        except _Trouble:
            raise
        except Exception as error:  # the hub's errors, and those of the HTTP library of its version
            if isinstance(error, OSError) and error.errno is not None:  # the disk's
                raise
            raise _explained(error) from None
        self._check(promised)
        self._part.replace(self._target)

    def _receive(self, promised: HfFileMetadata) -> None:
        """Append what is missing to the partial file."""
        from huggingface_hub import get_session, hf_raise_for_status
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        arrived = self._arrived_bytes() if _sha256(promised) else 0
        if promised.size is not None and arrived >= promised.size:  # all of it, or another file's: see _check
            return
        headers = build_hf_headers(library_name="arsched") | {"accept-encoding": "identity"}
        if arrived:
            headers["range"] = f"bytes={arrived}-"
        limits = (POLICY.connect_s, POLICY.silence_s, POLICY.silence_s, POLICY.connect_s)
        self._part.parent.mkdir(parents=True, exist_ok=True)
        with (
            get_session().stream("GET", self._url, headers=headers, timeout=limits) as response,
            self._part.open("ab", buffering=0) as part,
        ):
            if response.status_code in (200, 416):  # it serves from the first byte, or cannot go on from here
                part.truncate(0)
                arrived = 0
            hf_raise_for_status(response)
            began, received = time.monotonic(), 0
            for chunk in response.iter_bytes():
                if self._stop.is_set():
                    raise _Trouble("stopped")
                part.write(chunk)
                received += len(chunk)
                self._report(arrived + received, "")
                elapsed_s = time.monotonic() - began
                if elapsed_s > POLICY.silence_s and received < POLICY.crawl_bytes_per_s * elapsed_s:
                    raise _Trouble(f"only {received} bytes in {elapsed_s:.0f} s")
            os.fsync(part.fileno())

    def _check(self, promised: HfFileMetadata) -> None:
        """Raises _Trouble, after discarding a wrong file."""
        arrived, problem = self._arrived_bytes(), ""
        if promised.size not in (None, arrived):
            problem = f"{arrived} bytes arrived of a file of {promised.size}"
        elif (sha256 := _sha256(promised)) and sha256_of(self._part) != sha256:
            problem = "the sha256 of what arrived is not the hub's"
        elif not readable(self._part):
            problem = "what arrived is not a parquet file with a column `text`"
        if problem:
            self._part.unlink(missing_ok=True)
            raise _Trouble(problem, rejected=True)


def _sha256(promised: HfFileMetadata) -> str | None:
    """The etag of a large file on the hub is its sha256; a mirror's may be anything."""
    return promised.etag if promised.etag and _SHA256.fullmatch(promised.etag) else None


def _explained(error: Exception) -> Exception:
    """DownloadFailed where another attempt would end the same way, else _Trouble."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return DownloadFailed("HF_HUB_OFFLINE is set, so nothing is downloaded")
    endpoint = os.environ.get("HF_ENDPOINT") or "https://"
    if not endpoint.startswith(("http://", "https://")):
        return DownloadFailed(f"HF_ENDPOINT={endpoint} lacks its beginning; set HF_ENDPOINT=https://{endpoint}")
    if not isinstance(error, HfHubHTTPError):
        return _Trouble(" ".join(str(error).split())[:200] or type(error).__name__)
    status = error.response.status_code
    if status in _FINAL:
        return DownloadFailed(f"{_FINAL[status]} (HTTP {status})")
    asked = error.response.headers.get("Retry-After", "")
    return _Trouble(f"HTTP {status}", float(asked) if asked.isdigit() else 0.0)


def fetch_kernel(progress: PrepareProgress, brought: Path | None = None) -> bool:
    """Have the kernel for the installed torch in place. False, with a note printed, when that cannot be done.

    `brought`: from another node, below `kernel/` there.
    """
    place = kernel_directory()
    with held(place.with_suffix(".lock"), progress):
        if torch_version() in _fetched_for(place):
            return True
        if brought and torch_version() in _fetched_for(brought / BROUGHT_KERNEL) and not place.exists():
            with whole_folder(place) as fresh:
                shutil.copytree(brought / BROUGHT_KERNEL, fresh, dirs_exist_ok=True)
            return True
        try:
            with progress.stage("attention kernel"):
                interruptible(lambda: _install(place))
        except Exception as problem:  # `kernels` and the hub raise many kinds; none of them may stop the data
            reason = " ".join(str(problem).split())[:300]
            progress.print(
                f"NOTE: no Flash Attention 3 on this node ({type(problem).__name__}: {reason}).\n"
                "      Runs use torch's own attention kernels and are slower; do not compare them with runs that have "
                "it.\n      With a network, and torch for CUDA installed, the same command fetches it."
            )
            return False
    return True


def _set_up_hub() -> None:
    """Read by the hub's libraries at their import; without a home they would write to a folder called "~"."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if home_folder() is None:
        os.environ.setdefault("HF_HOME", str(cache_root() / "huggingface"))


def _install(place: Path) -> None:
    os.environ.setdefault("KERNELS_CACHE", str(place.parent / "hub"))
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    _set_up_hub()
    from kernels import install_kernel

    # The name is ours, not a user's: whether the hub lists its publisher as trusted need not be asked.
    variant = Path(install_kernel(FA3_REPOSITORY, version=FA3_VERSION, trust_remote_code=[FA3_REPOSITORY]))
    target = place / "build" / variant.name
    remove_tree(target)
    with whole_folder(target) as fresh:
        shutil.copytree(variant, fresh, dirs_exist_ok=True, copy_function=_link_or_copy)
    fetched_for = sorted({*_fetched_for(place), torch_version()})
    note = {"repository": FA3_REPOSITORY, "version": FA3_VERSION, "variant": variant.name, "torch": fetched_for}
    write_atomic(place / KERNEL_NOTE_NAME, json.dumps(note, indent=1) + "\n")


def _link_or_copy(source: str, target: str) -> None:
    """The hub's own cache holds links to the content; a second name for the content costs no disk."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)


def _fetched_for(place: Path) -> list[str]:
    """torch versions the kernel here was fetched for."""
    try:
        versions = json.loads((place / KERNEL_NOTE_NAME).read_text(encoding="utf-8"))["torch"]
        return [str(version) for version in versions]
    except (OSError, ValueError, KeyError, TypeError):
        return []
