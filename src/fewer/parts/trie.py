"""A trie that counts the n-grams of one growing text and grows draft trees from what followed its last tokens.

    P(path) = product over its tokens of rate(match + level) * count(child) / count(parent)

where the rate is how often, after a match of so many tokens, the text went on in a way that was known (learned on line).
The text's own last tokens are not counted among the parents: nothing has followed them yet.
What followed the longest suffix comes first; shorter suffixes fill what it leaves, with the chance that it fails.

A continuation seen once is not copied into the trie but read from the text where it stands, and becomes a node on its
second visit. The nodes at which the newest token is being counted are the suffixes to look up: no search at all. At
`capacity` entries the trie forgets what came once, oldest first, and halves the counts of what came more often.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush, nlargest
from itertools import count, islice

from fewer.parts.rates import Rates
from fewer.parts.trees import Sapling
from fewer.types import Tree

KNOWN = (
    0.39,
    0.61,
    0.63,
    0.7,
    0.78,
    0.81,
    0.9,
    0.9,
    0.91,
    0.92,
    0.95,
)  # as MATCHED in parts/rates.py, any continuation


class Node:
    """An n-gram seen more than once. more: next token -> Node; once: next token -> where the text goes on behind it."""

    __slots__ = ("count", "depth", "more", "once")

    def __init__(self, depth: int) -> None:
        self.depth, self.count = depth, 1
        self.more: dict[int, Node] = {}
        self.once: dict[int, int] = {}


@dataclass(slots=True)
class Trie:
    """Counts n-grams of at most `depth` tokens of one growing text, in at most `capacity` entries."""

    depth: int
    capacity: int
    size: int = 0  # entries: Nodes and continuations seen once
    read: int = 0  # tokens of the text counted so far
    oldest: int = 0  # continuations seen once before this place are forgotten
    root: Node = field(default_factory=lambda: Node(0))
    open: list[Node] = field(default_factory=list)  # suffixes of the text that came before, longest first
    rates: Rates = field(default_factory=lambda: Rates(KNOWN))

    def extend(self, text: list[int], own: int = 0) -> None:
        """Count what `text` has gained since the last call; its last `own` tokens also teach how often it goes on as known."""
        for at in range(self.read, len(text)):
            if self.open and at >= len(text) - own:
                longest, token = self.open[0], text[at]
                self.rates.note(longest.depth - 1, token in longest.more or token in longest.once)
            self._push(text, at)
            if self.size > self.capacity:
                self._forget(text, at + 1)
        self.read = len(text)

    def _push(self, text: list[int], at: int) -> None:
        token = text[at]
        still = []
        for node in (*self.open, self.root):
            child = node.more.get(token)
            if child is None:
                follows = node.once.pop(token, None)
                if follows is None:
                    node.once[token] = at + 1
                    self.size += 1
                    continue
                child = node.more[token] = Node(node.depth + 1)
                child.once[text[follows]] = follows + 1
                self.size += 1
            child.count += 1
            if child.depth < self.depth:
                still.append(child)
        self.open = still

    def _forget(self, text: list[int], end: int) -> None:
        """Shrink to half the capacity; then find the suffixes of text[:end] again."""
        while self.size > self.capacity // 2:
            self.oldest = (self.oldest + end + 1) // 2
            self.size = self._prune(self.root)
        self.open = []
        for start in range(max(0, end - self.depth + 1), end):
            node: Node | None = self.root
            for token in text[start:end]:
                node = None if node is None else node.more.get(token)
            if node is not None:
                self.open.append(node)

    def _prune(self, node: Node) -> int:
        """Entries left below `node`."""
        node.count = (node.count + 1) // 2
        node.once = {t: at for t, at in node.once.items() if at > self.oldest}
        left = {t: self._prune(child) for t, child in node.more.items()}
        node.more = {t: node.more[t] for t, n in left.items() if n}
        return len(node.once) + sum(n + 1 for n in left.values() if n)

    def matched(self, longest: int) -> int:
        """Tokens of the longest suffix that came before, at most `longest`."""
        return next((node.depth for node in self.open if node.depth <= longest), 0)

    def branches(self, text: list[int], shortest: int, longest: int, nodes: int, levels: int) -> Tree:
        """A draft of at most `nodes` tokens, `levels` deep, from what followed suffixes of shortest..longest tokens."""
        draft, order = Sapling(), count()
        heap: list[tuple] = []

        def offer(p: float, parent: int, level: int, node: Node | None, at: int) -> None:
            """Queue what may follow the draft's node `parent`: a trie node's children, or the text at `at`."""
            p *= self.rates[suffix.depth + level - 1]
            if node is None:
                if at < len(text):
                    heappush(heap, (-p, next(order), parent, level, text[at], None, at + 1))
                return
            p /= node.count - (level == 0)
            for token, child in nlargest(nodes, node.more.items(), key=lambda item: item[1].count):
                heappush(heap, (-p * child.count, next(order), parent, level, token, child, 0))
            for token, at in islice(reversed(node.once.items()), nodes):
                heappush(heap, (-p, next(order), parent, level, token, None, at))

        left = 1.0
        for suffix in self.open:
            if shortest <= suffix.depth <= longest:
                heap.clear()
                offer(left, -1, 0, suffix, 0)
                while heap and len(draft) < nodes:
                    less, _, parent, level, token, node, at = heappop(heap)
                    here = draft.add(parent, token, -less)
                    if level + 1 < levels:
                        offer(-less, here, level + 1, node, at)
                left *= 1 - self.rates[suffix.depth - 1]
        return draft.tree()
