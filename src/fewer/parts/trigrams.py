"""A tri-gram matrix: how often each token followed each pair of tokens, kept sparse, bounded and recent.

When a successor was counted more than `FULL` times, the counts of its pair are halved, so what was said lately weighs more.
Beyond `capacity` successors of all pairs together, the pairs longest unsaid go: about 0.4 kB an entry.
"""

from __future__ import annotations

from collections.abc import Sequence

Pair = tuple[int, int]
FULL = 64


class Trigrams:
    """Counts of at most `capacity` successors."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.size = capacity, 0
        self._pairs: dict[Pair, dict[int, int]] = {}

    def read(self, text: Sequence[int], first: int = 0) -> None:
        """Count the tri-grams of `text` that end at place `first` or later."""
        for i in range(max(first, 2), len(text)):
            self._count((text[i - 2], text[i - 1]), text[i])

    def _count(self, pair: Pair, token: int) -> None:
        known = self._pairs.pop(pair, None)
        known = self._pairs[pair] = {} if known is None else known
        n = known.pop(token, 0)
        known[token] = n + 1
        if not n:
            self.size += 1
        if n >= FULL:
            halved = {t: c // 2 for t, c in known.items() if c > 1}
            self.size -= len(known) - len(halved)
            self._pairs[pair] = halved
        while self.size > self.capacity:
            oldest = next(iter(self._pairs))
            if oldest == pair:
                known = self._pairs[pair]
                del known[next(iter(known))]
                self.size -= 1
            else:
                self.size -= len(self._pairs.pop(oldest))

    def after(self, pair: Pair) -> dict[int, int]:
        """Successor -> count, oldest first; empty if the pair is new."""
        return self._pairs.get(pair, {})
