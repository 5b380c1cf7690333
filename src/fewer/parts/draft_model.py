"""A draft model beside one request: fed what is new, grown into a tree one forward a level, rolled back to what stands.

    lane = DraftModel()                          made in Propose.start(), kept as the request's state
    yield from lane.begin(context, told)         the draft model reads what it has not read; the tree is empty
    first = lane.add(-1, token)                  a node below the certain token (-1), lane.odds[-1] says which are likely
    yield from lane.expand([first, ...])         one forward; lane.odds[first] is what may follow
    return lane.tree()

`odds[node]` is the draft model's distribution (V,) behind a node as the request's own sampling parameters shape it, so
tokens drawn from it may be judged by ratio. What the draft model has read in one line stays in its cache, and what the
target accepts of it is not read again; side branches are read again by the forward that needs them.

Does not: decide what to draft, rules (a grammar cannot run ahead of the text), hold side branches between forwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from fewer.seams import Commit, Forward, Rewind, Work
from fewer.types import EMPTY_TREE, Rng, Rows, Told, Tree, chain

PIECE = 512  # rows of one forward while the prompt is read


@dataclass
class DraftModel:
    """One request's draft model and the tree being grown. Node -1 is the certain token."""

    model: str = "draft"
    own_words: bool = False  # its vocabulary is not the target's: odds are its own probabilities, sampling left out
    odds: dict[int, torch.Tensor] = field(default_factory=dict)  # node -> (V,) what may follow it
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    chance: list[float] = field(default_factory=list)  # node -> product of the odds on its path
    _read: list[int] = field(default_factory=list)  # tokens in the draft model's cache
    _certain: int = 0  # how many of them were the text's when the tree was begun
    _line: list[int] = field(default_factory=list)  # nodes in the cache behind them

    def begin(self, context: list[int], told: Told) -> Work:
        """Read what `context` does not share with what was read; odds[-1] is what may follow. One forward, more for a
        long prompt."""
        self.odds, self.tokens, self.parents, self.chance, self._line = {}, [], [], [], []
        at = min(self._certain, len(context) - 1)
        if self._read[:at] != context[:at]:
            at = 0
        while at < min(len(self._read), len(context) - 1) and self._read[at] == context[at]:
            at += 1
        yield from self._cut(at)
        while True:
            rows = chain(context[at : at + PIECE], at)
            at += len(rows)
            last = np.array([len(rows) - 1]) if at == len(context) else None
            out = yield Forward(rows, last, model=self.model, stage="draft")
            yield Commit(np.arange(len(rows)), model=self.model)
            if last is not None:
                break
        assert out.logits is not None
        self._read = list(context)
        self._certain = len(context)
        self.odds[-1] = self._shape(out.logits[0], -1, told)

    def follow(self, context: list[int]) -> bool:
        """Keep what was grown below the text's new tokens, if they are nodes that the cache has read in one line.

        False: they are not, or nothing is known there; then the tree must be begun again."""
        node, line = -1, self._line
        for depth, token in enumerate(context[self._certain :]):
            if depth >= len(line) or self.parents[line[depth]] != node or self.tokens[line[depth]] != token:
                return False
            node = line[depth]
        if node not in self.odds:
            return False
        self._certain = len(context)
        below = [n for n in range(len(self.tokens)) if n > node and node in [-1, *self.path(n)]]
        new = {node: -1, **{n: i for i, n in enumerate(below)}}
        base = self.chance[node] if node >= 0 else 1.0
        self._line = [new[n] for n in line if n in below]
        self.odds = {new[n]: q for n, q in self.odds.items() if n in new}
        self.tokens, self.chance = [self.tokens[n] for n in below], [self.chance[n] / base for n in below]
        self.parents = [new[self.parents[n]] for n in below]
        return True

    def add(self, parent: int, token: int) -> int:
        """A new node below `parent`, whose odds are known."""
        before = self.chance[parent] if parent >= 0 else 1.0
        self.chance.append(before * float(self.odds[parent][token]))
        self.tokens.append(token)
        self.parents.append(parent)
        return len(self.tokens) - 1

    def expand(self, nodes: Sequence[int], told: Told) -> Work:
        """One forward; odds of every node of `nodes`."""
        needed = sorted({n for node in nodes for n in self.path(node)})
        shared = 0
        while shared < len(self._line) and all(self._line[shared] in self.path(n)[:-1] for n in nodes):
            shared += 1
        self._line = self._line[:shared]
        yield from self._cut(self._certain + shared)
        fresh = [n for n in needed if n not in self._line]
        place = {n: i for i, n in enumerate(fresh)}
        parent = np.array([place.get(self.parents[n], -1) for n in fresh])
        pos = np.array([self._certain + len(self.path(n)) - 1 for n in fresh])
        one_line = bool((parent == np.arange(-1, len(fresh) - 1)).all())
        rows = Rows(pos, parent, np.array([self.tokens[n] for n in fresh]), is_chain=one_line)
        out = yield Forward(rows, np.array([place[n] for n in nodes]), model=self.model, stage="draft")
        yield Commit(np.arange(len(rows) if one_line else 0), model=self.model)
        if one_line:
            self._line += fresh
            self._read += [self.tokens[n] for n in fresh]
        assert out.logits is not None
        for node, logits in zip(nodes, out.logits):
            self.odds[node] = self._shape(logits, node, told)

    def path(self, node: int) -> list[int]:
        """The nodes from the certain token to `node`."""
        out = []
        while node >= 0:
            out.append(node)
            node = self.parents[node]
        return out[::-1]

    def tree(self, drawn: bool = False) -> Tree:
        """What was grown. drawn: the nodes were drawn from the odds and will be judged by ratio; the tree then has their
        distributions, and chances that leave out a node's own token, since what was drawn may not decide if it is judged.
        """
        if not self.tokens:
            return EMPTY_TREE
        chance, q = self.chance, None
        if drawn:
            q = torch.stack([self.odds[p] for p in self.parents])
            chance = [self.chance[p] if p >= 0 else 1.0 for p in self.parents]
        return Tree(np.array(self.tokens, np.int64), np.array(self.parents, np.int64), q, np.array(chance))

    def _shape(self, logits: torch.Tensor, node: int, told: Told) -> torch.Tensor:
        """The request's probabilities over the target's vocabulary; padding rows of either embedding are no tokens."""
        if self.own_words:
            return torch.softmax(logits, -1)
        if told.vocab and len(logits) != told.vocab:
            whole = logits.new_full((told.vocab,), float("-inf"))
            n = min(len(logits), told.vocab)
            whole[:n] = logits[:n]
            logits = whole
        return told.expect(logits, [self.tokens[n] for n in self.path(node)])

    def _cut(self, length: int) -> Work:
        """Roll the draft model's cache back to `length` tokens."""
        if length < len(self._read):
            yield Rewind(length, model=self.model)
            del self._read[length:]


def draw(odds: torch.Tensor, count: int, told: Told, rng: Rng) -> list[int]:
    """`count` different tokens from odds (V,) without replacement, in the order drawn; the likeliest ones when greedy.

    Fewer where fewer are possible. This is Gumbel top-k: the same law, drawn one by one.
    """
    if told.greedy:
        best = torch.topk(odds, min(count, len(odds)))
        return [int(t) for t, p in zip(best.indices, best.values) if p > 0]
    left, out = odds.clone(), list[int]()
    while len(out) < count and bool((left > 0).any()):
        out.append(rng.categorical(left.cpu()))
        left[out[-1]] = 0
    return out


def likeliest(odds: torch.Tensor, count: int) -> list[tuple[int, float]]:
    """The `count` likeliest tokens of odds (V,) with their probabilities, best first; none that is impossible."""
    best = torch.topk(odds, min(count, len(odds)))
    return [(t, p) for t, p in zip(best.indices.tolist(), best.values.tolist()) if p > 0]
