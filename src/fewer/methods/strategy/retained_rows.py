"""Prompt tokens that leave the network half way up: PromptDistill (Jin et al., 2025).

    layers 0..r-1   read the whole prompt;   s_j = q . k_j of the last token at layer r-1, summed over heads
    layers r..L-1   go on with the hidden states of the `budget` tokens of highest pooled s alone, at their old positions

Nothing starts again from the bottom, and no layer above r ever sees what was left behind: the prompt costs
n x r + budget x (L - r) rows x layers, and the upper layers hold `budget` entries. Tokens of the answer pass all layers.
Pass 1 leaves the stack after r layers with its hidden states; pass 2 enters it there with soft rows (Forward.start).
Does not: select a second time deeper in the stack, shorten the lower layers' cache (the authors' code can do both).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch

from fewer.decode import answer, prefill, transform
from fewer.parts.look import Look, best_places, depth_of
from fewer.parts.pooling import mean_over_neighbours
from fewer.request import Request
from fewer.seams import Commit, Forward, Strategy, Work, budget_knob, knob, resolve_budget
from fewer.types import Rows, chain

HELD = "it decides itself what each layer holds of the prompt."


@dataclass(frozen=True)
class RetainedRows(Strategy):
    """Above layer `layer`, only `budget` prompt tokens go on: those the last one looks at there."""

    excludes: ClassVar[Mapping[str, str]] = MappingProxyType({"retain": HELD, "route": HELD})
    plain_cache: ClassVar[bool] = False

    budget: int | float = budget_knob(0.5, "prompt tokens that pass all layers")
    layer: float = knob(0.4, "depth of the selection, as a share of the layers", low=0.0, high=1.0)
    pool: int = knob(5, "places averaged around each token (odd)", low=1)
    tail: int = knob(32, "last prompt tokens that always stay: the question", low=1)

    def run(self, req: Request, horizon: Callable[[], int | None]) -> Work:
        n = len(req.prompt)
        budget = resolve_budget(self.budget, n)
        if budget is None or budget >= n:
            pending, at = yield from prefill(req)
        else:
            yield from transform(req)
            yield from self.read(req, budget)
            pending, at = req.prompt[-1:], n - 1
        yield from answer(req, pending, at, horizon)

    def read(self, req: Request, budget: int) -> Work:
        """Read the prompt but for its last token, which needs all layers for its answer; here it only looks."""
        n, depth = len(req.prompt), depth_of(self.layer, req.told.n_layers)
        look, hidden = Look(depth - 1), list[torch.Tensor]()
        for at in range(0, n, req.chunk):
            rows = chain(req.prompt[at : at + req.chunk], at)
            last = at + len(rows) == n
            out = yield Forward(rows, None, stop=depth, taps=frozenset({"last"}), watch=look, stage="prefill")
            hidden.append(out.hidden["last"])
            yield Commit(np.arange(len(rows) - last))
            if req.on_progress:
                req.on_progress(at + len(rows), n)
        stay = np.zeros(n, dtype=bool)
        stay[n - min(self.tail, budget) :] = True
        kept = best_places(mean_over_neighbours(look.scores, self.pool), stay, budget)[:-1]
        states = torch.cat(hidden)[torch.from_numpy(kept)]
        for at in range(0, len(kept), req.chunk):
            pos = kept[at : at + req.chunk]
            m = len(pos)
            rows = Rows(pos, np.arange(-1, m - 1), np.full(m, -1), states[at : at + m])
            yield Forward(rows, None, start=depth, stage="prefill")
            yield Commit(np.arange(m))
