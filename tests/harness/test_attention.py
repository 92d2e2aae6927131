"""Attention: the numbers of a naive reference for every window and head grouping, and no silent change of kernel."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import accelerator, attention, gpu_record
from harness.attention import KERNELS, has_windowed_varlen, sdpa
from harness.contract import load_contract
from harness.gpu_record import GpuRecord, read_record, record_path, shape_of, torch_version, write_record
from tests.harness.naive_attention import naive_attention


@given(
    length=st.integers(1, 40),
    window=st.integers(0, 50),
    kv_heads=st.sampled_from([1, 2, 3]),
    group=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_sdpa_is_the_naive_sum_for_any_window_and_grouping(length, window, kv_heads, group, seed):
    torch.manual_seed(seed)
    q = torch.randn(2, length, kv_heads * group, 8)
    k, v = torch.randn(2, 2, length, kv_heads, 8)
    torch.testing.assert_close(
        sdpa(window, length, "cpu")(q, k, v), naive_attention(q, k, v, window), atol=2e-6, rtol=1e-5
    )


def test_sdpa_gradients_are_the_naive_ones_on_a_short_window():
    torch.manual_seed(0)
    inputs = [torch.randn(2, 12, heads, 8, requires_grad=True) for heads in (4, 2, 2)]
    weight = torch.randn(2, 12, 4, 8)
    ours = torch.autograd.grad((sdpa(5, 12, "cpu")(*inputs) * weight).sum(), inputs)
    naive = torch.autograd.grad((naive_attention(*inputs, 5) * weight).sum(), inputs)
    for got, due in zip(ours, naive, strict=True):
        torch.testing.assert_close(got, due, atol=1e-5, rtol=1e-4)


def test_a_window_sees_exactly_itself_and_w_positions_before():
    length, window = 9, 3
    q = torch.zeros(1, length, 1, length)  # uniform attention: the output row is the mean of what is visible
    v = torch.eye(length)[None, :, None, :]
    seen = sdpa(window, length, "cpu")(q, v, v)[0, :, 0, :] > 0
    for i in range(length):
        assert seen[i].nonzero().flatten().tolist() == list(range(max(0, i - window), i + 1))


@pytest.mark.parametrize(
    ("capability", "has_windowed_varlen", "due"),
    [
        ((9, 0), True, ("fa2", "flex", "sdpa")),  # Flash Attention 3 may import and then crash: never untried
        ((9, 0), False, ("flex", "sdpa")),
        ((10, 0), True, ("fa2", "flex", "sdpa")),
        ((8, 6), False, ("flex", "sdpa")),
        ((7, 5), True, ("sdpa",)),
    ],
)
def test_an_untried_device_offers_what_torch_itself_brings(capability, has_windowed_varlen, due):
    assert gpu_record.without_trial(capability, has_windowed_varlen=has_windowed_varlen) == due
    assert set(due) <= set(gpu_record.candidates_for(capability)) <= set(KERNELS)


def test_flash_attention_3_is_tried_on_hopper_alone():
    tried = [c for c in [(7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0)] if "fa3" in gpu_record.candidates_for(c)]
    assert tried == [(9, 0)]


def varlen_stand_in(asked, **defaults):
    """torch's varlen_attn of some release: takes `defaults` and nothing more; computes by the naive sum."""

    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **options):
        assert set(options) <= set(defaults), f"unexpected keyword {set(options) - set(defaults)}"
        asked.append(options)
        assert query.dtype == torch.bfloat16 and cu_seq_q.dtype == torch.int32
        q, k, v = (x.unflatten(0, (-1, max_q)).float() for x in (query, key, value))
        if q.size(2) != k.size(2):
            assert options.get("enable_gqa"), "this release has no grouped heads unless asked"
        return naive_attention(q, k, v, options["window_size"][0]).flatten(0, 1)

    parameters = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("query", "key", "value")
    ] + [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in defaults.items()]
    varlen_attn.__signature__ = inspect.Signature(parameters)
    return varlen_attn


RELEASES = {
    "2.11": {"scale": None, "window_size": (-1, -1)},
    "2.13": {"scale": None, "window_size": (-1, -1), "enable_gqa": False},
}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
def test_fa2_is_used_by_every_torch_that_has_windows(monkeypatch, release, heads, kv_heads):
    from torch.nn.attention import varlen

    asked: list[dict] = []
    monkeypatch.setattr(varlen, "varlen_attn", varlen_stand_in(asked, **RELEASES[release]))
    assert has_windowed_varlen()
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 16, count, 8).bfloat16() for count in (heads, kv_heads, kv_heads))
    due = naive_attention(q.float(), k.float(), v.float(), 5)
    torch.testing.assert_close(KERNELS["fa2"](5, 16, "cpu")(q, k, v), due, atol=1e-5, rtol=1e-5)
    assert asked[0]["window_size"] == (5, 0)


def test_a_varlen_without_windows_is_no_fa2(monkeypatch):
    from torch.nn.attention import varlen

    monkeypatch.setattr(varlen, "varlen_attn", lambda query, key, value, cu_seq_q, is_causal: None)
    assert not has_windowed_varlen()


@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: (y, torch.zeros(1)), lambda y: [y, None]])
def test_both_return_shapes_of_fa3_are_understood(monkeypatch, wrap):
    def flash_attn_func(q, k, v, causal, window_size):
        assert causal and q.dtype == torch.bfloat16
        return wrap(naive_attention(q.float(), k.float(), v.float(), window_size[0]))

    monkeypatch.setattr(attention, "load_fa3", lambda: SimpleNamespace(flash_attn_func=flash_attn_func))
    q, k, v = torch.randn(3, 1, 8, 2, 4).bfloat16()
    y = KERNELS["fa3"](3, 8, "cpu")(q, k, v)
    torch.testing.assert_close(y, naive_attention(q.float(), k.float(), v.float(), 3))


def test_layers_of_one_window_share_one_block_mask(monkeypatch):
    """torch.compile specialises on each mask it meets, and after eight it runs unfused."""
    monkeypatch.setattr(attention, "_compiled_flex", lambda: None)
    attention._block_mask.cache_clear()
    for window in (64, 64, 64, 128) * 4:
        attention.flex(window, 128, "cpu")
    assert attention._block_mask.cache_info().misses == 2


class FakeSession:
    """A session that remembers which attention was reported."""

    def __init__(self) -> None:
        self.contract = SimpleNamespace(name="fake", device="cpu", threads=torch.get_num_threads())
        self.reported: list[str] = []

    def report_attention(self, name: str) -> None:
        self.reported.append(name)


@pytest.fixture
def fake_session(monkeypatch) -> Iterator[FakeSession]:
    fake = FakeSession()
    monkeypatch.setattr(accelerator, "current", lambda: fake)
    monkeypatch.setattr(attention, "current", lambda: fake)
    monkeypatch.delenv(gpu_record.EXPECT_ENV, raising=False)
    cached = (accelerator.training_device, attention.attention_backend, attention.load_fa3)
    for function in cached:
        function.cache_clear()
    yield fake
    for function in cached:
        function.cache_clear()


def test_a_cpu_contract_runs_on_sdpa_and_says_so_once(fake_session):
    assert attention.attention_backend() == "sdpa"
    attention.make_attention(4, 8)
    assert fake_session.reported == ["sdpa"]


def test_another_kernel_than_expected_is_reported_and_ends_the_run(fake_session, monkeypatch):
    monkeypatch.setenv(gpu_record.EXPECT_ENV, "fa3")
    with pytest.raises(SystemExit, match=r"'fa3'.*offers sdpa"):
        attention.attention_backend()
    assert fake_session.reported == ["sdpa"], "the judge needs the name to call it an infrastructure failure"


def test_an_expected_kernel_goes_through(fake_session, monkeypatch):
    monkeypatch.setenv(gpu_record.EXPECT_ENV, "sdpa")
    assert attention.attention_backend() == "sdpa"


def test_a_negative_window_is_refused(fake_session):
    with pytest.raises(ValueError, match="at least 0"):
        attention.make_attention(-1, 8)


@pytest.fixture
def on_hopper(fake_session, monkeypatch, tmp_path):
    """A session on an H100 that exists in name alone."""
    monkeypatch.setenv("ARSCHED_CACHE", str(tmp_path))
    fake_session.contract = load_contract("standard")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    return fake_session


def record(**changes) -> GpuRecord:
    made = GpuRecord(
        "NVIDIA H100 80GB HBM3", torch_version(), shape_of(load_contract("standard")), "580.65", "flex",
        attention_ms={"fa2": 4.0, "flex": 3.0, "sdpa": 9.0}, attention_refused={"fa3": "killed by signal 11"},
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def test_the_record_of_the_trial_decides_and_a_refused_fa3_is_said_aloud(on_hopper, capsys):
    write_record(record())
    assert attention.attention_backend() == "flex"
    assert on_hopper.reported == ["flex"]
    said = capsys.readouterr().out
    assert "no Flash Attention 3" in said and "killed by signal 11" in said


def test_an_untried_device_says_how_to_have_it_tried(on_hopper, capsys):
    assert attention.offered_kernels()[0] in ("fa2", "flex")
    assert "arsched prepare" in capsys.readouterr().out


def test_a_slower_kernel_that_the_judge_expects_is_used_where_it_works(on_hopper, monkeypatch):
    """Two nodes may find another one fastest; a lab's runs must all use one."""
    write_record(record())
    monkeypatch.setenv(gpu_record.EXPECT_ENV, "fa2")
    assert attention.attention_backend() == "fa2"


def test_a_kernel_that_was_refused_here_ends_a_run_that_expects_it(on_hopper, monkeypatch):
    write_record(record())
    monkeypatch.setenv(gpu_record.EXPECT_ENV, "fa3")
    with pytest.raises(SystemExit, match="'fa3'"):
        attention.attention_backend()
    assert on_hopper.reported == ["flex"]


def test_a_record_cannot_offer_what_the_device_has_not(on_hopper, monkeypatch):
    """Copied along with a cache folder, say; flash kernels compute in bf16, which such a GPU has not."""
    write_record(record())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert attention.offered_kernels() == ("sdpa",)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"device": 1}', json.dumps(dataclasses.asdict(record(attention="fa9")))]
)
def test_a_damaged_record_is_no_record(on_hopper, text):
    path = record_path("NVIDIA H100 80GB HBM3", torch_version(), shape_of(load_contract("standard")))
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert read_record("NVIDIA H100 80GB HBM3", shape_of(load_contract("standard"))) is None
    assert "fa3" not in attention.offered_kernels()


def test_contracts_of_another_shape_have_a_record_of_their_own(on_hopper):
    write_record(record(shape="T512-D64"))
    assert read_record("NVIDIA H100 80GB HBM3", shape_of(load_contract("standard"))) is None
    assert shape_of(load_contract("upstream")) == shape_of(load_contract("standard")) == "T2048-D128"


def test_fa3_is_loaded_offline_from_the_prefetched_folder(fake_session, monkeypatch):
    import kernels

    asked = {}

    def get_kernel(repository, *, version):
        asked.update(repository=repository, version=version, local=os.environ["LOCAL_KERNELS"])
        asked["offline"] = os.environ["HF_HUB_OFFLINE"]
        return SimpleNamespace(flash_attn_interface="the interface")

    monkeypatch.setattr(kernels, "get_kernel", get_kernel)
    monkeypatch.delenv("LOCAL_KERNELS", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(attention, "fetched_kernel", lambda: "/somewhere/kernel")
    assert attention.load_fa3() == "the interface"
    assert asked == {
        "repository": "kernels-community/flash-attn3",
        "version": 1,
        "local": "kernels-community/flash-attn3=/somewhere/kernel",
        "offline": "1",
    }
    os.environ.pop("LOCAL_KERNELS")


def test_a_cuda_contract_without_a_gpu_says_so(fake_session, monkeypatch):
    fake_session.contract.device = "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        accelerator.training_device()


@pytest.mark.parametrize(
    ("device", "capability", "due"),
    [
        ("cpu", (9, 0), torch.float32),
        ("cuda", (7, 5), torch.float32),  # a T4 has no bf16
        ("cuda", (8, 0), torch.bfloat16),
        ("cuda", (8, 9), torch.bfloat16),
        ("cuda", (12, 0), torch.bfloat16),
    ],
)
def test_bf16_is_for_gpus_that_have_it(fake_session, monkeypatch, device, capability, due):
    fake_session.contract.device = device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert accelerator.training_dtype() == due


@pytest.mark.parametrize(
    ("name", "due"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.5e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce GTX 1080", None),
        ("", None),
    ],
)
def test_peak_flops_by_the_words_of_the_name(name, due):
    assert accelerator.peak_flops_of(name) == due


def test_a_cpu_has_no_peak_and_some_memory(fake_session):
    assert accelerator.peak_flops() is None
    assert 20 < accelerator.peak_memory_mb() < 2**20
