"""The tokenizer that needs no training: a token is a byte of UTF-8, and what is not text is a control byte.

Padding, the ends of a message, roles and tool calls are written with the C0 control characters, which text does not use,
so no id is above 255 and ids are the bytes themselves. Back to Bytes: Revisiting Tokenization Through UTF-8 (2025).

While training, a byte's embedding may get a part that its eight bits share, E'[b] = E[b] + bits(b) P; `fold` adds it into
the table afterwards, and the model computes what it did before at no cost.
Control bytes that do come in a text are kept and cannot be told from marks; `clean` says whether a text has any.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tokenizers import Tokenizer

from fewer.tokens.train import export

# ASCII's own names for these are close to what they mean here.
MARKS: Mapping[str, int] = {
    "pad": 0x00,  # NUL
    "start of message": 0x01,  # SOH
    "start of text": 0x02,  # STX
    "end of text": 0x03,  # ETX
    "end of sequence": 0x04,  # EOT
    "start of thought": 0x0E,  # SO
    "end of thought": 0x0F,  # SI
    "start of call": 0x1A,  # SUB
    "end of call": 0x1B,  # ESC
}
TEXT_CONTROLS = frozenset(b"\t\n\v\f\r")


def tokenizer() -> Tokenizer:
    """256 tokens, id = byte. Marks are ordinary bytes to it: encode is text.encode()."""
    return export.merging(export.BYTES, [], r"[\s\S]+")


def message(role: str, text: str) -> bytes:
    """A message as bytes: start, role, text, ends."""
    m = MARKS
    return bytes([m["start of message"], *role.encode(), m["start of text"], *text.encode(), m["end of text"]])


def clean(text: str) -> bool:
    """Whether a text holds none of the control bytes marks are made of."""
    return not set(text.encode()) & set(MARKS.values())


def bits() -> np.ndarray:
    """(256, 8): row b holds the bits of b, the lowest first."""
    return np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.float64)


def fold(table: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """The (256, d) table with the (8, d) projection of the bits added in, in the table's own type."""
    return (table + bits() @ projection).astype(table.dtype)
