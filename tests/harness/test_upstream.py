"""Contract setting `compat: upstream`: a file in upstream's style is judged as it is, on whatever attention is here."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

import harness.loader
from harness import accelerator, attention, gpu_record, session
from harness.upstream import flash_attention
from tests.harness.judging import CANDIDATES, REPOSITORY, Judged, Rig, with_budget
from tests.harness.naive_attention import naive_attention

STYLE = (CANDIDATES / "upstream_style.py").read_text()
# As on a node without the package: it cannot be imported but from the folder of the compatibility modules.
NO_KERNELS = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "kernels" and not any(entry.endswith("upstream") for entry in sys.path):
            raise ModuleNotFoundError("No module named 'kernels'", name=name)
sys.meta_path.insert(0, Missing())
"""


@pytest.fixture
def upstream_rig(rig: Rig) -> Rig:
    contract = with_budget(rig.contract, clock="wall", seconds=0.3, grace_s=60.0, wall_limit_s=120.0)
    rig.use(dataclasses.replace(contract, compat="upstream", train_tokens=60_000 * 32))
    return rig


def printed(judged: Judged, what: str) -> str:
    return re.findall(rf"^{what}: +(\S+)$", judged.log, re.MULTILINE)[-1]  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", NO_KERNELS], ids=["kernels", "no-kernels"])
def test_it_is_scored_with_its_attention_steps_and_tokens_known(upstream_rig: Rig, before: str) -> None:
    judged = upstream_rig.judge(upstream_rig.write(before + STYLE))
    result = judged.result
    assert result["status"] == "ok", judged.log
    assert printed(judged, "val_bpb") == f"{result['val_bpb']:.6f}"
    assert result["attention"] == "sdpa"
    steps = int(printed(judged, "num_steps"))
    training = result["training"]
    assert (training["steps"], training["tokens"], training["last_loss"]) == (steps, steps * 4 * 32, None)
    assert training["tokens_per_s"] > 0
    assert "nan" not in judged.stderr, "an unknown loss is not shown"


@pytest.mark.slow
def test_repeats_vary_the_seed_that_upstream_writes_as_42(upstream_rig: Rig) -> None:
    train = upstream_rig.write(STYLE)
    first, again, other = (upstream_rig.judge(train, "--seed", seed) for seed in ("5", "5", "6"))
    weights = [printed(judged, "first weight") for judged in (first, again, other)]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.slow
def test_an_attention_that_was_not_expected_is_the_nodes_failure(upstream_rig: Rig) -> None:
    judged = upstream_rig.judge(upstream_rig.write(STYLE), "--expect-attention", "fa3")
    assert (judged.result["status"], judged.exit_code) == ("infra: attention", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("causal=True", "causal=False", "needs causal=True"),
        ("causal=True", "causal=True, softcap=30.0", "cannot take softcap"),
        ('flash-attention-3")', 'flash-attention-3", version=1)', "pip install kernels"),
        ("flash.flash_attn_func", "flash.flash_attn_varlen_func", "only flash_attn_func"),
        ("varunneal/flash-attention-3", "owner/rotary", "pip install kernels"),
    ],
)
def test_what_this_attention_is_not_is_a_crash_that_says_so(upstream_rig: Rig, old: str, new: str, words: str) -> None:
    judged = upstream_rig.judge(upstream_rig.write(NO_KERNELS + STYLE.replace(old, new)))
    assert judged.result["status"] == "crash"
    assert words in judged.result["reason"]


@pytest.fixture
def cpu_session(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as a train.py that runs alone on the cpu contract."""
    monkeypatch.setenv(session.CONTRACT_ENV, "cpu")
    monkeypatch.delenv(gpu_record.EXPECT_ENV, raising=False)
    cached = (session.current, accelerator.training_device, attention.attention_backend)
    threads = torch.get_num_threads()
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()
    torch.set_num_threads(threads)


@pytest.fixture
def prepare(cpu_session: None, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module upstream imports by this name, fresh; what it wraps is put back after the test."""
    for module, name in ((torch, "manual_seed"), (torch.cuda, "manual_seed"), (torch.cuda, "manual_seed_all")):
        monkeypatch.setattr(module, name, getattr(module, name))
    return fresh_prepare()


def fresh_prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare", REPOSITORY / "harness" / "upstream" / "prepare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def attention_inputs(length: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, length, heads, 8) for heads in (4, 2, 2)]


@pytest.mark.parametrize(
    ("window_size", "window"), [((16, 0), 16), ((4, 0), 4), ((4, -1), 4), ((0, 0), 0), ((-1, 0), 16), ((-1, -1), 16)]
)
def test_both_forms_of_a_window_are_understood(cpu_session: None, window_size: tuple[int, int], window: int) -> None:
    q, k, v = attention_inputs(16)
    y = flash_attention.flash_attn_func(q, k, v, causal=True, window_size=window_size, softcap=0.0, deterministic=False)
    torch.testing.assert_close(y, naive_attention(q, k, v, window), atol=2e-6, rtol=1e-5)


def test_another_length_gets_a_mask_of_its_own(cpu_session: None) -> None:
    for length in (16, 8, 16):
        q, k, v = attention_inputs(length)
        y = flash_attention.flash_attn_func(q, k, v, causal=True, window_size=(4, 0))
        torch.testing.assert_close(y, naive_attention(q, k, v, 4), atol=2e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="one length"):
        flash_attention.flash_attn_func(q[:, :1], k, v, causal=True)


@pytest.mark.slow
def test_it_compiles_whole_with_windows_it_has_not_seen(cpu_session: None) -> None:
    """In a process of its own: what torch.compile traces depends on which module is `kernels` in sys.modules."""
    program = """
import torch
from kernels import get_kernel
flash = get_kernel("kernels-community/flash-attn3").flash_attn_interface
def model(q, k, v):
    for window_size in ((3, 0), (16, 0), (3, 0), (-1, -1)):
        q = flash.flash_attn_func(q, k, v, causal=True, window_size=window_size)
    return q
inputs = [torch.randn(2, 16, 2, 8, requires_grad=True) for _ in range(3)]
compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
with torch._dynamo.config.patch(error_on_recompile=True):
    for _ in range(2):
        y = compiled(*inputs)
        y.sum().backward()
assert torch.equal(y, model(*inputs))
"""
    path = f"{REPOSITORY / 'harness' / 'upstream'}:{REPOSITORY}"
    environment = {"PYTHONPATH": path, "ARSCHED_CONTRACT": "cpu", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_the_seed_42_is_the_runs_and_importing_twice_is_as_once(
    prepare: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_prepare()
    for of_the_run, asked, due in ((42, 42, 42), (7, 42, 7), (7, 8, 8), (7, 7, 7)):
        monkeypatch.setattr(session.current(), "seed", of_the_run)
        torch.manual_seed(asked)
        torch.cuda.manual_seed(asked)
        assert torch.initial_seed() == due


class Reports:
    """The session's report_step, remembered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[int, int]] = []
        monkeypatch.setattr(session.current(), "report_step", self.report_step)

    def report_step(self, step: int, loss: float, tokens: int) -> None:
        assert loss != loss, "the loss is train.py's to know"
        self.seen.append((step, tokens))


@pytest.mark.parametrize(
    ("total", "due"),
    [
        (400, [(0, 100), (0, 200), (0, 300), (1, 400), (1, 500)]),
        (100, [(1, 100), (2, 200), (3, 300), (4, 400), (5, 500)]),
        (50, [(1, 100), (2, 200), (3, 300), (4, 400), (5, 500)]),  # no step has less than a batch
        ("400", [(1, 100), (2, 200), (3, 300), (4, 400), (5, 500)]),
        (None, [(1, 100), (2, 200), (3, 300), (4, 400), (5, 500)]),
    ],
)
def test_batches_become_steps_by_upstreams_constant(
    prepare: ModuleType, monkeypatch: pytest.MonkeyPatch, total: object, due: list[tuple[int, int]]
) -> None:
    main = SimpleNamespace() if total is None else SimpleNamespace(TOTAL_BATCH_SIZE=total)
    monkeypatch.setitem(sys.modules, "__main__", main)  # type: ignore[arg-type]
    monkeypatch.setattr(harness.loader, "make_dataloader", lambda *_: iter("batches"))
    reports = Reports(monkeypatch)
    loader = prepare.make_dataloader(None, 4, 25, "train")
    for _ in range(6):  # the sixth is only asked for
        next(loader)
    assert reports.seen == due
    val = prepare.make_dataloader(None, 4, 25, "val")
    assert [next(val), next(val)] == ["b", "a"] and reports.seen == due


def test_two_loaders_count_together(prepare: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(TOTAL_BATCH_SIZE=200))  # type: ignore[arg-type]
    monkeypatch.setattr(harness.loader, "make_dataloader", lambda *_: iter("batches"))
    reports = Reports(monkeypatch)
    small, large = (prepare.make_dataloader(None, rows, 25, "train") for rows in (4, 8))
    for loader in (small, small, large, large, small):
        next(loader)
    assert reports.seen == [(0, 100), (1, 300), (2, 400)]


def test_wrong_use_is_refused_at_the_call_not_at_the_first_batch(prepare: ModuleType) -> None:
    with pytest.raises(session.SessionError, match="MAX_SEQ_LEN"):
        prepare.make_dataloader(None, 4, 25, "train")


def test_a_call_with_a_version_reaches_the_real_package(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text("def get_kernel(repo, **options):\n    return repo, options\n")
    program = "from kernels import get_kernel; print(get_kernel('a/flash', version=3), get_kernel('a/rotary'))"
    environment = {"PYTHONPATH": f"{REPOSITORY / 'harness' / 'upstream'}:{tmp_path}:{REPOSITORY}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "('a/flash', {'version': 3}) ('a/rotary', {})", done.stderr
