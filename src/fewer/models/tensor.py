"""`RawTensor`: one weight as its file stores it, and the way from there to a dense torch tensor.

A quantised row is a run of blocks: `block` weights in `size` bytes (sizes and unpacking from the `gguf` package).
This is the slow reference path; the packed kernels read `data` directly. Nothing here checks values for being finite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from fewer.errors import CorruptFile
from fewer.models.blocks import row_bytes

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class RawTensor:
    """One tensor as the file stores it.

    kind: a name in blocks.KINDS. shape: torch order, (out, in) for matrices.
    data: uint8, (out, bytes per row) for matrices, else flat; usually a window on the file, so never write to it.
    """

    kind: str
    shape: tuple[int, ...]
    data: np.ndarray

    def dense(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Weights as a tensor of `shape` and `dtype`; shares memory with the file if it already stores that dtype.

        Raises CorruptFile if the bytes are not as many as kind and shape ask for.
        """
        wanted = math.prod(self.shape[:-1]) * row_bytes(self.kind, self.shape[-1])
        if self.data.size != wanted:
            raise CorruptFile(
                f"a {self.kind} tensor of shape {self.shape} needs {wanted} bytes, found {self.data.size}"
            )
        if self.kind in PLAIN:
            data = np.ascontiguousarray(self.data).reshape(-1)
            if data.ctypes.data % PLAIN[self.kind].itemsize:
                data = data.copy()
            return torch.from_numpy(data).view(PLAIN[self.kind]).view(self.shape).to(dtype)
        rows = self.data.reshape(-1, row_bytes(self.kind, self.shape[-1]))
        return torch.from_numpy(dequantize(rows, GGMLQuantizationType[self.kind])).view(self.shape).to(dtype)
