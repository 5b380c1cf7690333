"""Let a drafted token stand in for its near neighbours (LANTERN: Jang et al. 2025, there for the codes of images).

Where the target spreads its probability over tokens that mean nearly the same, a draft of one of them fails too often. So
a draft x is judged as if it also had the probability of its k nearest tokens A(x) by the target's embeddings, of which
only as many count as have `delta` together:

    m(x) = sum of p over the nearest of A(x), as long as it is at most delta
    x stands with probability min(1, (p(x) + s m'(x)) / q(x)),  m' = what of m is of use: min(q, p + m) - min(q, p)
    s = min(1, delta / sum of m' over the tokens that may be favoured);  else draw from max(p - q, 0)

The law of a token is then at most delta in total variation from the target's. That takes s: the paper bounds m(x) of each
token alone, and many tokens, each favoured by delta, would add up. Favoured are at most FAVOURED tokens, those likeliest
to be rejected. A greedy draft stands if p(x) + m(x) is more than the target's best. delta = 0 is the lossless rule.

Does not: choose neighbours by meaning in context, work on trees with siblings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from fewer.methods.propose.drawn_lines import DrawnLines
from fewer.parts.acceptance import coin
from fewer.seams import Accept, Propose, Target, knob
from fewer.types import Rng, Told, Tree

FAVOURED = 16


@dataclass(frozen=True)
class Neighbourhood(Accept):
    """A drafted token may borrow `delta` of its `near` nearest tokens' probability."""

    laws: ClassVar[frozenset[str]] = frozenset({"line"})

    delta: float = knob(0.2, "total variation that each token may be off the target's", low=0.0, high=1.0)
    near: int = knob(10, "nearest tokens that may lend", low=0)

    def drafter(self) -> Propose:
        return DrawnLines(length=5)

    def choose(self, node: int, tree: Tree, target: Target, rng: Rng, told: Told, state: Any) -> int:
        kids = tree.children(node)
        p = target.probs(node, soft=True)
        if told.greedy:
            best = int(target.probs(node).argmax())
            drafted = int(tree.tokens[kids[0]]) if kids else best
            return drafted if p[drafted] + self.lent(drafted, p, told) > p[best] else best
        if not kids:
            return rng.categorical(p.cpu())
        assert tree.q is not None
        token, q = int(tree.tokens[kids[0]]), tree.q[kids[0]].to(p)
        rest = (p - q).clamp_min(0)
        stands = (torch.minimum(p, q)[token] + self.favour(p, q, told).get(token, 0.0)) / q[token]
        return token if coin(stands, rng) or not rest.any() else rng.categorical(rest.cpu())

    def lent(self, token: int, p: torch.Tensor, told: Told) -> float:
        """m(x): probability of the nearest tokens, while it is at most delta."""
        together = torch.cumsum(p[told.near(token, self.near)], 0)
        together = together[together <= self.delta]
        return float(together[-1]) if len(together) else 0.0

    def favour(self, p: torch.Tensor, q: torch.Tensor, told: Told) -> dict[int, float]:
        """token -> probability by which it stands more often than in the lossless rule; delta in all at most."""
        over = torch.topk(q - p, min(FAVOURED, len(p)))
        tokens = [t for t, gap in zip(over.indices.tolist(), over.values.tolist()) if gap > 0] if self.delta else []
        more = {t: min(float(q[t] - p[t]), self.lent(t, p, told)) for t in tokens}
        total = sum(more.values())
        return {t: m * min(1.0, self.delta / total) for t, m in more.items()} if total else {}
