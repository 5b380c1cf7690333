"""Counting pieces of text with bounded memory.

When more than `limit` different keys are held, the rarest are let go: all of count 1, then 2, and so on until half the
limit is left. A key that is let go and comes again starts anew, so counts are never too high, and too low by at most
`floor` in sum (lossy counting). `floor` stays 0 if nothing was let go, and then the counts are exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

import regex

from fewer.errors import BadRequest

LIMIT = 1 << 21
Key = TypeVar("Key", bound=Hashable)


class Bounded(Generic[Key]):
    """Counts of at most `limit` keys."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.counts: Counter[Key] = Counter()
        self.floor = 0
        self._limit = limit

    def add(self, keys: Iterable[Key]) -> None:
        self.counts.update(keys)
        if len(self.counts) > self._limit:
            self._shrink()

    def _shrink(self) -> None:
        level = 0
        while len(self.counts) > self._limit // 2:
            level += 1
            self.counts = Counter({key: n for key, n in self.counts.items() if n > level})
        self.floor += level


def pieces(text: str, cut: regex.Pattern[str]) -> list[str]:
    """A text's pieces. What the pattern leaves between matches is a piece too, as in `tokenizers`."""
    out, at = [], 0
    for match in cut.finditer(text):
        start, end = match.span()
        if start > at:
            out.append(text[at:start])
        if end > start:
            out.append(text[start:end])
        at = end
    if at < len(text):
        out.append(text[at:])
    return out


def compiled(pattern: str) -> regex.Pattern[str]:
    """Raises BadRequest for a pattern that does not compile."""
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise BadRequest(f"the pattern {pattern!r} does not compile: {error}") from None
