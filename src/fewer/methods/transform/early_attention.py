"""Keep the prompt tokens that an early layer already looks at: GemFilter (Shi et al., 2024).

    pass 1: the first r layers over the whole prompt;  a_j = sum over heads of log p_h(last token -> j)   at layer r
    keep the top-k of mean_over_neighbours(a), in their order;  pass 2: the whole model on those tokens alone,
    with new consecutive positions.

The paper ranks by q.k summed over heads; log p_h = q.k - const_h, so the ranking is the same. Cost of the prompt falls
from n rows x L layers to n x r + k x L. Does not: keep anything of pass 1 in the cache; look back during generation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fewer.parts.look import Look, best_places, depth_of
from fewer.parts.pooling import mean_over_neighbours
from fewer.seams import Commit, Forward, Rewind, Transform, Work, budget_knob, knob, resolve_budget
from fewer.types import Told, chain

CHUNK = 512


@dataclass(frozen=True)
class EarlyAttention(Transform):
    """Keep `budget` prompt tokens chosen by the last token's attention at layer `layer`."""

    budget: int | float = budget_knob(0.5, "prompt tokens kept")
    layer: float = knob(0.4, "depth at which to look, as a share of the layers", low=0.0, high=1.0)
    pool: int = knob(5, "places averaged around each token (odd)", low=1)
    tail: int = knob(32, "last prompt tokens that always stay: the question", low=1)

    def run(self, tokens: list[int], forced: np.ndarray, told: Told, state: None) -> Work:
        n = len(tokens)
        budget = resolve_budget(self.budget, n)
        if budget is None or budget >= n:
            return np.arange(n)
        depth = depth_of(self.layer, told.n_layers)
        look = Look(depth - 1)
        for at in range(0, n, CHUNK):
            rows = chain(tokens[at : at + CHUNK], at)
            last = at + CHUNK >= n
            yield Forward(rows, stop=depth, watch=look if last else None, stage="transform")
            yield Commit(np.arange(len(rows)))
        yield Rewind(0)
        return self.choose(look.scores, forced, budget)

    def choose(self, scores: torch.Tensor, forced: np.ndarray, budget: int) -> np.ndarray:
        """Ascending places: what is forced, the tail, then the best of the rest up to the budget."""
        stay = forced.copy()
        stay[len(scores) - min(self.tail, budget) :] = True
        return best_places(mean_over_neighbours(scores, self.pool), stay, budget)
