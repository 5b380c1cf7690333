"""A growing text in another model's vocabulary, through its bytes: for drafts whose tokenizer is not the target's.

The text so far is kept as the other vocabulary's tokens. New bytes are tokenised together with the last few tokens, which
they may merge with; everything before stays, so a step costs the same however long the text is. Any tokens that spell the
text will do as a context, so where a word is cut differently than in one piece, only the draft is a little worse.
Control tokens become those of the same name, or nothing where the other model has none.

Does not: tokenise an incomplete character (its bytes wait, and nothing can be drafted behind them), say how the target
would cut a text into tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from fewer.types import code_point

OVERLAP = 8  # tokens that new bytes are tokenised together with


class Words(Protocol):
    """A vocabulary, as `fewer.models.tokenizer.Tokenizer` is one."""

    special: frozenset[int]

    def encode(self, text: str, *, bos: bool | None = None) -> list[int]: ...
    def token_bytes(self, token_id: int) -> bytes: ...
    def name(self, token_id: int) -> str: ...
    def control(self, name: str) -> int | None: ...


class CodePoints:
    """The vocabulary of a model that comes without a tokenizer: token i is the character i."""

    special: frozenset[int] = frozenset()

    def encode(self, text: str, *, bos: bool | None = None) -> list[int]:
        return [ord(c) for c in text]

    def token_bytes(self, token_id: int) -> bytes:
        return code_point(token_id, False)

    def name(self, token_id: int) -> str:
        return chr(token_id)

    def control(self, name: str) -> int | None:
        return None


@dataclass
class OtherWords:
    """The text of `theirs` (the target's tokens) in `own` (the draft model's)."""

    theirs: Words
    own: Words
    ids: list[int] = field(default_factory=list)  # own tokens that spell the text, but for what waits
    waiting: bytes = b""  # the beginning of a character that the text ends in
    _heard: int = 0  # tokens of the target taken in
    _fixed: int = 0  # leading ids that new bytes do not touch: they end in a control token

    def hear(self, context: list[int]) -> list[int]:
        """Take in what `context` has gained; all own tokens."""
        fresh = self.waiting
        for token in context[self._heard :]:
            if token in self.theirs.special:
                self._spell(fresh, whole=True)
                fresh = b""
                same = self.own.control(self.theirs.name(token))
                self.ids += [] if same is None else [same]
                self._fixed = len(self.ids)
            else:
                fresh += self.theirs.token_bytes(token)
        self._heard = len(context)
        self._spell(fresh)
        return self.ids

    def _spell(self, data: bytes, whole: bool = False) -> None:
        """Add bytes, tokenised together with the last own tokens. An incomplete character waits, unless this is all."""
        self.waiting = b"" if whole else incomplete(data)
        data = data[: len(data) - len(self.waiting)]
        if not data:
            return
        start = max(self._fixed, len(self.ids) - OVERLAP)
        old = b"".join(self.own.token_bytes(t) for t in self.ids[start:])
        while start > self._fixed and not begins_a_character(old):
            start -= 1
            old = self.own.token_bytes(self.ids[start]) + old
        self.ids[start:] = self.own.encode((old + data).decode("utf-8", "replace"), bos=False)

    def back(self, drafted: list[int]) -> list[int]:
        """The target's tokens for what `drafted` (own tokens behind the text) would add; [] if that cannot be said.

        A control token ends it: the target's of the same name if there is one.
        """
        data, end = b"", list[int]()
        for token in drafted:
            if token in self.own.special:
                same = self.theirs.control(self.own.name(token))
                end = [] if same is None else [same]
                break
            data += self.own.token_bytes(token)
        if cut := len(incomplete(data)):
            data, end = data[:-cut], []
        try:
            ids = self.theirs.encode(data.decode(), bos=False)
        except UnicodeDecodeError:
            return []
        return ids + end if b"".join(self.theirs.token_bytes(t) for t in ids) == data else []


def incomplete(data: bytes) -> bytes:
    """The beginning of a UTF-8 character that `data` ends in, b"" if it ends between characters."""
    for n in range(1, min(3, len(data)) + 1):
        lead = data[-n]
        if lead >= 0xC0:
            return data[-n:] if n < 2 + (lead >= 0xE0) + (lead >= 0xF0) else b""
        if lead < 0x80:
            return b""
    return b""


def begins_a_character(data: bytes) -> bool:
    return not data or data[0] & 0xC0 != 0x80
