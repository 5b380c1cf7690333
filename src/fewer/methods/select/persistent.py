"""Positions that persist over layers: TidalDecode (Yang et al., 2024).

The tokens that matter to a row are much the same from one layer to the next. So only two layers look at everything and
choose; the layers between read what was chosen:

    layers < full_layers                     read all
    layer full_layers, layer reselect_layer  read all, then choose the `budget` positions of highest attention
    every other layer                        reads the positions chosen last

Each row of each step chooses, for each kv-head ("own", carried to the kv-head of the same number in deeper layers) or
once for all ("shared"). What is carried are token positions, so it holds where layers keep different entries too.
Scores are attention probabilities over the entries before the row, summed over the queries of the kv-head or over all;
the row itself is always read.
Does not: touch layers with a sliding window (they are cheap, and a far position means nothing there), correct the keys
of tokens that were decoded sparsely by recomputing them in full.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from fewer.kv.view import View
from fewer.parts.depth import layers
from fewer.parts.votes import Positions, favourites
from fewer.seams import Select, budget_knob, knob, resolve_budget
from fewer.types import Rows, Told


@dataclass
class Choice:
    """One request: entries allowed, layers that take part, layers that choose, and what each row of this step chose."""

    limit: int | None
    taking_part: frozenset[int]
    choosing: frozenset[int]
    chosen: list[Positions | None] = field(default_factory=list)


@dataclass(frozen=True)
class Persistent(Select):
    """Choose positions in two layers, read only those in the others."""

    budget: int | float = budget_knob(256, "entries a kv-head reads")
    full_layers: int | float = knob(0.0625, "first layers read in full, a count or a share of the depth", low=0)
    reselect_layer: int | float = knob(0.4, "layer that chooses anew, a number or a share of the depth", low=0)
    heads: str = knob("own", "each kv-head reads its own choice, or all the same", choices=("own", "shared"))

    def start(self, told: Told) -> Choice:
        unwindowed = [i for i, window in enumerate(told.windows) if window is None]
        first, again = (layers(depth, told.n_layers) for depth in (self.full_layers, self.reselect_layer))
        choosing = [next((i for i in unwindowed if i >= at), None) for at in (first, max(first, again))]
        return Choice(
            resolve_budget(self.budget, told.prompt_len),
            frozenset(unwindowed),
            frozenset(i for i in choosing if i is not None),
        )

    def begin(self, rows: Rows, told: Told, state: Choice) -> None:
        state.chosen = [None] * len(rows)

    def knows(self, layer: int, row: int, told: Told, state: Choice) -> bool:
        return layer not in state.choosing

    def pick(self, layer: int, row: int, q: torch.Tensor, view: View, told: Told, state: Choice) -> Positions | None:
        chosen = state.chosen[row]
        if state.limit is None or layer not in state.taking_part or layer in state.choosing or chosen is None:
            return None
        return [view.find(h, chosen[h]) for h in range(view.n_heads)]

    def looks(self, layer: int, row: int, told: Told, state: Choice) -> bool:
        return state.limit is not None and layer in state.choosing

    def saw(self, layer: int, row: int, probs: list[torch.Tensor], view: View, told: Told, state: Choice) -> None:
        assert state.limit is not None
        held = [view.positions(h) for h in range(view.n_heads)]
        before = [p[:, :-1] / p[:, :-1].sum(-1, keepdim=True) for p in probs]  # without the row itself
        state.chosen[row] = favourites(held, before, state.limit, self.heads == "shared")
