"""How likely a draft's nodes stand, learnt from what stood in this request so far.

    P(node | parent stands) = r * (stood + K) / (expected + K)        P(node) = the product along its path

r is what is believed beforehand: the drafter's own chance of the node over its parent's, or, where it gives none, what
its rank among the siblings was found to be worth one level higher. `stood` counts nodes of the same kind whose parent
stood and that stood too; `expected` is the sum of r over the same nodes, so a drafter that is too sure is scaled down
and one that is too shy up. Kinds are bands of r, or (depth, rank); each is split once more by how the last draft went,
because what can be foreseen comes in runs. Counts fade, so a text that changes is followed. A node need not have been
verified to be counted: how the text really went on says whether it would have stood.
Does not: read a clock. The same text and drafts give the same numbers.
"""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass, field

import numpy as np

from fewer.types import Tree

BANDS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98)  # where kinds of nodes with a chance part
FIRST = 0.6  # believed of a first child without a chance; each further sibling half of the one before
CERTAIN = 0.995  # nothing is believed more
WEIGHT = 1.0  # K, in nodes that were expected to stand
FADE = 24.0  # expected nodes that are remembered of one kind

CHANCE = -2  # the depth under which nodes that bring a chance are kept
NOTHING, PART, ALL = range(3)  # how the last draft went


class Count:
    """Nodes of one kind: how many stood, and how many were expected to."""

    __slots__ = ("expected", "stood")

    def __init__(self) -> None:
        self.stood = self.expected = 0.0

    def of(self, r: float) -> float:
        """r, corrected."""
        p = r * (self.stood + WEIGHT) / (self.expected + WEIGHT)
        return p if p < CERTAIN else CERTAIN

    def add(self, r: float, stood: bool) -> None:
        self.stood += stood
        self.expected += r
        if self.expected > FADE:
            self.stood *= 0.5
            self.expected *= 0.5


@dataclass(slots=True)
class Acceptance:
    """One request's estimate. `chances` judges a draft beforehand, `heard` is told how the text went on."""

    went: int = NOTHING
    _kinds: dict[tuple[int, int], tuple[Count, tuple[Count, Count, Count]]] = field(default_factory=dict)
    _draft: list[tuple[int, int, int]] = field(default_factory=list)  # judged last: parent, token, depth of each node
    _seen: list[tuple[float, Count, float, Count]] = field(default_factory=list)  # and what it was judged by

    def chances(self, tree: Tree) -> np.ndarray:
        """(N,) the probability that a node stands; never above its parent's. 0 for soft nodes."""
        parents, tokens = tree.parent.tolist(), tree.tokens.tolist()
        own = None if tree.chance is None else tree.chance.tolist()
        out, depth = [0.0] * len(parents), [0] * len(parents)
        children: dict[int, int] = {}
        believed: dict[int, list[float]] = {}
        self._seen = []
        for i, parent in enumerate(parents):
            if parent >= 0:
                depth[i] = depth[parent] + 1
            if tokens[i] < 0:
                self._seen.append((0.0, Count(), 0.0, Count()))
                continue
            if own is not None:
                above = own[parent] if parent >= 0 else 1.0
                r = min(own[i] / above, 1.0) if above > 0 else 0.0
                kind = (CHANCE, bisect(BANDS, r))
            else:
                rank = children.get(parent, 0)
                children[parent] = rank + 1
                r, kind = self._believed(depth[i], rank, believed.setdefault(rank, [])), (depth[i], rank)
            found = self._kinds.get(kind)
            if found is None:
                found = self._kinds[kind] = (Count(), (Count(), Count(), Count()))
            general, special = found[0], found[1][self.went]
            p = general.of(r)
            self._seen.append((r, general, p, special))
            out[i] = special.of(p) * (out[parent] if parent >= 0 else 1.0)
        self._draft = list(zip(parents, tokens, depth))
        return np.array(out)

    def heard(self, new: list[int]) -> tuple[int, int]:
        """The text went on with `new`: that says which nodes of the draft judged last are right, verified or not.

        -> (levels of it that `new` reaches, levels that are right).
        """
        right, matched, deep = {-1}, 0, 0
        for i, (parent, token, depth) in enumerate(self._draft):
            deep = max(deep, depth + 1)
            if parent in right and token >= 0 and depth < len(new):
                stands = token == new[depth] and depth == matched
                if stands:
                    right.add(i)
                    matched += 1
                r, general, p, special = self._seen[i]
                general.add(r, stands)
                special.add(p, stands)
        levels = min(deep, len(new))
        if levels:
            self.went = NOTHING if not matched else ALL if matched == levels else PART
        self._draft = []
        return levels, matched

    # ------------------------------------------------------------------ inside
    def _believed(self, depth: int, rank: int, known: list[float]) -> float:
        """What a child of this rank is worth as far as the level above knows; `known` holds it for the levels so far."""
        while len(known) <= depth:
            above = self._kinds.get((len(known) - 1, rank))
            r = known[-1] if known else FIRST * 0.5**rank
            known.append(r if above is None else above[0].of(r))
        return known[depth]


@dataclass(slots=True)
class Reach:
    """How deep drafts of this request are right, whatever their branches: what a drafter needs before it has drafted."""

    _levels: list[Count] = field(default_factory=list)

    def levels(self, n: int) -> list[float]:
        """For each of the first n levels the probability that a node of it stands, in a draft that is deep enough."""
        out, p, r = [], 1.0, FIRST
        for level in range(n):
            if level < len(self._levels):
                r = self._levels[level].of(r)
            p *= r
            out.append(p)
        return out

    def heard(self, levels: int, stood: int) -> None:
        """Of a draft of so many levels, so many stand."""
        r = FIRST
        for level in range(min(levels, stood + 1)):
            if level == len(self._levels):
                self._levels.append(Count())
            now = self._levels[level].of(r)
            self._levels[level].add(r, level < stood)
            r = now
