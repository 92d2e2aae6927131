"""Flash Attention's interface, as far as upstream uses it, on the kernel that harness.attention chooses.

Apart from kernels.py, which gives its name in sys.modules away to the package it hides: torch.compile looks a traced
function's globals up there. Not covered: the kernels, choosing one, reporting it (harness.attention).
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from harness.attention import attention_backend, make_attention

if TYPE_CHECKING:
    from harness.attention import Attend

_ALONE = "this contract's flash attention computes causal attention with a window and nothing else"


class FlashAttention(ModuleType):
    """What get_kernel answers: `flash_attn_func`, at its top level and in `flash_attn_interface`.

    Making one reports the kernel to the judge. Raises SystemExit when the judge expects another.
    """

    def __init__(self, repo_id: str) -> None:
        super().__init__(f"{attention_backend()} in place of {repo_id}")
        self.flash_attn_func = flash_attn_func
        self.flash_attn_interface = self

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self.__name__} has no {name}, only flash_attn_func: {_ALONE}")


def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    softmax_scale: float | None = None,
    causal: bool = False,
    *,
    window_size: tuple[int, int] = (-1, -1),
    **others: Any,
) -> torch.Tensor:
    """Causal attention: q [B, T, H, D], k and v [B, T, Hkv, D] -> [B, T, H, D], with Flash Attention's arguments.

    `window_size` is (W, anything): position i sees j when 0 <= i - j <= W; a negative W means the whole context.
    Raises ValueError for everything else that Flash Attention can be asked for.
    """
    if not causal:
        raise ValueError(f"flash_attn_func needs causal=True: {_ALONE}")
    for name, value in {"softmax_scale": softmax_scale, **others}.items():
        if value is not None and not (isinstance(value, bool | int | float) and value == 0):
            raise ValueError(f"flash_attn_func cannot take {name}: {_ALONE}")
    length, left = q.size(1), window_size[0]
    if k.size(1) != length:
        raise ValueError(f"flash_attn_func needs queries and keys of one length: {_ALONE}")
    name = _made(length if left < 0 else min(left, length), length)
    attend: Attend = getattr(_attends, name)
    return attend(q, k, v)


_attends = ModuleType("attends")  # not a dict: torch.compile reads a module's attribute only when it comes to it


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # a mask is made once, not in the graph
def _made(window: int, length: int) -> str:
    """Name of this window's attend in `_attends`, made at the first call."""
    name = f"window_{window}_of_{length}"
    if not hasattr(_attends, name):
        setattr(_attends, name, make_attention(window, length))
    return name
