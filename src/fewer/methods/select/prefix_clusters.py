"""A fixed prefix read by clusters of its keys: Squeezed Attention (Hooper et al., 2024).

The prefix (the prompt but its last `question` tokens) is fixed, so its keys are clustered once, a layer and kv-head at a time
(parts/clusters.py). A row compares its queries with the coarse centroids, then with the fine ones below the best of them,
and reads the keys of the fine clusters whose estimated attention is highest; everything behind the prefix is always read.

The clusters belong to the prefix: another request of the engine whose prefix has the same keys finds them made (the last
`SAVED` of them, told apart by their keys alone), and what it says is the same as if it had made them itself.
Layers with a sliding window are left alone. Does not: select while the prompt is read, calibrate one threshold for all heads
(the budget is each head's own threshold), keep the clusters on disk, count them as cache.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import torch

from fewer.kv.view import View
from fewer.parts.clusters import ClusterTree
from fewer.seams import Select, budget_knob, knob, resolve_budget
from fewer.types import Told

SAVED = 256  # trees of a layer and kv-head kept over requests
Mark = tuple[int, bytes]


@dataclass
class Squeezed:
    """One request: entries allowed, length of the prefix, (layer, kv-head) -> its tree and what it was made of."""

    limit: int | None
    prefix: int
    trees: dict[tuple[int, int], tuple[int, ClusterTree]] = field(default_factory=dict)
    compared: int = 0


@dataclass(frozen=True)
class PrefixClusters(Select):
    """Read the clusters of a fixed prefix that match, and all that follows it."""

    budget: int | float = budget_knob(2048, "entries a kv-head reads")
    question: int = knob(64, "last tokens of the prompt that are not part of the prefix", low=0)
    clusters: float = knob(0.05, "clusters as a share of the prefix", low=0.001, high=1.0)
    ratio: int = knob(5, "fine clusters a coarse one", low=1)
    reach: float = knob(2.0, "times the room whose entries are looked into behind coarse clusters", low=1.0)

    def remember(self, told: Told) -> OrderedDict[Mark, ClusterTree]:
        return OrderedDict()

    def start(self, told: Told) -> Squeezed:
        return Squeezed(resolve_budget(self.budget, told.prompt_len), max(0, told.prompt_len - self.question))

    def pick(self, layer: int, row: int, q: torch.Tensor, view: View, told: Told, state: Squeezed) -> list | None:
        if state.limit is None or told.windows[layer] is not None:
            return None
        lens = view.lens().tolist()
        if max(lens) <= state.limit:
            return None
        return [self._places(layer, h, group, lens[h], view, told, state) for h, group in enumerate(q.chunk(len(lens)))]

    def _places(
        self, layer: int, h: int, q: torch.Tensor, n: int, view: View, told: Told, state: Squeezed
    ) -> torch.Tensor:
        limit = state.limit or n
        fixed = int(torch.searchsorted(view.positions(h), state.prefix))
        room = limit - (n - fixed)
        if n <= limit or room <= 0 or not fixed:
            return torch.arange(max(0, n - limit), n)
        tree = self._tree(layer, h, fixed, view, told, state)
        scaled = q * q.shape[-1] ** -0.5
        inside, compared = tree.find(scaled, room, self.reach)
        state.compared += compared
        view.scanned += compared * tree.fine.centroids.shape[1] * tree.fine.centroids.itemsize
        return torch.cat([inside, torch.arange(fixed, n)])

    def _tree(self, layer: int, h: int, fixed: int, view: View, told: Told, state: Squeezed) -> ClusterTree:
        """Made once a request and prefix; anew if a retention method has taken entries of it away."""
        made = state.trees.get((layer, h))
        if made is not None and made[0] == fixed:
            return made[1]
        keys, _ = view.part(h, 0, fixed)
        saved, mark = told.remembered(self), (fixed, keys.double().sum(0).numpy().tobytes())
        tree = saved.pop(mark) if mark in saved else ClusterTree.over(keys, self.clusters, self.ratio)
        saved[mark] = tree
        if len(saved) > SAVED:
            saved.popitem(last=False)
        state.trees[layer, h] = fixed, tree
        return tree
