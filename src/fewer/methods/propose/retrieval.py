"""RASD: a tree of what was retrieved, pruned by what a drafter expects next, fused with the drafter's own tree.

    retrieved = what followed earlier places of the text's last tokens, longest match first, as one tree of `reach` nodes
    pruned    = its branches that begin with one of the `roots` tokens the drafter expects first
    fused     = pruned and the drafter's own tree, joined by their longest common prefixes; the likeliest `budget` nodes

From Quan et al., "RASD: Retrieval-Augmented Speculative Decoding" (2025). Retrieval is from prompt and answer, by the same
trie as lookahead's. The drafter of `rasd` is a draft model that writes a line with the second choice at each step beside
it; that of `rasd-recycling` is the adjacency matrix of token-recycling, so there is no second model.
A match of more than `sure` tokens is not pruned: it knows better than the drafter (the paper prunes always).
Does not: retrieve from a datastore on disk, prune below the first token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from fewer.parts.adjacency import Adjacency, Recycled
from fewer.parts.draft_model import DraftModel, likeliest
from fewer.parts.trees import Sapling, best, rooted
from fewer.parts.trie import Trie
from fewer.seams import BEST, Propose, Target, Work, knob
from fewer.types import Rng, Told, Tree


@dataclass(frozen=True)
class Fused(Propose):
    """What both have in common: retrieval, pruning, fusing."""

    budget: int = knob(7, "tokens of a draft, all branches together", low=1)
    length: int = knob(7, "tokens of one branch", low=1)
    reach: int = knob(16, "tokens of the retrieved tree before it is pruned", low=1)
    roots: int = knob(8, "tokens the drafter expects first: retrieved branches must begin with one of them", low=1)
    sure: int = knob(4, "matches longer than so many tokens are not pruned", low=0)
    longest: int = knob(8, "tokens of text that are matched at most", low=1)
    capacity: int = knob(1 << 15, "entries of the trie", low=16)

    def trie(self) -> Trie:
        """Of one request's text."""
        return Trie(self.longest + self.length, self.capacity)

    def fuse(self, own: Tree, expected: Iterable[int], context: list[int], levels: int, trie: Trie) -> Tree:
        """Retrieve, prune by the tokens `expected` first, best first (none = the drafter cannot tell), join with its tree."""
        found = trie.branches(context, 1, self.longest, self.reach, levels)
        first = set(islice(expected, self.roots))
        if first and trie.matched(self.longest) <= self.sure:
            found = rooted(found, first)
        draft = Sapling()
        draft.add_tree(own)
        draft.add_tree(found)
        return best(draft.tree(), self.budget)


@dataclass(slots=True)
class Recalled:
    """One request of `rasd-recycling`: the text's trie, and what the model said."""

    trie: Trie
    own: Recycled


@dataclass(frozen=True)
class RecyclingRetrieval(Fused):
    """Fuse what followed earlier places of the last tokens with a draft from Token Recycling's matrix."""

    needs: ClassVar[frozenset[str]] = frozenset({"best"})

    breadth: int = knob(8, "successors kept a token", low=1, high=BEST)

    def remember(self, told: Told) -> Adjacency:
        return Adjacency(self.breadth)

    def start(self, told: Told) -> Recalled:
        return Recalled(self.trie(), Recycled(told.remembered(self), told.vocab))

    def guess(self, context: list[int], limit: int, told: Told, state: Recalled) -> Tree:
        levels = min(self.length, limit)
        own = state.own.grow(context[-1], self.budget, levels)
        return self.fuse(own, state.own.matrix.successors(context[-1]), context, levels, state.trie)

    def feedback(self, tree: Tree, path: list[int], target: Target, told: Told, state: Recalled) -> None:
        state.own.hear(tree, path, target)

    def learn(self, context: list[int], new: list[int], told: Told, state: Recalled) -> None:
        state.trie.extend(context, len(new))
        state.own.learn(context, new)


@dataclass(slots=True)
class Beside:
    """One request of `rasd`: the text's trie and the draft model."""

    trie: Trie
    lane: DraftModel


@dataclass(frozen=True)
class DraftRetrieval(Fused):
    """Fuse what followed earlier places of the last tokens with a draft model's tree."""

    uses: ClassVar[frozenset[str]] = frozenset({"draft"})

    steps: int = knob(3, "forwards of the draft model a draft", low=1)

    def start(self, told: Told) -> Beside:
        return Beside(self.trie(), DraftModel())

    def draft(self, context: list[int], limit: int, told: Told, state: Beside, rng: Rng) -> Work:
        lane, tip = state.lane, -1
        yield from lane.begin(context, told)
        for level in range(min(self.steps, limit)):
            if level:
                yield from lane.expand([tip], told)
            tip, *_ = [lane.add(tip, token) for token, _ in likeliest(lane.odds[tip], 2)]
        first = (token for token, _ in likeliest(lane.odds[-1], self.roots))
        return self.fuse(lane.tree(), first, context, min(self.length, limit), state.trie)

    def learn(self, context: list[int], new: list[int], told: Told, state: Beside) -> None:
        state.trie.extend(context, len(new))
