"""One attention kernel tried on the visible GPU: does it compile, are its numbers right, how fast is it.

Covers: a compiled forward and backward on a small input held against attention in float32 on the CPU, and the time of
four layers at the contract's shape. Run as a process of its own by harness.gpu_probe, because a kernel built for
another torch may end it. Not covered: what follows from the outcome.

    python -m harness.gpu_trial KERNEL SEQUENCE_LENGTH HEAD_DIM      one line of JSON
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from harness.attention import KERNELS, Attend
from harness.containment import die_with_parent

_SMALL_LENGTH, _SMALL_HEADS, _SMALL_WINDOWS = 256, 2, (256, 100)
_HEADS, _TOKENS = 4, 65_536
_WARM_ROUNDS, _ROUNDS = 3, 11


def relative_error(kernel: str, head_dim: int, device: str) -> float:
    """The largest relative error of output and gradients over two windows; compiled whole, bf16 on a GPU.

    The reference is scaled_dot_product_attention in float32 on the CPU. Not finite where the kernel's numbers are not.
    """
    worst = 0.0
    for window in _SMALL_WINDOWS:
        exact = [x.requires_grad_() for x in _inputs(1, _SMALL_LENGTH, _SMALL_HEADS, head_dim)]
        tried = [x.detach().to(device, _dtype(device)).requires_grad_() for x in exact]
        due = _forward_backward(KERNELS["sdpa"](window, _SMALL_LENGTH, "cpu"), exact)
        got = _forward_backward(_whole(KERNELS[kernel](window, _SMALL_LENGTH, device)), tried)
        for ours, reference in zip(got, due, strict=True):
            error = float((ours.float().cpu() - reference).norm() / reference.norm())
            worst = error if error != error else max(worst, error)  # NaN is kept
    return worst


def milliseconds(kernel: str, sequence_length: int, head_dim: int) -> float:
    """Median time of forward and backward through four layers, windows S, S, S, L, at 65,536 tokens and four heads."""
    layers = [KERNELS[kernel](window, sequence_length, "cuda") for window in (sequence_length // 2, sequence_length)]
    short, long = layers
    rows = max(1, _TOKENS // sequence_length)
    inputs = [x.to("cuda", _dtype("cuda")).requires_grad_() for x in _inputs(rows, sequence_length, _HEADS, head_dim)]

    def four_layers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return long(short(short(short(q, k, v), k, v), k, v), k, v)

    compiled = _whole(four_layers)
    for _ in range(_WARM_ROUNDS):
        _forward_backward(compiled, inputs)
    return statistics.median(_timed(lambda: _forward_backward(compiled, inputs)) for _ in range(_ROUNDS))


def _whole(attend: Attend) -> Attend:
    compiled: Attend = torch.compile(attend, fullgraph=True, dynamic=False)
    return compiled


def _inputs(rows: int, length: int, heads: int, head_dim: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, length, heads, head_dim, generator=generator) for _ in range(3)]


def _forward_backward(attend: Attend, inputs: list[Tensor]) -> list[Tensor]:
    y = attend(*inputs)
    return [y.detach(), *torch.autograd.grad(y.float().square().mean(), inputs)]


def _timed(action: Callable[[], object]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    action()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end))


def _dtype(device: str) -> torch.dtype:
    has_bf16 = device == "cuda" and torch.cuda.get_device_capability()[0] >= 8
    return torch.bfloat16 if has_bf16 else torch.float32


def main(argv: list[str]) -> int:
    """Print {"error", "ms"}; whatever goes wrong goes to standard error as a stack trace."""
    die_with_parent()
    kernel, sequence_length, head_dim = argv[0], int(argv[1]), int(argv[2])
    error = relative_error(kernel, head_dim, "cuda")
    print(json.dumps({"error": error, "ms": milliseconds(kernel, sequence_length, head_dim)}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
