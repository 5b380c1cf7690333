"""Spelled tokens as a prefix trie: tokens sorted by their bytes, so that everything beginning with some bytes is one interval.

    node  = the interval [low, high) of tokens that begin with `prefix`
    child = a narrower interval, found by bisection; the token that *is* the prefix stands first in its node

Byte and prefix questions of this room (covers, healing, alignment) are sums over intervals. Does not: hold control
tokens, which spell nothing; know which tokens an encoder would choose.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import numpy as np

from fewer.models.tokenizer import Tokenizer


class Node(NamedTuple):
    """Tokens [low, high) of a trie begin with `prefix`."""

    low: int
    high: int
    prefix: bytes


class Trie:
    """`ids` (N,) token ids and `words` their bytes, both in byte order; N leaves out tokens that spell nothing."""

    def __init__(self, spelled: Iterable[tuple[int, bytes]]) -> None:
        pairs = sorted((word, token) for token, word in spelled if word)
        self.words = [word for word, _ in pairs]
        self.ids = np.array([token for _, token in pairs], dtype=np.int64)
        self._columns: dict[int, np.ndarray] = {}

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Trie:
        """All tokens that stand for text; control tokens spell none."""
        ids = (i for i in range(tokenizer.vocab_size) if i not in tokenizer.special)
        return cls((i, tokenizer.token_bytes(i)) for i in ids)

    def __len__(self) -> int:
        return len(self.words)

    @property
    def root(self) -> Node:
        return Node(0, len(self.words), b"")

    def child(self, node: Node, byte: int) -> Node | None:
        """The node one byte further; None if no token goes on with it."""
        return self.node(node.prefix + bytes([byte]), node)

    def node(self, prefix: bytes, within: Node | None = None) -> Node | None:
        """Tokens that begin with `prefix`; None if there are none."""
        low, high = (within.low, within.high) if within else (0, len(self.words))
        low = bisect_left(self.words, prefix, low, high)
        if low == high or not self.words[low].startswith(prefix):
            return None
        after = _after(prefix)
        return Node(low, bisect_left(self.words, after, low, high) if after else high, prefix)

    def whole(self, node: Node) -> int | None:
        """Where the token stands whose bytes are just the node's prefix; None if that is no token."""
        return node.low if self.words[node.low] == node.prefix else None

    def beginnings(self, text: bytes) -> list[int]:
        """Places of the tokens that `text` begins with, shortest first."""
        found: list[int] = []
        node: Node | None = self.root
        for byte in text:
            node = self.child(node, byte) if node else None
            if node is None:
                break
            if (at := self.whole(node)) is not None:
                found.append(at)
        return found

    def next_bytes(self, node: Node, weights: np.ndarray) -> np.ndarray:
        """weights (N,) of tokens -> (256,) sums over the node's tokens by the byte that follows its prefix."""
        column = self._column(len(node.prefix))[node.low : node.high]
        return np.bincount(column, weights[node.low : node.high], minlength=257)[1:]

    @cached_property
    def missing(self) -> frozenset[int]:
        """Bytes that no single-byte token spells: text that holds one may have no encoding."""
        return frozenset(range(256)) - {word[0] for word in self.words if len(word) == 1}

    def _column(self, depth: int) -> np.ndarray:
        """(N,) each token's byte at `depth`, plus one; 0 where it has ended."""
        if depth not in self._columns:
            self._columns[depth] = np.array([w[depth] + 1 if len(w) > depth else 0 for w in self.words], dtype=np.int64)
        return self._columns[depth]


def _after(prefix: bytes) -> bytes:
    """The least bytes that are greater than everything beginning with `prefix`; b"" if there are none."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b""
