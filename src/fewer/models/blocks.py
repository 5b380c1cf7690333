"""How a weight row lies in a file: the kinds of storage fewer reads and the bytes of a row. No torch here, so that a
file's header can be read without it."""

from __future__ import annotations

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from fewer.errors import CorruptFile

KINDS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
BLOCKS = {kind: GGML_QUANT_SIZES[GGMLQuantizationType[kind]] for kind in KINDS}  # kind -> (weights, bytes) per block


def row_bytes(kind: str, width: int) -> int:
    """Bytes of one row of `width` weights. Raises CorruptFile if the row is no whole number of blocks."""
    block, size = BLOCKS[kind]
    if width % block:
        raise CorruptFile(f"a row of {width} weights is no whole number of {kind} blocks of {block}")
    return width // block * size
