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

import sys
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch

from fewer.kernels.ranking import Cut, Ranking
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
    bounds: ClassVar[bool] = True  # summaries are the greatest and least coordinates

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

    def knows(self, layer: int, row: int, told: Told, state: Index) -> bool:
        return True

    def pick(self, layer: int, row: int, q: torch.Tensor, view: View, told: Told, state: Index) -> Ranking | None:
        if state.limit is None or layer not in state.taking_part:
            return None
        lens, limit = view.lens().tolist(), state.limit
        if max(lens) <= limit:
            return None
        told_by, cuts = [], []
        for h, n in enumerate(lens):
            fits = n > limit and n >= self.block
            told_by.append(self._index(layer, h, state).of(view, h, n) if fits else torch.zeros(0))
            cuts.append(self._cut(n, len(told_by[-1]), limit))
        return Ranking(told_by, self.block, cuts, self.bounds)

    def holds(self, layer: int, row: int, view: View, told: Told, state: Index) -> int:
        if state.limit is None or layer not in state.taking_part:
            return sys.maxsize
        lens, limit = view.lens().tolist(), state.limit
        longest = max(lens)
        return limit - longest if longest <= limit else min(self._unchanged(n, limit) for n in lens)

    def _unchanged(self, n: int, limit: int) -> int:
        """Entries that leave the cut of a kv-head with n as it is, but for its end."""
        if n <= limit:
            return limit - n
        cut = self._cut(n, n // self.block, limit)
        if cut.tail != cut.newest * self.block:  # the newest entries, whatever comes
            return 0
        until_block, until_old = ((-x - 1) % self.block for x in (n, n - self.recent))
        return min(until_block, until_old, (limit - (n - cut.tail)) % self.block)

    def _index(self, layer: int, h: int, state: Index) -> Summaries:
        if (layer, h) not in state.blocks:
            make = partial(self.summarise, h=h, scores=state.scores.get(layer))
            state.blocks[layer, h] = Summaries(self.block, make)
        return state.blocks[layer, h]

    def _cut(self, n: int, blocks: int, limit: int) -> Cut:
        """A kv-head with n entries and so many blocks, of which `limit` entries are read."""
        newest = min(max(0, n - self.recent) // self.block, blocks)  # the first block that is read for its age
        first = min(-(-self.sinks // self.block), newest)  # blocks of sinks
        room = (limit - (n - newest * self.block)) // self.block - first
        if room < 0:  # hardly a block fits: the newest entries
            return Cut(0, 0, 0, max(0, n - limit), n)
        return Cut(first, newest, room, newest * self.block, n)


@dataclass(frozen=True)
class Represented(BestBlocks):
    """The same with representatives: entries that the tokens behind them looked at while the prompt was read."""

    needs: ClassVar[frozenset[str]] = frozenset({"queries"})
    bounds: ClassVar[bool] = False

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
