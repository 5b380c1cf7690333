"""Several drafters as one: their trees become one tree by shared prefixes, and each hears its own part of the verdict.

    chance(node) = 1 - product over the drafters that drafted it of (1 - theirs)

so what several foresee comes first. Chances are set right beforehand by what stood of each drafter's own nodes
(parts/chances.py), which also gives some to a drafter that has none, so that they compare.
In feedback a drafter hears of the nodes it drafted that were verified, and of those that stand whoever drafted them:
what stands is a line from the certain token, for it as for a drafter alone. Soft nodes are never shared.
Does not: say from which distribution a node was drawn; a rule that compares with it cannot be combined with this.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fewer.parts.chances import Acceptance
from fewer.seams import Propose, Target, Work
from fewer.types import EMPTY_TREE, Rng, Told, Tree

if TYPE_CHECKING:
    from fewer.models.decoder import Decoder


def merge(trees: Sequence[Tree], chances: Sequence[np.ndarray]) -> tuple[Tree, list[np.ndarray]]:
    """-> (one tree, for each given tree the places of its nodes in it). chances: (N,) of each tree's nodes."""
    place: dict[tuple[int, int], int] = {}
    tokens, parents, misses, vectors = list[int](), list[int](), list[float](), list[torch.Tensor]()
    places = []
    for tree, chance in zip(trees, chances):
        mine, soft = list[int](), iter(() if tree.embeds is None else tree.embeds)
        for token, up, p in zip(tree.tokens.tolist(), tree.parent.tolist(), chance.tolist()):
            parent, here = mine[up] if up >= 0 else -1, len(tokens)
            if token < 0:
                vectors.append(next(soft))
            else:
                here = place.setdefault((parent, token), here)
            if here == len(tokens):
                tokens.append(token)
                parents.append(parent)
                misses.append(1.0)
            misses[here] *= 1.0 - p
            mine.append(here)
        places.append(np.array(mine, np.int64))
    if not tokens:
        return EMPTY_TREE, places
    embeds = torch.stack(vectors) if vectors else None
    return Tree(np.array(tokens), np.array(parents), None, 1.0 - np.array(misses), embeds), places


def find(part: Tree, whole: Tree) -> list[int]:
    """Where each node of `part` is in `whole`, of which it holds some nodes in order; of soft siblings the first ones."""
    there = dict(zip(_names(whole.parent.tolist(), whole.tokens.tolist()), range(len(whole))))
    out: list[int] = []
    up = part.parent.tolist()
    count: dict[int, int] = {}
    for i, token in enumerate(part.tokens.tolist()):
        parent = out[up[i]] if up[i] >= 0 else -1
        nth = 0
        if token < 0:
            nth = count[parent] = count.get(parent, 0) + 1
        out.append(there[parent, token, nth])
    return out


def _names(parents: list[int], tokens: list[int]) -> Iterable[tuple[int, int, int]]:
    """(parent, token, number among its soft siblings, from 1) of each node; no two are equal."""
    count: dict[int, int] = {}
    for parent, token in zip(parents, tokens):
        if token < 0:
            count[parent] = count.get(parent, 0) + 1
        yield parent, token, count[parent] if token < 0 else 0


class Part:
    """A `Target` that shows some nodes of another, numbered anew."""

    def __init__(self, whole: Target, nodes: list[int]) -> None:
        self._whole, self._nodes, self.seen = whole, nodes, len(nodes)
        self._rows = torch.tensor([0, *(n + 1 for n in nodes)])

    @property
    def logits(self) -> torch.Tensor:
        return self._whole.logits[self._rows]

    @property
    def best(self) -> np.ndarray:
        return self._whole.best[self._rows.numpy()]

    def hidden(self, tap: str) -> torch.Tensor:
        return self._whole.hidden(tap)[self._rows]

    def draw(self, node: int) -> int:
        return self._whole.draw(self._at(node))

    def ends(self, token: int) -> bool:
        return self._whole.ends(token)

    def probs(self, node: int, soft: bool = False) -> torch.Tensor:
        return self._whole.probs(self._at(node), soft)

    def push(self, token: int) -> None:
        self._whole.push(token)

    def _at(self, node: int) -> int:
        return self._nodes[node] if node >= 0 else -1


@dataclass
class Turn:
    """One request's state: that of each drafter, what its nodes are worth, and the draft under way."""

    states: list[Any]
    worth: list[Acceptance]
    whole: Tree = EMPTY_TREE
    places: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Merged(Propose):
    """Drafts with all of `parts`. What they need and use it needs and uses."""

    parts: tuple[Propose, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", " + ".join(p.name or type(p).__name__ for p in self.parts))

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset[str]().union(*(p.needs for p in self.parts))

    @property
    def uses(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset[str]().union(*(p.uses for p in self.parts))

    @property
    def taps(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset[str]().union(*(p.taps for p in self.parts))

    @property
    def by_text(self) -> bool:  # type: ignore[override]
        """True only if every part that uses a second model speaks to it through text."""
        return all(p.by_text for p in self.parts if p.uses)

    def most(self) -> int:
        return sum(p.most() for p in self.parts)

    def brings(self, main: Decoder) -> dict[str, Decoder]:
        return {name: model for p in self.parts for name, model in p.brings(main).items()}

    def start(self, told: Told) -> Turn:
        return Turn([p.start(told) for p in self.parts], [Acceptance() for _ in self.parts])

    def draft(self, context: list[int], limit: int, told: Told, state: Turn, rng: Rng) -> Work:
        trees = []
        for p, own in zip(self.parts, state.states):
            tree = yield from p.draft(context, limit, told, own, rng)
            trees.append(tree.trimmed(limit))
        state.whole, state.places = merge(trees, [w.chances(t) for w, t in zip(state.worth, trees)])
        return state.whole

    def ahead(self, context: list[int], tree: Tree, limit: int, told: Told, state: Turn, rng: Rng) -> Work | None:
        asked = [p.ahead(context, tree, limit, told, own, rng) for p, own in zip(self.parts, state.states)]
        works = [w for w in asked if w is not None]
        return _in_turn(works) if works else None

    def feedback(self, tree: Tree, path: list[int], target: Target, told: Told, state: Turn) -> None:
        there = find(tree, state.whole)
        for i, (p, own) in enumerate(zip(self.parts, state.states)):
            if not p.needs and not p.taps:
                continue
            own_nodes = set(state.places[i].tolist()) if there else set()
            known = {*path, *(n for n, at in enumerate(there) if at in own_nodes)}
            nodes = sorted(known)
            new = {n: k for k, n in enumerate(nodes)}
            p.feedback(tree.only(np.array(nodes, np.int64)), [new[n] for n in path], Part(target, nodes), told, own)

    def learn(self, context: list[int], new: list[int], told: Told, state: Turn) -> None:
        for p, own, worth in zip(self.parts, state.states, state.worth):
            worth.heard(new)
            p.learn(context, new, told, own)
        state.whole, state.places = EMPTY_TREE, []


def _in_turn(works: list[Work]) -> Work:
    for work in works:
        yield from work
