"""On a GPU: every kernel this device has computes the naive attention in bf16, forward and backward, and compiles."""

from __future__ import annotations

import pytest
import torch

from harness.attention import KERNELS, has_windowed_varlen, load_fa3
from harness.cache import fetched_kernel
from tests.harness.naive_attention import naive_attention

pytestmark = pytest.mark.gpu

LENGTH, HEAD_DIM = 256, 64
CASES = [(256, 4, 4), (128, 4, 4), (128, 4, 2), (64, 4, 1)]  # window, heads, kv heads


@pytest.fixture(scope="module", params=sorted(KERNELS))
def kernel(request):
    capability = torch.cuda.get_device_capability()
    if request.param in ("fa2", "fa3", "flex") and capability[0] < 8:
        pytest.skip(f"{request.param} needs sm80")
    if request.param == "fa2" and not has_windowed_varlen():
        pytest.skip("this torch has no windowed varlen_attn")
    if request.param == "fa3":
        if capability != (9, 0) or fetched_kernel() is None:
            pytest.skip("Flash Attention 3 wants a Hopper GPU and the kernel that `arsched prepare` fetches")
        load_fa3()
    return KERNELS[request.param]


def inputs(heads: int, kv_heads: int) -> list[torch.Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = [(2, LENGTH, count, HEAD_DIM) for count in (heads, kv_heads, kv_heads)]
    return [
        torch.randn(shape, generator=generator, device="cuda").to(torch.bfloat16).requires_grad_() for shape in shapes
    ]


def outputs_and_gradients(attend, tensors, weight) -> list[torch.Tensor]:
    y = attend(*tensors)
    return [y, *torch.autograd.grad((y.float() * weight).sum(), tensors)]


@pytest.mark.parametrize(("window", "heads", "kv_heads"), CASES)
def test_forward_and_backward_are_the_naive_ones(kernel, window, heads, kv_heads):
    tensors = inputs(heads, kv_heads)
    exact = [x.detach().float().requires_grad_() for x in tensors]
    weight = torch.randn(2, LENGTH, heads, HEAD_DIM, device="cuda")
    due = outputs_and_gradients(lambda *x: naive_attention(*x, window), exact, weight)
    got = outputs_and_gradients(kernel(window, LENGTH, "cuda"), tensors, weight)
    for ours, reference in zip(got, due, strict=True):
        error = (ours.float() - reference).norm() / reference.norm()
        assert error < 0.01, f"relative error {error:.4f}"


def test_a_window_ends_exactly_where_it_should(kernel):
    """One key far louder than all others: who can hear it?"""
    window, loud = 40, 100
    q = torch.ones(1, LENGTH, 1, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
    k = torch.zeros_like(q)
    k[:, loud] = 4.0
    v = torch.zeros_like(q)
    v[:, loud] = 1.0
    heard = kernel(window, LENGTH, "cuda")(q, k, v)[0, :, 0, 0] > 0.5
    assert heard.nonzero().flatten().tolist() == list(range(loud, loud + window + 1))


def test_it_compiles_without_a_graph_break(kernel):
    tensors = inputs(4, 4)
    attend = kernel(128, LENGTH, "cuda")
    compiled = torch.compile(lambda *x: attend(*x) * 2, fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(*tensors), attend(*tensors) * 2, atol=2e-2, rtol=2e-2)
