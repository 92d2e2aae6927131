"""The attention kernel: fetched once per torch, whole or not at all, and never the reason why there is no data."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.cache import kernel_directory
from harness.prepare import hub
from harness.prepare.hub import fetch_kernel
from harness.prepare.stage import PrepareProgress


class FakeKernels:
    """Stands in for the `kernels` package: a hub cache that holds links to its content, as the real one does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.problem = folder, 0, None

    def install_kernel(self, repository: str, *, version: int, trust_remote_code: list[str]) -> Path:
        self.calls += 1
        if self.problem is not None:
            raise self.problem
        assert (repository, version) == ("kernels-community/flash-attn3", 1)
        assert trust_remote_code == [repository]
        variant = self.folder / "snapshot" / "build" / "torch-cuda"
        variant.mkdir(parents=True, exist_ok=True)
        (self.folder / "blob").write_text("compiled code")
        if not (variant / "code.so").is_symlink():
            (variant / "code.so").symlink_to(self.folder / "blob")
        (variant / "metadata.json").write_text("{}")
        return variant


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKernels:
    fake = FakeKernels(tmp_path / "hub")
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "caches"))
    monkeypatch.setitem(sys.modules, "kernels", SimpleNamespace(install_kernel=fake.install_kernel))  # type: ignore[arg-type]
    return fake


def fetch() -> tuple[bool, str]:
    out = io.StringIO()
    return fetch_kernel(PrepareProgress(out)), out.getvalue()


def test_it_lies_where_a_local_kernel_is_looked_for(library: FakeKernels) -> None:
    assert fetch()[0]
    place = kernel_directory() / "build" / "torch-cuda"
    assert (place / "code.so").read_text() == "compiled code" and not (place / "code.so").is_symlink()
    assert (place / "metadata.json").is_file()
    assert fetch()[0] and library.calls == 1


def test_another_torch_fetches_its_own(library: FakeKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch()
    monkeypatch.setattr(hub, "torch_version", lambda: "99.0")
    fetch()
    assert library.calls == 2
    monkeypatch.undo()


def test_one_of_another_node_is_taken_over_for_the_same_torch_alone(
    library: FakeKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch()[0]
    shutil.copytree(kernel_directory(), tmp_path / "brought" / "kernel")
    library.problem = OSError("unreachable")
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path / "elsewhere"))
    out = PrepareProgress(io.StringIO())
    with monkeypatch.context() as other:
        other.setattr(hub, "torch_version", lambda: "99.0")
        assert not fetch_kernel(out, tmp_path / "brought")
    assert fetch_kernel(out, tmp_path / "brought")
    assert (kernel_directory() / "build" / "torch-cuda" / "code.so").read_text() == "compiled code"


@pytest.mark.parametrize("problem", [ValueError("no variant\nfor this system"), OSError("unreachable")])
def test_failing_is_said_aloud_and_is_no_error(library: FakeKernels, problem: Any) -> None:
    library.problem = problem
    done, said = fetch()
    assert not done and "NOTE: no Flash Attention 3" in said and "slower" in said
    assert not (kernel_directory() / "kernel.json").exists()
    library.problem = None
    assert fetch()[0]


def test_a_library_that_is_not_installed_is_a_note_too(library: FakeKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kernels", None)  # type: ignore[arg-type]
    assert "NOTE" in fetch()[1]
