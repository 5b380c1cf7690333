"""Tokens that end inside a character: whether the encoder can ever leave them so.

Where every way of finishing a character is a merge, its first bytes never stand as a token of their own, though no
neighbour they had so far says so. A token that leaves n bytes missing is alive if some token that brings the next of
them can stand beside it, and that one, should bytes still be missing, is alive in turn. Does not: tell apart which
continuation bytes make an assigned character.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from fewer.tokens.pairs import Merges
from fewer.tokens.trie import Trie

CONTINUES = range(0x80, 0xC0)


def missing(data: bytes, before: int = 0) -> int:
    """Bytes that the last character of `data` lacks; before: those lacking where `data` begins."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte not in CONTINUES:
            size = 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)
            return max(0, size - back)
    return max(0, before - len(data))


class Unfinished:
    """Which of a trie's tokens can stand in a text where `before` bytes of a character are missing."""

    def __init__(self, trie: Trie, merges: Merges) -> None:
        self._trie, self._merges = trie, merges
        self._partial = [i for i, w in enumerate(trie.words) if w[-1] >= 0x80]
        self._bring = [(i, w) for i, w in enumerate(trie.words) if w[0] in CONTINUES]
        self.alive = cache(self._alive)
        self.mask = cache(self._mask)

    def _alive(self, place: int, lacking: int) -> bool:
        """May the token at `place`, after which `lacking` bytes are missing, stand at all?"""
        if not lacking:
            return True
        token = int(self._trie.ids[place])
        return any(
            all(b in CONTINUES for b in w[:lacking])
            and self._merges.apart(token, int(self._trie.ids[i]))
            and self.alive(i, missing(w, lacking))
            for i, w in self._bring
        )

    def _mask(self, before: int) -> np.ndarray:
        """(N,) bool over the trie's places."""
        out = np.ones(len(self._trie), dtype=bool)
        for i in self._partial:
            out[i] = self.alive(i, missing(self._trie.words[i], before))
        return out
