"""Score and evict at every commit: H2O, TOVA, KeyDiff. Memory never exceeds the budget and one chunk of the prompt.

    sum     s_j = attention that entry j has received from all rows since it came          H2O (Zhang et al., 2023)
    last    s_j = attention that the last row gives it                                     TOVA (Oren et al., 2024)
    keys    s_j = -cos(k_j, mean of the keys held, each made of length 1)                  KeyDiff (Park et al., 2025)

Whenever more than `budget` entries are held: the first `sinks` stay, the newest `recent` share of the budget stays, and
of the others those of highest score. heads = "own": each kv-head judges by its own queries, "shared": a layer's heads
keep the same entries by their mean. Layers differ. Positions stay those of the text.
A prompt that comes in chunks is cut after each: its rows still see their whole chunk.
Query-aware by nature as far as the last rows go (sum, last); keys knows no query.
Does not: bring back what is gone, give heads different numbers of entries (prompt_scores.py does).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from fewer.parts.allocation import best
from fewer.parts.budget import limit, require_least
from fewer.parts.scorers import distinct, grown
from fewer.seams import Held, Retain, budget_knob, knob
from fewer.types import Told


@dataclass
class Running:
    """One request's entries allowed (None = all) and, per layer, what its entries were given: (H, n)."""

    limit: int | None
    mass: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class RunningScores(Retain):
    """Keep `budget` entries of every kv-head, chosen anew after every commit."""

    budget: int | float = budget_knob(512, "entries kept a kv-head")
    scorer: str = knob("sum", "what an entry is worth", choices=("sum", "last", "keys"))
    heads: str = knob("own", "each kv-head keeps its own entries, or a layer's all the same", choices=("own", "shared"))
    sinks: int = knob(0, "first entries that always stay", low=0)
    recent: float = knob(0.0, "share of the budget that is for the newest entries", low=0.0, high=1.0)

    def __post_init__(self) -> None:
        require_least(self.budget, self.least, "sinks + 2" if self.scorer == "keys" else "sinks + 1")

    @property
    def least(self) -> int:
        """The smallest budget that leaves a choice. Two keys are always equally far from their mean."""
        return self.sinks + 1 + (self.scorer == "keys")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset() if self.scorer == "keys" else frozenset({"attention"})

    def start(self, told: Told) -> Running:
        return Running(limit(self.budget, told.prompt_len, self.least))

    # ------------------------------------------------------------------ evidence
    def probe(self, m: int, told: Told, state: Running) -> np.ndarray | None:
        if state.limit is None:
            return None
        if self.scorer == "sum":
            return np.arange(m)
        state.mass.clear()
        return np.array([0 if told.decoding else m - 1])  # drafts are not certain; where eviction is due there are none

    def watch(self, layer: int, rows: np.ndarray, probs: list[torch.Tensor], told: Told, state: Running) -> None:
        given = torch.stack([p.sum((0, 1)) for p in probs])
        old = state.mass.get(layer) if self.scorer == "sum" else None
        state.mass[layer] = given if old is None else given + grown(old, given.shape[1])

    def horizon(self, held: Held, told: Told, state: Running) -> int | None:
        """Drafts may fill the free room; scores that come from attention need the row after that to be certain."""
        if state.limit is None:
            return None
        if self.scorer == "sum":
            return 1
        room = state.limit - max(int(held.entries(layer).max()) for layer in range(held.n_layers))
        return max(1, room + (self.scorer == "keys"))

    # ------------------------------------------------------------------ eviction
    def keep(self, held: Held, told: Told, state: Running) -> dict[int, list[torch.Tensor]] | None:
        if state.limit is None:
            return None
        return {
            layer: self._cut(layer, held, state.limit, state)
            for layer in range(held.n_layers)
            if int(held.entries(layer).max()) > state.limit
        }

    def _cut(self, layer: int, held: Held, budget: int, state: Running) -> list[torch.Tensor]:
        """Places that each kv-head of a layer keeps; what they were given goes with them."""
        n = int(held.entries(layer).max())
        if self.scorer == "keys":
            view = held.view(layer)
            scores = torch.stack([distinct(view.keys(h)) for h in range(held.n_heads)])
        else:
            scores = grown(state.mass.get(layer, torch.zeros(held.n_heads, 0)), n)
        lanes = scores.mean(0, keepdim=True) if self.heads == "shared" else scores.clone()
        newest = round(self.recent * (budget - self.sinks))
        lanes[:, : self.sinks] = lanes[:, n - newest :] = float("inf")
        kept = [best(lane, budget) for lane in lanes]
        kept = kept * held.n_heads if self.heads == "shared" else kept
        if self.scorer == "sum":
            state.mass[layer] = torch.stack([s[at] for s, at in zip(scores, kept)])
        return kept
