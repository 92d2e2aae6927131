"""Python sources as a corpus: the same documents wherever the same versions are installed, and nothing foreign."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from harness.cache import Cache, open_cache
from harness.contract import load_contract
from harness.prepare import build, sources
from harness.prepare.cli import main
from harness.prepare.sources import package_documents, package_versions, python_documents
from harness.prepare.stage import PrepareError
from harness.prepare.tokenizer import train_tokenizer
from tests.harness.small_corpus import documents, write_contract


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of our own, with everything that must be left out of it."""
    files = {
        "a.py": b"a = 1\n",
        "pkg/copy_of_a.py": b"a = 1\n",
        "pkg/b.py": b"b = 2\n",
        "pkg/latin.py": b"# caf\xe9\n",
        "pkg/empty.py": b"",
        "_sysconfigdata_linux.py": b"prefix = 'here'\n",
        "site-packages/other.py": b"other = 3\n",
        "__pycache__/c.py": b"c = 4\n",
        "notes.txt": b"text\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    for name in ("prefix", "base_prefix"):
        monkeypatch.setattr(sources.sys, name, str(tmp_path))
    return tmp_path


def test_the_standard_library_is_read_once_and_nothing_else(python: Path) -> None:
    assert sorted(python_documents("stdlib", lambda _: None)) == ["a = 1\n", "b = 2\n"]
    assert sorted(python_documents("prefix", lambda _: None)) == ["a = 1\n", "b = 2\n", "other = 3\n"]


def test_the_order_depends_on_contents_alone(python: Path) -> None:
    before = list(python_documents("stdlib", lambda _: None))
    (python / "a.py").rename(python / "z.py")
    assert list(python_documents("stdlib", lambda _: None)) == before


def test_a_python_without_sources_is_said(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(python / "nowhere"))
    with pytest.raises(PrepareError, match="has no sources"):
        list(python_documents("stdlib", lambda _: None))


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that ends every import of it, with everything that must be left out of its text."""
    files = {
        "__init__.py": b"raise SystemExit('imported')\n",
        "_version.py": b"commit = 'abc'\n",
        "inner/copy.py": b"b = 2\n",
        "inner/__pycache__/c.py": b"c = 4\n",
        "inner/thing_pb2.py": b"pb = 5\n",
        "generated/d.py": b"d = 6\n",
        "inner/thirdparty_files/psutil/e.py": b"e = 7\n",
        "large.py": b"#" * (1 << 20),
        "b.py": b"b = 2\n",
        "data.txt": b"text\n",
    }
    write_files(tmp_path / "site" / "madeup", files)
    (tmp_path / "site" / "madeup-1.2.dist-info").mkdir()
    (tmp_path / "site" / "madeup-1.2.dist-info" / "METADATA").write_text("Name: madeup\nVersion: 1.2\n")
    (tmp_path / "site" / "madeup-1.2.dist-info" / "top_level.txt").write_text("madeup\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site" / "madeup"


def test_a_package_gives_its_own_sources_without_being_imported(package: Path) -> None:
    assert sorted(package_documents("madeup", lambda _: None)) == ["b = 2\n", "raise SystemExit('imported')\n"]
    assert "madeup" not in sys.modules
    assert package_versions(("madeup",)) == {"madeup": "1.2"}


def test_several_packages_are_one_corpus(package: Path) -> None:
    write_files(package.parent / "other", {"__init__.py": b"b = 2\n", "f.py": b"f = 8\n"})
    found = sorted(package_documents("madeup,other", lambda _: None))
    assert found == ["b = 2\n", "f = 8\n", "raise SystemExit('imported')\n"]
    assert package_versions(("madeup", "other")) == {"madeup": "1.2", "other": "unknown"}


def test_a_source_that_cannot_be_read_is_no_shorter_corpus(package: Path) -> None:
    (package / "gone.py").symlink_to(package / "nowhere.py")
    with pytest.raises(FileNotFoundError, match=r"gone\.py"):
        list(package_documents("madeup", lambda _: None))


@pytest.fixture
def home(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small contract over the package, which has text enough for it."""
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "caches"))
    monkeypatch.setattr(build, "train_apart", train_tokenizer)  # a process less
    write_files(package, {f"m{number:03}.py": text.encode() for number, text in enumerate(documents(300))})
    write_contract(tmp_path, corpus__kind="packages", corpus__root="madeup")
    return tmp_path


def prepared(home: Path) -> Cache:
    assert main(["--contract", str(home / "small.json")]) == 0
    return open_cache(load_contract(str(home / "small.json")))


def test_the_digest_depends_on_contents_alone(home: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = prepared(home).digest
    (package / "m007.py").rename(package / "inner" / "moved.py")
    (package / "_version.py").write_text("commit = 'def'\n")
    monkeypatch.setenv("ARSCHED_CACHE", str(home / "elsewhere"))
    assert prepared(home).digest == before
    (package / "m008.py").write_text("changed = 1\n")
    monkeypatch.setenv("ARSCHED_CACHE", str(home / "changed"))
    assert prepared(home).digest != before


def test_the_versions_are_recorded_and_printed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepared(home).versions["madeup"] == "1.2"
    assert "madeup 1.2" in capsys.readouterr().err


def test_a_build_of_another_version_is_not_gone_on_with(home: Path, package: Path) -> None:
    contract = load_contract(str(home / "small.json"))
    assert build.versions(contract.corpus)["madeup"] == "1.2"
    (package.parent / "madeup-1.2.dist-info" / "METADATA").write_text("Name: madeup\nVersion: 1.3\n")
    assert build.versions(contract.corpus)["madeup"] == "1.3"


def test_a_package_that_is_not_installed_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_contract(home, corpus__kind="packages", corpus__root="madeup,nosuch")
    assert main(["--contract", str(path)]) == 1
    said = capsys.readouterr().err
    assert "'nosuch', which is not installed" in said and "pip install nosuch" in said


def test_text_that_candidates_can_read_is_noted(home: Path, python: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(home)
    assert "NOTE" not in capsys.readouterr().err
    write_files(python, {f"m{number:03}.py": text.encode() for number, text in enumerate(documents(300))})
    path = write_contract(home, corpus__kind="python", corpus__root="stdlib")
    assert main(["--contract", str(path)]) == 0
    assert "NOTE: candidates can read the text" in capsys.readouterr().err
