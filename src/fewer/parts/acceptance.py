"""Acceptance by ratio: ways to draw one token from the target's p with drafts drawn from q, so that a draft often is it.

Recursive rejection (x1, x2, ... drawn from q without replacement, in that order; one of them: speculative sampling):

    x1 stands with probability min(1, p(x1) / q(x1)); else go on with p' = max(p - q, 0) / sum and q' = q without x1;
    when none stands, draw from the p that is left.

k-SEQ (x1 .. xk drawn from q alike), with the least rho >= 1 for which 1 - (1 - b)^k <= rho b, b = sum min(q, p / rho):

    each in turn stands with probability min(1, p(x) / (rho q(x))); when none stands, draw from
    p - min(q, p / rho) (1 - (1 - b)^k) / b, which that choice of rho keeps from being negative.

Both give exactly p for any q. Papers: Leviathan et al. 2023 and Chen et al. 2023; Jeon et al. 2024 (RSD); Sun et al. 2023
(SpecTr). Does not: judge drafts that were not drawn, work where a rule draws tokens itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from fewer.seams import Accept, Target
from fewer.types import Rng, Told, Tree

HALVINGS = 50  # of the interval in which rho is looked for


@dataclass(frozen=True)
class RecursiveRejection(Accept):
    """Siblings in the order drawn; each rejection leaves the residual of the target and the draft without the sibling."""

    laws: ClassVar[frozenset[str]] = frozenset({"line", "distinct"})
    exact: ClassVar[bool] = True

    def choose(self, node: int, tree: Tree, target: Target, rng: Rng, told: Told, state: Any) -> int:
        p, kids = target.probs(node), tree.children(node)
        if kids and tree.q is None:  # greedy drafts have no distribution, and the target's is one token
            return int(p.argmax())
        q = None if tree.q is None or not kids else tree.q[kids[0]].to(p)
        for kid in kids:
            assert q is not None
            token = int(tree.tokens[kid])
            rest = (p - q).clamp_min(0)
            if coin(p[token] / q[token], rng) or not rest.any():
                return token
            p = rest / rest.sum()
            q = q.clone()
            q[token] = 0
            q = q / q.sum()
        return rng.categorical(p.cpu())


@dataclass(frozen=True)
class KSequential(Accept):
    """Drafts drawn alike, tried one after the other at one reduced ratio."""

    laws: ClassVar[frozenset[str]] = frozenset({"line", "independent"})
    exact: ClassVar[bool] = True

    def choose(self, node: int, tree: Tree, target: Target, rng: Rng, told: Told, state: Any) -> int:
        p, kids = target.probs(node), tree.children(node)
        if not kids:
            return rng.categorical(p.cpu())
        assert tree.q is not None
        q = tree.q[kids[0]].to(p)
        copies = np.ones(len(kids), np.int64) if tree.copies is None else tree.copies[kids]
        count = int(copies.sum())
        rho, same = least_rho(p, q, count)
        for _ in range(count):  # drafts drawn alike may be tried in any order that does not look at them
            at = rng.categorical(copies) if len(kids) > 1 else 0
            copies[at] -= 1
            token = int(tree.tokens[kids[at]])
            if coin(p[token] / (rho * q[token]), rng):
                return token
        share = torch.minimum(q, p / rho)
        rest = (p - share * ((1 - (1 - same) ** count) / same)).clamp_min(0) if same > 0 else p
        return rng.categorical((rest if rest.any() else p).cpu())


def coin(chance: torch.Tensor | float, rng: Rng) -> bool:
    """True with probability min(1, chance); certain outcomes are not drawn."""
    stands = min(1.0, float(chance))
    return stands == 1.0 or (stands > 0 and rng.categorical(np.array([1 - stands, stands])) == 1)


def least_rho(p: torch.Tensor, q: torch.Tensor, count: int) -> tuple[float, float]:
    """rho in [1, count] as above, from the safe side, and its b."""
    both = (p > 0) & (q > 0)
    p, q = p[both].double(), q[both].double()

    def same(rho: float) -> float:
        return float(torch.minimum(q, p / rho).sum())

    low, high = 1.0, float(count)
    for _ in range(HALVINGS if count > 1 else 0):
        rho = (low + high) / 2
        b = same(rho)
        if 1 - (1 - b) ** count <= rho * b:
            high = rho
        else:
            low = rho
    return high, same(high)
