"""How often a corpus goes on in a certain way: counts of its n-grams up to a length, and the shares made of them.

    P_n(token | context) = count(last n tokens of context + token) / count(last n tokens of context)      n = 1 .. longest - 1

An n-gram is kept as one 64-bit number made of its tokens, sorted, with its count: 12 bytes a distinct n-gram. Two n-grams
that make the same number would be counted as one; among a million that happens once in 30 million corpora.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIX = np.uint64(0x9E3779B97F4A7C15)


class Ngrams:
    """Counts of the n-grams of 1 .. `longest` tokens of a corpus."""

    def __init__(self, corpus: Sequence[int], longest: int = 6) -> None:
        self.longest = longest
        tokens = np.asarray(corpus, dtype=np.uint64)
        made = np.zeros(len(tokens), np.uint64)
        self._tables: list[tuple[np.ndarray, np.ndarray]] = []
        for n in range(longest):
            made = _mixed(made[: max(0, len(tokens) - n)], tokens[n:])
            keys, counts = np.unique(made, return_counts=True)
            self._tables.append((keys, counts.astype(np.int32)))

    @property
    def nbytes(self) -> int:
        """Memory of all tables."""
        return sum(keys.nbytes + counts.nbytes for keys, counts in self._tables)

    def shares(self, context: Sequence[int], tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """(longest - 1, m): the share of each of the m tokens after the last 1, 2, .. tokens of context; 0 where those are
        too few or unknown to the corpus."""
        following = np.asarray(tokens, dtype=np.uint64)
        out = np.zeros((self.longest - 1, len(following)))
        for n in range(1, min(self.longest - 1, len(context)) + 1):
            made = np.zeros(1, np.uint64)
            for token in context[len(context) - n :]:
                made = _mixed(made, np.array([token], np.uint64))
            total = int(self._count(n, made)[0])
            if not total:
                break
            out[n - 1] = self._count(n + 1, _mixed(np.repeat(made, len(following)), following)) / total
        return out

    def _count(self, n: int, made: np.ndarray) -> np.ndarray:
        keys, counts = self._tables[n - 1]
        if not len(keys):
            return np.zeros(len(made), np.int32)
        at = np.minimum(np.searchsorted(keys, made), len(keys) - 1)
        return np.where(keys[at] == made, counts[at], 0)


def _mixed(made: np.ndarray, token: np.ndarray) -> np.ndarray:
    """The numbers of n-grams one token longer (uint64 arithmetic wraps around)."""
    with np.errstate(over="ignore"):
        x = (made ^ (token + np.uint64(1))) * MIX
        return x ^ (x >> np.uint64(29))
