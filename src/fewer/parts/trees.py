"""Draft trees under construction: branches that share a prefix share its rows, and two drafts become one.

`chance` is the estimate that a node and all before it stand. It never grows from a parent to its child, so the most
likely nodes of a tree are a tree.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fewer.types import EMPTY_TREE, Tree


class Sapling:
    """Nodes are numbered as they are added; -1 is the certain token. Two nodes of one parent and token are one."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.chances: list[float] = []
        self._place: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, parent: int, token: int, chance: float) -> int:
        """The node's number. One that is there already keeps the better of the two chances."""
        here = self._place.setdefault((parent, token), len(self.tokens))
        if here == len(self.tokens):
            self.tokens.append(token)
            self.parents.append(parent)
            self.chances.append(chance)
        elif chance > self.chances[here]:
            self.chances[here] = chance
        return here

    def add_chain(self, tokens: Iterable[int], chances: Iterable[float]) -> None:
        """One branch from the certain token down."""
        parent = -1
        for token, chance in zip(tokens, chances):
            parent = self.add(parent, token, chance)

    def add_tree(self, tree: Tree) -> None:
        """All of another draft, joined where the paths agree (longest prefix matching)."""
        chances = np.ones(len(tree)) if tree.chance is None else tree.chance
        at = [-1] * (len(tree) + 1)
        for i, (token, parent, chance) in enumerate(zip(tree.tokens.tolist(), tree.parent.tolist(), chances.tolist())):
            at[i] = self.add(at[parent], token, chance)

    def tree(self) -> Tree:
        """What was built."""
        if not self.tokens:
            return EMPTY_TREE
        return Tree(
            np.array(self.tokens, np.int64), np.array(self.parents, np.int64), chance=np.array(self.chances, np.float64)
        )


def best(tree: Tree, nodes: int) -> Tree:
    """The `nodes` nodes of the greatest chance; among equals those that come first."""
    if len(tree) <= nodes or tree.chance is None:
        return tree
    return tree.only(np.sort(np.argsort(-tree.chance, kind="stable")[:nodes]))


def rooted(tree: Tree, roots: set[int]) -> Tree:
    """The branches that begin with one of the tokens `roots`."""
    root: list[int] = []
    for parent, token in zip(tree.parent.tolist(), tree.tokens.tolist()):
        root.append(token if parent < 0 else root[parent])
    return tree.only(np.array([i for i, token in enumerate(root) if token in roots], dtype=np.int64))


def stood(tree: Tree, new: list[int]) -> list[int]:
    """The nodes on the path that the text `new` took, from the certain token down."""
    children = {(p, t): i for i, (p, t) in enumerate(zip(tree.parent.tolist(), tree.tokens.tolist()))}
    path: list[int] = []
    for token in new:
        node = children.get((path[-1] if path else -1, token))
        if node is None:
            break
        path.append(node)
    return path
