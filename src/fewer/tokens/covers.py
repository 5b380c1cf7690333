"""Covers: the token sequences that spell some bytes, their last token reaching or crossing the end.

    head   a token sequence that ends inside or at the end of the bytes, known by its last token and its parent
    open   a head, and the trie node of what the bytes hold beyond it: every token of the node completes a cover

A rule (rules.py) says which tokens may follow a head, so there are few heads: at most a handful a byte, all on the
paths of one tree. Walking on by a byte narrows every node, drops those that no token goes on from, and where a node
holds a whole token adds the head that ends with it. Does not: run a model (bytes.py).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from fewer.tokens.rules import Rule
from fewer.tokens.trie import Node


class Head:
    """A token after `parent`: its position `at`, its place in the trie. The very first head may be no token (-1).

    `logp` is the log probability of the path from what is certain on, None until a model was asked."""

    __slots__ = ("__weakref__", "at", "children", "logp", "parent", "place", "state", "token")

    def __init__(self, token: int, place: int, state: Any, parent: Head | None) -> None:
        self.token, self.place, self.state, self.parent = token, place, state, parent
        self.at: int = parent.at + 1 if parent else 0 if token >= 0 else -1
        self.logp: float | None = None
        self.children: weakref.WeakValueDictionary[int, Head] = weakref.WeakValueDictionary()

    @property
    def known(self) -> float:
        """logp of a head whose parents the model was asked about."""
        assert self.logp is not None
        return self.logp

    def then(self, rule: Rule, place: int) -> Head:
        """The head one token further: one object a token, so that walks along equal paths share it."""
        head = self.children.get(place)
        if head is None:
            head = Head(int(rule.trie.ids[place]), place, rule.step(self.state, place), self)
            self.children[place] = head
        return head

    def path(self, base: Head | None = None) -> list[Head]:
        """Heads that are tokens, from behind `base` (None = from the text's start) down to this one."""
        out: list[Head] = []
        head: Head | None = self
        while head is not None and head is not base and head.token >= 0:
            out.append(head)
            head = head.parent
        return out[::-1]


class Open:
    """A head and the node of the bytes beyond it. `next` (N,) is the model's distribution over tokens after the head,
    by place and without those the rule forbids, `end` that of the text's end; None until a model was asked."""

    __slots__ = ("end", "head", "next", "node")

    def __init__(self, head: Head, node: Node, next_: np.ndarray | None = None, end: float = 0.0) -> None:
        self.head, self.node, self.next, self.end = head, node, next_, end


def walk(rule: Rule, opens: Iterable[Open], data: bytes) -> list[Open]:
    """The covers of the bytes so far followed by `data`; empty if nothing can spell them."""
    now = list(opens)
    for byte in data:
        further: list[Open] = []
        for o in now:
            node = rule.trie.child(o.node, byte)
            if node is None:
                continue
            place = rule.trie.whole(node)
            if place is None or node.high - node.low > 1:
                further.append(Open(o.head, node, o.next, o.end))
            if place is not None and rule.allows(o.head.state, place):
                head = o.head.then(rule, place)
                if o.next is not None and o.head.logp is not None and head.logp is None:
                    head.logp = o.head.logp + log(o.next[place])
                further.append(Open(head, rule.trie.root))
        now = further
    return now


def log(p: float) -> float:
    """Natural logarithm; that of 0 is -inf."""
    return math.log(p) if p > 0 else -math.inf


def meeting(heads: Iterable[Head]) -> Head:
    """The last head that all of these descend from or are."""
    rest = iter(heads)
    common = next(rest)
    for head in rest:
        while common is not head:
            if common.at >= head.at:
                assert common.parent is not None
                common = common.parent
            else:
                assert head.parent is not None
                head = head.parent
    return common


def tree(heads: Iterable[Head], base: Head | None) -> Iterator[Head]:
    """All heads on the paths from behind `base` to these, each once, parents first."""
    seen: set[int] = set()
    for head in heads:
        for step in head.path(base):
            if id(step) not in seen:
                seen.add(id(step))
                yield step
