"""Python sources as a corpus: installed packages, or the interpreter's own library. Everywhere text, and no download.

Covers: which files count, so that every node with the same versions has the same documents in the same order; versions
of the packages. Not covered: cutting and sharding (harness.prepare.corpus).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from harness.prepare.corpus import Report
from harness.prepare.stage import PrepareError

_FOREIGN = {"site-packages", "dist-packages", "__pycache__"}
# Folders of packages that hold other projects' text, which candidates may find elsewhere, or what a build generates.
_VENDORED = {"thirdparty_files", "thirdparty", "third_party", "_vendor", "vendor", "vendored", "externals"}
_NOT_OF_THE_PACKAGE = {"__pycache__", "generated", "cloudpickle", *_VENDORED}
_BUILT = ("_version.py", "_pb2.py", "_grpc.py", "_proto.py")  # hold a commit, or depend on the builder's protoc
_LARGEST_SOURCE_BYTES = 4 << 20  # longer ones are generated tables
_LARGEST_PACKAGE_SOURCE_BYTES = 512 << 10


def package_documents(root: str, report: Report) -> Iterator[str]:
    """Texts of the packages' distinct sources, each once, ordered by their sha256: it depends on contents alone.

    `root`: as contract.Corpus.packages, comma-separated. No package is imported. Raises PrepareError when one is not
    installed, OSError when a source cannot be read.
    """
    paths = [path for name in root.split(",") for path in _package_sources(name)]
    return _distinct_texts((path.read_bytes() for path in paths), f"package {root}", report)


def package_folders(name: str) -> tuple[Path, ...]:
    """Folders of an installed package, found without importing it. Raises PrepareError."""
    found = importlib.util.find_spec(name)
    folders = tuple(map(Path, found.submodule_search_locations or ())) if found else ()
    if not folders:
        raise PrepareError(
            f"the corpus is made of the sources of package {name!r}, which is not installed in {sys.prefix}",
            f"pip install {name}, in the version that other nodes have (arsched: pip install -c constraints.txt -e .)",
        )
    return folders


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed version of each package, "unknown" where its metadata names none."""
    names = tuple(names)
    owners = metadata.packages_distributions() if names else {}
    return {name: metadata.version(owners[name][0]) if name in owners else "unknown" for name in names}


def _package_sources(name: str) -> Iterator[Path]:
    for folder in package_folders(name):
        for path in _walk(folder, _NOT_OF_THE_PACKAGE):
            if not path.name.endswith(_BUILT) and path.stat().st_size <= _LARGEST_PACKAGE_SOURCE_BYTES:
                yield path


def python_documents(root: str, report: Report) -> Iterator[str]:
    """As package_documents, of the running interpreter's library.

    `root`: "stdlib", or "prefix" for everything below sys.prefix as well. Raises PrepareError.
    """
    where = f"this Python ({sysconfig.get_path('stdlib')})"
    return _distinct_texts(map(_read_or_skip, _library_sources(root)), where, report)


def _distinct_texts(sources: Iterable[bytes], where: str, report: Report) -> Iterator[str]:
    distinct: dict[bytes, bytes] = {}
    for content in sources:
        if content:
            distinct.setdefault(hashlib.sha256(content).digest(), content)
            report(f"{len(distinct)} sources found")
    if not distinct:
        raise PrepareError(f"{where} has no sources", "use one with its .py files, or a contract with a folder corpus")
    for digest in sorted(distinct):
        try:
            yield distinct[digest].decode("utf-8")  # line ends as they are
        except UnicodeDecodeError:  # in another encoding
            continue


def _library_sources(root: str) -> Iterator[Path]:
    yield from _walk(Path(sysconfig.get_path("stdlib")), _FOREIGN)
    if root == "prefix":
        for prefix in sorted({Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}):
            yield from _walk(prefix, {"__pycache__"})


def _walk(top: Path, skipped: set[str]) -> Iterator[Path]:
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(set(folders) - skipped)
        # _sysconfigdata holds paths of the machine it was built on.
        wanted = (name for name in names if name.endswith(".py") and not name.startswith("_sysconfigdata"))
        yield from (Path(folder, name) for name in sorted(wanted))


def _read_or_skip(path: Path) -> bytes:
    """Content of a source; empty for what cannot be read or is no ordinary source."""
    try:
        return path.read_bytes() if path.stat().st_size <= _LARGEST_SOURCE_BYTES else b""
    except OSError:
        return b""
