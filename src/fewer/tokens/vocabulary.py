"""Any tokenizer as one small type: the exact bytes of every token, and a function from text to ids.

    decode(encode(text)) == text.encode()      # where the tokenizer keeps its text; `round_trips` says whether it does
    decode(encode_bytes(data)) == data         # any bytes, if each byte is a token and text is kept

Everything the lab measures is a function of these. Control tokens are never made from text.
Not done: offsets, templates, BOS and EOS; see fewer.models.tokenizer for what a model's prompt needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from fewer.errors import BadRequest

_ILL_FORMED = re.compile("([\udc80-\udcff])")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """`tokens[i]`: bytes of token i, b"" where no token is. `special`: ids of control tokens, whose bytes spell their
    name. `format`: what it was read from. `coder`: who encodes. `strips`: encoding puts a space before the text and
    decoding takes it away. `pieces`: the text's cut before merging, None where it is not known.
    `from_bytes`: bytes to ids where the tokenizer is one of bytes, not of text. `to_bytes`: ids to bytes where a token's
    bytes depend on those before it."""

    name: str
    format: str
    coder: str
    tokens: Sequence[bytes]
    special: frozenset[int]
    to_ids: Callable[[str], list[int]]
    strips: bool = False
    pieces: Callable[[str], list[str]] | None = None
    from_bytes: Callable[[bytes], list[int]] | None = None
    to_bytes: Callable[[Sequence[int]], bytes] | None = None

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. Raises BadRequest for lone surrogates."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRequest(
                f"the text has a lone surrogate at character {error.start}; decode it as UTF-8 before encoding it"
            ) from None
        return self.to_ids(text)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes: well-formed stretches as text, each ill-formed byte as the token that is that byte.

        Raises BadRequest if a byte that is needed has no token."""
        if self.from_bytes is not None:
            return self.from_bytes(data)
        out: list[int] = []
        for part in _ILL_FORMED.split(data.decode(errors="surrogateescape")):
            if part[:1] and "\udc80" <= part[0] <= "\udcff":
                byte = part.encode(errors="surrogateescape")
                if byte not in self.ids:
                    raise BadRequest(f"{self.name} has no token for the byte 0x{byte.hex()}, so it is of text only")
                out.append(self.ids[byte])
            elif part:
                out += self.to_ids(part)
        return out

    def decode(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of `ids`, control tokens left out. Raises BadRequest for an id out of range."""
        ids = list(ids)
        if wrong := [i for i in ids if not 0 <= i < len(self.tokens)]:
            raise BadRequest(f"{self.name} has no token {wrong[0]}; its ids are 0 to {len(self.tokens) - 1}")
        if self.to_bytes is not None:
            return self.to_bytes(ids)
        data = b"".join([self.tokens[i] for i in ids if i not in self.special])
        return data.removeprefix(b" ") if self.strips else data

    def round_trips(self, text: str) -> bool:
        """Whether encoding and decoding gives the text's bytes back."""
        return self.decode(self.encode(text)) == text.encode()

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """Bytes -> the lowest ordinary id that spells them."""
        ordinary = [(data, i) for i, data in enumerate(self.tokens) if data and i not in self.special]
        return dict(reversed(ordinary))

    @property
    def size(self) -> int:
        """Tokens there are: control tokens count, holes do not."""
        return sum(1 for data in self.tokens if data)
