"""The shape of the memory that judge and candidate share in an evaluation; both compute it from the same numbers.

Layout: token rows uint16 [forward_rows, T], padded to a page; then either float32 logits [slice_rows, T, V] or, when
the logits live on the device, room for the 64 bytes of a CUDA IPC handle. Covers sizes, views and the names of the
ways. Not covered: who writes when.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Ways to pass logits, best first; a result names the one its evaluation used.
EXCHANGE_NAMES = ("cuda-ipc", "cuda-fd", "pinned", "host")
CUDA_HANDLE_BYTES = 64  # cudaIpcMemHandle_t
_LOGIT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """forward_rows: rows the model sees at once; slice_rows: rows whose logits fit into the buffer."""

    forward_rows: int
    slice_rows: int
    sequence_length: int
    vocab_size: int

    @property
    def logits_offset(self) -> int:
        tokens = self.forward_rows * self.sequence_length * 2
        return -(-tokens // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def logits_shape(self) -> tuple[int, int, int]:
        return (self.slice_rows, self.sequence_length, self.vocab_size)

    @property
    def logits_bytes(self) -> int:
        return self.slice_rows * self.sequence_length * self.vocab_size * _LOGIT_BYTES

    @property
    def host_bytes(self) -> int:
        return self.logits_offset + self.logits_bytes

    @property
    def device_bytes(self) -> int:
        """Size of the shared memory when the logits live on the device."""
        return self.logits_offset + CUDA_HANDLE_BYTES

    def tokens(self, memory: mmap.mmap) -> NDArray[np.uint16]:
        import numpy as np

        count = self.forward_rows * self.sequence_length
        return np.frombuffer(memory, np.uint16, count).reshape(self.forward_rows, self.sequence_length)

    def host_logits(self, memory: mmap.mmap) -> NDArray[np.float32]:
        import numpy as np

        count = self.logits_bytes // _LOGIT_BYTES
        return np.frombuffer(memory, np.float32, count, self.logits_offset).reshape(self.logits_shape)
