"""Attention sinks plus a sliding window: StreamingLLM (Xiao et al., 2023), LM-Infinite (Han et al., 2023).

A softmax must put its weight somewhere, and models put what they do not need on the very first tokens. So keep those
`sinks` entries for ever, beside the newest budget - sinks ones:

    kept = [0, sinks) + [n - (budget - sinks), n)

Positions are places in the cache, not in the text: keys are stored unrotated and rotated when read, the query stands
at place n. That is why the text may grow without limit. Acts after every commit, so a long prompt streams through the
window chunk by chunk and memory never exceeds budget + one chunk.
LM-Infinite's mask has the same form, the window being the trained length, and caps distances at it: with `capped` the
sinks are rotated as if they stood where the window begins, min(i - j, budget - sinks) away.
Does not: bring back what left the window (LM-Infinite may look once more at its best entries), choose entries by
content (see entropy_memory.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from fewer.parts.budget import limit, require_least, sinks_and_recent
from fewer.seams import Held, Retain, budget_knob, knob
from fewer.types import Told


@dataclass(frozen=True)
class SinkWindow(Retain):
    """Keep `sinks` first and the newest entries, `budget` in all, at every layer and kv-head."""

    positions: ClassVar[str] = "place"

    budget: int | float = budget_knob(512, "entries kept a kv-head")
    sinks: int = knob(4, "first entries that always stay", low=0)
    capped: bool = knob(False, "sinks never stand further away than the window is wide")

    def __post_init__(self) -> None:
        require_least(self.budget, self.sinks + 1, "sinks + 1")

    def start(self, told: Told) -> int | None:
        return limit(self.budget, told.prompt_len, self.sinks + 1)

    def keep(self, held: Held, told: Told, state: int | None) -> dict[int, list[torch.Tensor]] | None:
        if state is None:
            return None
        out = {}
        for layer in range(held.n_layers):
            n = int(held.entries(layer).max())
            if n > state:
                out[layer] = [sinks_and_recent(n, self.sinks, state)] * held.n_heads
        return out

    def furthest(self, told: Told, state: int | None) -> int | None:
        return state - self.sinks if self.capped and state is not None else None

    def horizon(self, held: Held, told: Told, state: Any) -> int | None:
        """Drafts may fill the free room; in a full window every committed token evicts one."""
        return None if state is None else max(1, state - int(held.entries(0).max()) + 1)
