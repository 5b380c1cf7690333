"""Any tokenizer as one small type: the exact bytes of every token, and a function from text to ids.

    decode(encode(text)) == text.encode()      # where the tokenizer keeps its text; `round_trips` says whether it does

Everything the lab measures is a function of these two. Control tokens are never made from text.
Not done: offsets, templates, BOS and EOS; see fewer.models.tokenizer for what a model's prompt needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from fewer.errors import BadRequest


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """`tokens[i]`: bytes of token i, b"" where no token is. `special`: ids of control tokens, whose bytes spell their
    name. `format`: what it was read from. `coder`: who encodes. `strips`: encoding puts a space before the text and
    decoding takes it away. `pieces`: the text's cut before merging, None where it is not known."""

    name: str
    format: str
    coder: str
    tokens: Sequence[bytes]
    special: frozenset[int]
    to_ids: Callable[[str], list[int]]
    strips: bool = False
    pieces: Callable[[str], list[str]] | None = None

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. Raises BadRequest for lone surrogates."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRequest(
                f"the text has a lone surrogate at character {error.start}; decode it as UTF-8 before encoding it"
            ) from None
        return self.to_ids(text)

    def decode(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of `ids`, control tokens left out. Raises BadRequest for an id out of range."""
        ids = list(ids)
        if wrong := [i for i in ids if not 0 <= i < len(self.tokens)]:
            raise BadRequest(f"{self.name} has no token {wrong[0]}; its ids are 0 to {len(self.tokens) - 1}")
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
