"""Memory by surprise: SirLLM (Yao et al., 2024).

What the model itself could not foresee is what it will need again: names, numbers, items of a list. So each entry's
token is scored once, when it is read, and old scores fade by turns:

    e_i = -log p(x_i | x_<i)          score_i = e_i * decay ** (turns since i)
    kept = sinks + the n highest scores + the newest others until the budget is full

with n = (1 - recent) (budget - sinks), so recent = 1.0 is StreamingLLM. The same entries stay in every layer and
kv-head; positions are places in the cache, as there. p is read from the forwards the engine runs anyway: the last
logits of one chunk score the first token of the next, and generated tokens are scored like any other.
Does not: know where a speaker's turn ends (a turn is a number of tokens), score a token again in later light.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from fewer.parts.budget import limit, require_least
from fewer.seams import Held, Retain, budget_knob, knob
from fewer.types import Told


@dataclass
class Memory:
    """One request's scores: surprise and turn of every entry held, in order, and the logits for the token to come."""

    limit: int | None
    surprise: np.ndarray
    turn: np.ndarray
    tip: torch.Tensor | None = None


@dataclass(frozen=True)
class EntropyMemory(Retain):
    """Keep the first, the most surprising and the newest entries, `budget` in all."""

    positions: ClassVar[str] = "place"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    budget: int | float = budget_knob(512, "entries kept a kv-head")
    sinks: int = knob(4, "first entries that always stay", low=0)
    recent: float = knob(0.5, "share of the budget beside the sinks that is for the newest entries", low=0.0, high=1.0)
    decay: float = knob(1.0, "factor on the surprise of an entry for every turn that follows it", low=0.01, high=1.0)
    turn: int = knob(64, "tokens in a turn", low=1)

    def __post_init__(self) -> None:
        require_least(self.budget, self.sinks + 1, "sinks + 1")

    def start(self, told: Told) -> Memory:
        return Memory(limit(self.budget, told.prompt_len, self.sinks + 1), np.zeros(0), np.zeros(0, np.int64))

    def read_logits(self, tokens: np.ndarray, logits: torch.Tensor, told: Told, state: Memory) -> None:
        if state.limit is None:
            return
        ids = torch.from_numpy(tokens).to(logits.device)
        first = [math.log(logits.shape[-1])] if state.tip is None else surprise(state.tip[None], ids[:1])
        state.surprise = np.concatenate([state.surprise, first, surprise(logits[:-1], ids[1:])])
        state.turn = np.concatenate([state.turn, (told.seen + np.arange(len(tokens))) // self.turn])
        state.tip = logits[-1].clone()

    def keep(self, held: Held, told: Told, state: Memory) -> dict[int, list[torch.Tensor]] | None:
        if state.limit is None or len(state.surprise) <= state.limit:
            return None
        scores = state.surprise * self.decay ** (state.turn[-1] - state.turn)
        sinks = min(self.sinks, state.limit)
        newest = round(self.recent * (state.limit - sinks))
        kept = remembered(scores, sinks, state.limit - sinks - newest, state.limit)
        state.surprise, state.turn = state.surprise[kept], state.turn[kept]
        return {layer: [torch.from_numpy(kept)] * held.n_heads for layer in range(held.n_layers)}

    def horizon(self, held: Held, told: Told, state: Memory) -> int | None:
        """Drafts may fill the free room; in a full memory every committed token evicts one."""
        return None if state.limit is None else max(1, state.limit - len(state.surprise) + 1)


def surprise(logits: torch.Tensor, tokens: torch.Tensor) -> np.ndarray:
    """logits (n, V) and the tokens (n,) that came after each -> their -log p (n,)."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return (wide.logsumexp(-1) - wide.gather(1, tokens[:, None])[:, 0]).cpu().numpy()


def remembered(scores: np.ndarray, sinks: int, best: int, budget: int) -> np.ndarray:
    """Ascending places: the first `sinks`, the `best` highest scores of all, then the newest others up to `budget`."""
    stays = np.zeros(len(scores), dtype=bool)
    stays[:sinks] = True
    stays[np.argsort(-scores, kind="stable")[:best]] = True
    others = np.flatnonzero(~stays)
    stays[others[len(others) - (budget - int(stays.sum())) :]] = True
    return np.flatnonzero(stays)
