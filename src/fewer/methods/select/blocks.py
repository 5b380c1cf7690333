"""Blocks of neighbouring entries, the best read whole: Quest (Tang et al., 2024), InfLLM (Xiao et al., 2024).

Entries are cut into blocks of `block`, each told by a summary, and a row reads the blocks that its queries rank highest:

    bounds            u = sum_i max(q_i lo_i, q_i hi_i)   lo, hi: least and greatest coordinate of the block's keys; no key
                      of the block scores more than u (Quest)
    representatives   r = sum of q . k_m over the block's `representatives` entries m of highest local score,
                      the mean of q_j . k_m over the `local` tokens j behind m (InfLLM)

The first `sinks` entries, the newest `recent` and the incomplete block at the end are always read. Summaries are made once
a block and kept beside the cache, so a row scans them instead of the keys. The queries of a kv-head choose together: the
best of them (bounds) or their sum (representatives).
Does not: page blocks out of memory, select while the prompt is read, move far blocks to nearer positions, score tokens that
the model wrote (they represent their blocks in order).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from fewer.kernels.dots import dots
from fewer.kv.view import View
from fewer.parts.local_score import LocalScore
from fewer.parts.summaries import Summaries
from fewer.seams import Select, budget_knob, knob, resolve_budget
from fewer.types import Rows, Told


@dataclass
class Index:
    """One request: entries allowed, layers without a window, the blocks of each layer and kv-head, local scores."""

    limit: int | None
    taking_part: frozenset[int]
    blocks: dict[tuple[int, int], Summaries] = field(default_factory=dict)
    scores: dict[int, LocalScore] = field(default_factory=dict)


@dataclass(frozen=True)
class BestBlocks(Select):
    """Read the blocks whose summaries promise most."""

    needs: ClassVar[frozenset[str]] = frozenset()

    budget: int | float = budget_knob(1024, "entries a kv-head reads")
    block: int = knob(16, "entries a block", low=1)
    full_layers: int = knob(2, "first layers read in full", low=0)
    sinks: int = knob(0, "first entries always read", low=0)
    recent: int = knob(0, "newest entries always read", low=0)

    def start(self, told: Told) -> Index:
        rest = [i for i, window in enumerate(told.windows) if window is None and i >= self.full_layers]
        return Index(resolve_budget(self.budget, told.prompt_len), frozenset(rest))

    def summarise(self, keys: torch.Tensor, pos: torch.Tensor, h: int, scores: LocalScore | None) -> torch.Tensor:
        """keys (b, size, d), pos (b, size) of kv-head h -> (b, w)."""
        return torch.cat([keys.amax(1), keys.amin(1)], 1)

    def asks(self, q: torch.Tensor) -> torch.Tensor:
        """q (H, g, d) -> (H, n, w): a block is worth the greatest product of its summary with its kv-head's n vectors."""
        return torch.cat([q.clamp_min(0), q.clamp_max(0)], 2)

    def pick(self, layer: int, row: int, q: torch.Tensor, view: View, told: Told, state: Index) -> list | None:
        if state.limit is None or layer not in state.taking_part:
            return None
        lens, limit = view.lens().tolist(), state.limit
        if max(lens) <= limit:
            return None
        blocked = {h for h, n in enumerate(lens) if n > limit and n >= self.block}
        asks = self.asks(q.unflatten(0, (len(lens), -1)))
        told_by = [self._index(layer, h, state).of(view, h, lens[h]) for h in blocked]
        worth = dict(zip(blocked, dots([asks[h] for h in blocked], told_by)))
        return [
            torch.from_numpy(self._places(worth[h].numpy().max(0), n, limit))
            if h in blocked
            else torch.arange(max(0, n - limit), n)
            for h, n in enumerate(lens)
        ]

    def _index(self, layer: int, h: int, state: Index) -> Summaries:
        if (layer, h) not in state.blocks:
            make = partial(self.summarise, h=h, scores=state.scores.get(layer))
            state.blocks[layer, h] = Summaries(self.block, make)
        return state.blocks[layer, h]

    def _places(self, worth: np.ndarray, n: int, limit: int) -> np.ndarray:
        """What the blocks of a kv-head with n entries are worth (b,) -> ascending places, at most `limit`."""
        size, blocks = self.block, len(worth)
        newest = min(max(0, n - self.recent) // size, blocks)  # the first block that is read for its age
        first = min(-(-self.sinks // size), newest)  # blocks of sinks
        room = (limit - (n - newest * size)) // size - first
        if room < 0:  # hardly a block fits: the newest entries
            return np.arange(n - limit, n)
        middle = worth[first:newest]
        least = len(middle) - room  # blocks that are not read
        best = (
            np.sort(np.argpartition(middle, least)[least:]) if room and least > 0 else np.arange(min(room, len(middle)))
        )
        chosen = np.concatenate([np.arange(first), first + best])
        inside = (chosen[:, None] * size + np.arange(size)).ravel()
        return np.concatenate([inside, np.arange(newest * size, n)])


@dataclass(frozen=True)
class Represented(BestBlocks):
    """The same with representatives: entries that the tokens behind them looked at while the prompt was read."""

    needs: ClassVar[frozenset[str]] = frozenset({"queries"})

    representatives: int = knob(4, "entries that stand for a block", low=1)
    local: int = knob(128, "tokens behind an entry whose queries give its local score", low=1)

    def read(self, layer: int, q: torch.Tensor, k: torch.Tensor, told: Told, state: Index) -> None:
        if state.limit is not None and layer in state.taking_part:
            if layer not in state.scores:
                state.scores[layer] = LocalScore(self.local)
            state.scores[layer].add(q, k, told.seen)

    def begin(self, rows: Rows, told: Told, state: Index) -> None:
        for scores in state.scores.values():
            scores.close(told.seen)

    def summarise(self, keys: torch.Tensor, pos: torch.Tensor, h: int, scores: LocalScore | None) -> torch.Tensor:
        assert scores is not None
        chosen = scores.of(h, pos).sort(dim=1, descending=True, stable=True).indices[:, : self.representatives]
        wide = torch.promote_types(keys.dtype, torch.float32)
        return keys.gather(1, chosen[:, :, None].expand(-1, -1, keys.shape[2])).to(wide).sum(1)

    def asks(self, q: torch.Tensor) -> torch.Tensor:
        return q.sum(1, keepdim=True)
