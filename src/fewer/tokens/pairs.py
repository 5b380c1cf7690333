"""Byte-pair merges: which two tokens may stand side by side in what the encoder produces.

The encoder applies the lowest-ranked merge first, the leftmost among equals. In a token's merge tree the symbols along
its right edge (u) exist one after the other, each until its parent is merged; likewise along the left edge of the next
token (v). Two tokens stay apart unless some merge (u, v) comes before both parents:

    apart(a, b)  =  no u on the right edge of a, v on the left edge of b with  rank(u, v) < parent(u), <= parent(v)

and a sequence inside one piece of text is what the encoder gives exactly if all its neighbours stay apart: the valid
pairs of "Exact Byte-Level Probabilities from Tokenized Language Models for FIM-Tasks and Model Ensembles". A token is
reachable if its own two parts meet before anything else joins them. Does not: know where text is cut (cuts.py); take
merge lists in which a part is made after the whole, or a token in two ways.
"""

from __future__ import annotations

import json
from functools import cached_property, lru_cache

import numpy as np
from tokenizers.models import BPE

from fewer.errors import UnsupportedArchitecture

SPAN = 1 << 32  # of ranks in a sort key
NEVER = SPAN - 1  # later than any merge


class Merges:
    """Merges between token ids. pairs: (left, right, whole) by rank; symbols: the tokens that text starts out as;
    vocab: one more than the highest id. `reachable` (vocab,): tokens that the encoder can produce."""

    def __init__(self, pairs: list[tuple[int, int, int]], symbols: list[int], vocab: int) -> None:
        made = np.array(pairs, dtype=np.int64).reshape(-1, 3)
        n = np.arange(len(made))
        self.left, self.right, self.rank = (np.full(vocab, -1) for _ in range(3))
        self.left[made[:, 2]], self.right[made[:, 2]], self.rank[made[:, 2]] = made[:, 0], made[:, 1], n
        if len(np.unique(made[:, 2])) < len(n) or (self.rank[made[:, :2]].max(1, initial=-1) >= n).any():
            raise UnsupportedArchitecture(
                "exact bytes need a merge list in training order: here a token is made twice, or before its parts. "
                "Use plain healing."
            )
        self.ranks = {(a, b): m for m, (a, b, _) in enumerate(pairs)}
        order = np.argsort(made[:, 0] * vocab + made[:, 1])
        self._by_pair = made[order, 0], made[order, 1], order  # left symbol, right symbol, rank
        self._keys = made[order, 0] * vocab + made[order, 1]
        self.reachable = np.zeros(vocab, dtype=bool)
        self.reachable[symbols] = True
        meet = self._meet(made[:, 0], made[:, 1])
        for a, b, whole in made[meet].tolist():
            self.reachable[whole] = self.reachable[a] and self.reachable[b]
        self.apart_from = lru_cache(512)(self._apart_from)
        self.apart = lru_cache(1 << 16)(self._apart)

    @classmethod
    def of(cls, model: BPE, vocab: int) -> Merges:
        """Of a `tokenizers` model. Raises UnsupportedArchitecture for a merge list this cannot follow."""
        state = json.loads(model.__getstate__())
        ids = state["vocab"]
        texts = [m.split(" ", 1) if isinstance(m, str) else m for m in state["merges"]]
        return cls([(ids[a], ids[b], ids[a + b]) for a, b in texts], [i for t, i in ids.items() if len(t) == 1], vocab)

    def _meet(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(M,) bool: do the parts of merge m, a[m] and b[m], come to stand side by side, with nothing joined before?"""
        ok = np.ones(len(a), dtype=bool)
        u, until, which = a, np.arange(len(a)), np.arange(len(a))
        while len(which):
            v, also, deep = b[which], which, np.arange(len(which))
            while len(deep):
                m = self._lookup(u[deep], v)
                ok[which[deep[(m < until[deep]) & (m <= also)]]] = False
                go = self.left[v] >= 0
                v, also, deep = self.left[v[go]], self.rank[v[go]], deep[go]
            go = self.right[u] >= 0
            u, until, which = self.right[u[go]], self.rank[u[go]], which[go]
        return ok

    def _lookup(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Ranks of merges of u[i] with v[i]; NEVER where there is none."""
        key = u * len(self.rank) + v
        at = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
        return np.where(self._keys[at] == key, self._by_pair[2][at], NEVER)

    def _apart(self, a: int, b: int) -> bool:
        """Would the encoder keep a and b side by side?"""
        lefts = _edge(b, self.left, self.rank)
        for u, until in _edge(a, self.right, self.rank):
            for v, also in lefts:
                m = self.ranks.get((u, v), NEVER)
                if m < until and m <= also:
                    return False
        return True

    def _apart_from(self, a: int) -> np.ndarray:
        """(vocab,) bool: which tokens may follow `a` inside one piece. Equal to `apart` for each."""
        key, owner = self._left_edges
        lefts, rights, ranks = self._by_pair
        joined = np.zeros(len(key) + 1, dtype=np.int64)
        for u, until in _edge(a, self.right, self.rank):
            span = slice(np.searchsorted(lefts, u), np.searchsorted(lefts, u, "right"))
            sooner = ranks[span] < until
            v, m = rights[span][sooner], ranks[span][sooner]
            np.add.at(joined, np.searchsorted(key, v * SPAN + m), 1)
            np.add.at(joined, np.searchsorted(key, (v + 1) * SPAN), -1)
        out = np.ones(len(self.rank), dtype=bool)
        out[owner[np.cumsum(joined[:-1]) > 0]] = False
        return out

    @cached_property
    def _left_edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Every (v, token whose left edge holds it), by v and then the rank of v's parent: sort keys, tokens."""
        owner = np.arange(len(self.rank))
        node, until = owner.copy(), np.full(len(owner), NEVER)
        keys, owners = [], []
        while len(owner):
            keys.append(node * SPAN + until)
            owners.append(owner)
            deeper = self.left[node] >= 0
            until, owner, node = self.rank[node[deeper]], owner[deeper], self.left[node[deeper]]
        key, held = np.concatenate(keys), np.concatenate(owners)
        order = np.argsort(key, kind="stable")
        return key[order], held[order]


def _edge(token: int, side: np.ndarray, rank: np.ndarray) -> list[tuple[int, int]]:
    """(symbol, rank of its parent) along one edge of a token's merge tree, beginning with the token itself."""
    edge = [(token, NEVER)]
    while (part := int(side[token])) >= 0:
        edge.append((part, int(rank[token])))
        token = part
    return edge
