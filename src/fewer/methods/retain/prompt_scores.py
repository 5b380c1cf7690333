"""Score the prompt once, when it is complete, and keep the best: the family of SnapKV, Ada-KV, PyramidKV, KVzip, ...

    kept = the first `sinks`, the newest `window`, and the entries of highest score up to `budget`

A point in this family is a scorer (parts/scorers.py: window, expected, keys, rebuild), pooling over neighbours, and an
allocation of budget x layers x heads (parts/allocation.py: even, pyramid, heads, model). Heads and layers keep
different entries, and different numbers of them; positions stay those of the text.

Query-aware or query-agnostic is one knob. question = 0: the prompt's last tokens take part, so a scorer that looks at
attention is aware of what they ask. question = q: the cache is cut before the last q tokens are read, no scorer sees
them, and they read what is left: the cache could have served any question. They count in the budget and always stay.
Does not: evict generated tokens (running_scores.py does), make prefill's memory smaller.

Li et al. 2024 (SnapKV), Cai et al. 2024 (PyramidKV), Feng et al. 2024 (Ada-KV), Devoto et al. 2025 (Expected Attention),
Kim et al. 2025 (KVzip).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from fewer.parts.allocation import SHARES, Allocation
from fewer.parts.budget import limit, require_least
from fewer.parts.pooling import POOLS
from fewer.parts.rebuilding import Rebuilding
from fewer.parts.scorers import ExpectedAttention, KeyDistance, Scorer, WindowAttention
from fewer.seams import Held, Retain, Work, budget_knob, knob
from fewer.types import Told

SCORERS: dict[str, type[Scorer]] = {
    "window": WindowAttention,
    "expected": ExpectedAttention,
    "keys": KeyDistance,
    "rebuild": Rebuilding,
}


@dataclass
class Study:
    """One request's scorer and the entries of its context that a head may keep. scorer None: nothing is to be evicted."""

    scorer: Scorer | None
    budget: int = 0


@dataclass(frozen=True)
class PromptScores(Retain):
    """Keep `budget` entries of the prompt a kv-head, on average, chosen when it has been read."""

    acts: ClassVar[str] = "prompt"

    budget: int | float = budget_knob(512, "prompt entries kept a kv-head, on average")
    scorer: str = knob("window", "what an entry is worth", choices=tuple(SCORERS))
    shares: str = knob("even", "who may keep how much", choices=SHARES)
    window: int = knob(32, "newest entries that always stay; the rows whose attention scorer=window reads", low=0)
    sinks: int = knob(0, "first entries that always stay", low=0)
    pool: int = knob(1, "places pooled around each entry (odd)", low=1)
    pooling: str = knob("mean", "how neighbours are pooled", choices=tuple(POOLS))
    floor: float = knob(0.2, "share of its budget that a head keeps in any case (heads, model)", low=0.0, high=1.0)
    taper: float = knob(20.0, "an average layer's budget over the last layer's (pyramid)", low=1.0)
    question: int = knob(0, "last prompt tokens that no scorer may see; 0 = query-aware", low=0)

    def __post_init__(self) -> None:
        if self.pool % 2 == 0:
            raise ValueError(f"pool={self.pool} must be odd: a centred window")
        if self.scorer == "window" and self.window == 0:
            raise ValueError("scorer=window reads the attention of the last `window` tokens: window must be at least 1")
        require_least(self.budget, self.least, "sinks + window + question + 1")

    @property
    def least(self) -> int:
        """The smallest budget that leaves a choice."""
        return self.sinks + self.window + self.question + 1

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return SCORERS[self.scorer].needs

    def moment(self, told: Told) -> int:
        return told.prompt_len - self.question

    def start(self, told: Told) -> Study:
        budget, context = limit(self.budget, told.prompt_len, self.least), self.moment(told)
        if budget is None or context <= budget - self.question:
            return Study(None)
        return Study(SCORERS[self.scorer](context, self.window, self.sinks), budget - self.question)

    # ------------------------------------------------------------------ evidence
    def probe(self, m: int, told: Told, state: Study) -> np.ndarray | None:
        if state.scorer is None or told.seen >= state.scorer.context:
            return None
        return np.flatnonzero(state.scorer.wants(told.seen + np.arange(m)))

    def watch(self, layer: int, rows: np.ndarray, probs: list[torch.Tensor], told: Told, state: Study) -> None:
        if state.scorer is not None:
            state.scorer.see(layer, probs)

    def watch_queries(self, layer: int, rows: np.ndarray, q: torch.Tensor, told: Told, state: Study) -> None:
        if state.scorer is not None:
            state.scorer.see_queries(layer, q)

    def study(self, tokens: list[int], told: Told, state: Study) -> Work:
        if state.scorer is not None:
            yield from state.scorer.study(tokens, told)

    # ------------------------------------------------------------------ eviction
    def keep(self, held: Held, told: Told, state: Study) -> dict[int, list[torch.Tensor]] | None:
        if state.scorer is None:
            return None
        scores = [self._protected(state.scorer.score(layer, held)) for layer in range(held.n_layers)]
        fixed = self.sinks + self.window
        allocation = Allocation(self.shares, state.budget, fixed, self.floor, self.taper)
        state.scorer = None
        return dict(enumerate(allocation.places(scores)))

    def _protected(self, scores: torch.Tensor) -> torch.Tensor:
        """scores (H, n) pooled, and infinite for what stays in any case. The window's own scores pool with nobody."""
        n = scores.shape[1]
        end = max(0, n - self.window)
        out = torch.full_like(scores, float("inf"))
        first = min(self.sinks, end)
        out[:, first:end] = POOLS[self.pooling](scores[:, :end], self.pool)[:, first:]
        return out
