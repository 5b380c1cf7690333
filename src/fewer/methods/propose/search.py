"""ADED: a tri-gram matrix stands in for the model, and a search like AlphaZero's looks for the drafts worth verifying.

The matrix counts which token followed which two; what the model says is counted as it comes, so drafts adapt to the text.
A draft is a tree search from the last two tokens. Each of `visits` walks goes down to a new leaf by

    PUCT(child) = Q + E * P * sqrt(N) / (1 + n),        E = explore + ln((N + 9) / 8)

(Q = mean score of the walks through the child, P = its share of its pair's counts, n = its visits, N = its parent's), goes
on from there with the likeliest successors, and adds its score, 1 + the sum of its P, to every node it passed. The most
visited `budget` nodes are drafted.
From Liu et al., "Adaptive Draft-Verification for Efficient Large Language Model Decoding" (2024). The matrix belongs to the
engine and learns over requests: drafts differ with what ran before, texts do not.
Does not: draw at random (the paper samples how walks go on), read logits, keep a corpus on disk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from heapq import nlargest

from fewer.parts import corpus
from fewer.parts.rates import Rates
from fewer.parts.trees import Sapling
from fewer.parts.trigrams import Pair, Trigrams
from fewer.seams import Propose, knob
from fewer.types import Told, Tree, code_points

WIDEST = 12  # successors of a pair that are looked at
KNOWN = (0.5, 0.6, 0.65, 0.7, 0.75)  # how often the text goes on as known after a pair that came 1, 2-3, 4-7, .. times


@dataclass(slots=True)
class Spot:
    """A node of the search: the pair it stands for, its share P, visits and total score. children (None = not yet looked
    at) and total, the counts of its pair, are there once it was reached."""

    pair: Pair
    share: float
    parent: Spot | None = None
    total: int = 0
    visits: int = 0
    score: float = 0.0
    children: list[Spot] | None = None


class Search:
    """One draft's search over a tri-gram matrix."""

    def __init__(self, matrix: Trigrams, pair: Pair, levels: int, explore: float) -> None:
        self.matrix, self.levels, self.explore = matrix, levels, explore
        self.root = Spot(pair, 1.0)
        self.order: list[Spot] = []  # all nodes but the root, as they were made

    def walk(self) -> None:
        """One walk: down by PUCT to a node never reached, on by the likeliest successors, and its score to all it passed."""
        spot, level, score = self.root, 0, 1.0
        while spot.children is not None and spot.children and level < self.levels:
            spot = self._choose(spot)
            level += 1
            score += spot.share
        if spot.children is None and level < self.levels:
            spot.children = self._expand(spot)
        pair = spot.pair
        for _ in range(level, self.levels):
            known = self.matrix.after(pair)
            if not known:
                break
            token = max(known, key=known.__getitem__)
            score += known[token] / sum(known.values())
            pair = (pair[1], token)
        at: Spot | None = spot
        while at is not None:
            at.visits += 1
            at.score += score
            at = at.parent

    def _choose(self, spot: Spot) -> Spot:
        weight = (self.explore + math.log((spot.visits + 9) / 8)) * math.sqrt(spot.visits)
        best, most = None, -1.0
        for child in spot.children or ():
            worth = weight * child.share / (1 + child.visits)
            if child.visits:
                worth += child.score / child.visits
            if worth > most:
                best, most = child, worth
        assert best is not None
        return best

    def _expand(self, spot: Spot) -> list[Spot]:
        known = self.matrix.after(spot.pair)
        spot.total = sum(known.values())
        best = nlargest(WIDEST, reversed(known.items()), key=lambda item: item[1])
        children = [Spot((spot.pair[1], token), n / spot.total, spot) for token, n in best]
        self.order += children
        return children

    def most_visited(self, nodes: int) -> list[Spot]:
        """The `nodes` nodes with the most visits, parents first; none that was never visited."""
        return sorted((s for s in self.order if s.visits), key=lambda s: -s.visits)[:nodes]


@dataclass(slots=True)
class Adapting:
    """One request: the engine's matrix, and how often its pairs went on as known."""

    matrix: Trigrams
    rates: Rates = field(default_factory=lambda: Rates(KNOWN))
    read: int = 0

    def rate(self, total: int) -> float:
        """How often a pair of so many counts goes on as known."""
        return self.rates[total.bit_length() - 1]

    def learn(self, context: list[int], new: list[int]) -> None:
        """Grade the matrix by what came, then count it (the first time with the prompt)."""
        for i in range(max(2, len(context) - len(new)), len(context)):
            known = self.matrix.after((context[i - 2], context[i - 1]))
            if known:
                self.rates.note(sum(known.values()).bit_length() - 1, context[i] in known)
        self.matrix.read(context, self.read)
        self.read = len(context)


@dataclass(frozen=True)
class TrigramSearch(Propose):
    """Draft the most visited nodes of a PUCT search over a tri-gram matrix that learns from what is said."""

    budget: int = knob(7, "tokens of a draft, all branches together", low=1)
    length: int = knob(4, "tokens of one branch", low=1)
    visits: int = knob(32, "walks a draft", low=1)
    explore: float = knob(32.0, "weight of a node's share against the scores found below it", low=0.0)
    capacity: int = knob(1 << 16, "successors that the matrix keeps", low=16)
    text: str = knob("", corpus.DOC)

    def __post_init__(self) -> None:
        corpus.check(self.text)

    def remember(self, told: Told) -> Trigrams:
        matrix = Trigrams(self.capacity)
        matrix.read((told.encode or code_points)(corpus.read(self.text)))
        return matrix

    def start(self, told: Told) -> Adapting:
        return Adapting(told.remembered(self))

    def guess(self, context: list[int], limit: int, told: Told, state: Adapting) -> Tree:
        draft = Sapling()
        if len(context) < 2:
            return draft.tree()
        search = Search(state.matrix, (context[-2], context[-1]), min(self.length, limit), self.explore)
        for _ in range(self.visits):
            search.walk()
        place, chance = {id(search.root): -1}, {id(search.root): 1.0}
        for spot in search.most_visited(self.budget):
            above = spot.parent
            assert above is not None
            chance[id(spot)] = chance[id(above)] * state.rate(above.total) * spot.share
            place[id(spot)] = draft.add(place[id(above)], spot.pair[1], chance[id(spot)])
        return draft.tree()

    def learn(self, context: list[int], new: list[int], told: Told, state: Adapting) -> None:
        state.learn(context, new)
