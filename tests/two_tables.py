"""Models as tables, for acceptance alone: p and q are drawn per path, and every draw is enumerated. No engine, no forwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fewer.seams import Accept
from fewer.testing.enumerate import distribution
from fewer.types import Rng, Told, Tree


def random_p(*path: int, vocab: int = 3, seed: int = 0, sharp: float = 1.0) -> torch.Tensor:
    """A fixed random distribution (V,) for a path."""
    g = np.random.default_rng([seed, len(path), *path])
    return torch.softmax(torch.from_numpy(g.normal(size=vocab) * sharp), 0)


class Table:
    """`Target` whose probabilities come from a function of the tokens so far."""

    def __init__(self, tree: Tree, p: Callable[..., torch.Tensor]) -> None:
        self.tree, self.p, self.said, self.seen = tree, p, list[int](), len(tree)

    def probs(self, node: int, soft: bool = False) -> torch.Tensor:
        path = []
        while node >= 0:
            path.append(int(self.tree.tokens[node]))
            node = int(self.tree.parent[node])
        assert path[::-1] == self.said, "a node was asked about that the text does not lead to"
        return self.p(*self.said)

    def push(self, token: int) -> None:
        self.said.append(token)

    def ends(self, token: int) -> bool:
        return False


def judged(
    accept: Accept, draft: Callable[[Rng], Tree], p: Callable[..., torch.Tensor], length: int
) -> dict[Any, float]:
    """The exact law of the first `length` tokens: drafted, judged, and what is missing drawn from p."""

    def run(rng: Rng) -> tuple[int, ...]:
        tree = draft(rng)
        target = Table(tree, p)
        path, bonus = accept.walk(tree, target, rng, Told(1), None)  # type: ignore[arg-type]
        assert target.said == [*tree.tokens[path].tolist(), bonus]
        while len(target.said) < length:
            target.push(rng.categorical(p(*target.said)))
        return tuple(target.said[:length])

    return distribution(run)


def said_by(p: Callable[..., torch.Tensor], length: int, vocab: int = 3) -> dict[Any, float]:
    """The law of `length` tokens drawn from p one by one."""
    out = {(): 1.0}
    for _ in range(length):
        out = {(*path, t): chance * float(p(*path)[t]) for path, chance in out.items() for t in range(vocab)}
    return out


def lines(q: Callable[..., torch.Tensor], count: int, length: int) -> Callable[[Rng], Tree]:
    """Draws `count` lines alike, equal beginnings merged and counted."""

    def draft(rng: Rng) -> Tree:
        nodes: dict[tuple[int, ...], int] = {}
        tokens, parents, laws, copies = [], [], [], []
        for _ in range(count):
            path: tuple[int, ...] = ()
            for _ in range(length):
                law = q(*path)
                parent, path = nodes.get(path, -1), (*path, rng.categorical(law))
                if path not in nodes:
                    nodes[path] = len(tokens)
                    tokens.append(path[-1])
                    parents.append(parent)
                    laws.append(law)
                    copies.append(0)
                copies[nodes[path]] += 1
        return Tree(np.array(tokens), np.array(parents), torch.stack(laws), copies=np.array(copies))

    return draft


def siblings(q: Callable[..., torch.Tensor], widths: tuple[int, ...]) -> Callable[[Rng], Tree]:
    """Draws a tree whose siblings are without replacement."""

    def draft(rng: Rng) -> Tree:
        tokens, parents, laws = list[int](), list[int](), list[torch.Tensor]()
        level: list[tuple[int, tuple[int, ...]]] = [(-1, ())]
        for width in widths:
            below = []
            for parent, path in level:
                law = q(*path)
                left = law.clone()
                for _ in range(width):
                    token = rng.categorical(left)
                    left[token] = 0
                    below.append((len(tokens), (*path, token)))
                    tokens.append(token)
                    parents.append(parent)
                    laws.append(law)
            level = below
        return Tree(np.array(tokens), np.array(parents), torch.stack(laws))

    return draft
