"""A full look now and then, its choice recycled between: Recycled Attention (Xu et al., 2024).

    full step       reads all; each layer and kv-head keeps the entries of highest attention, ranked
    steps between   read the best of them, as many as leave room for every token since the full step, and those tokens

A full step comes after `stride` tokens, or sooner when the cosine between a layer's queries and those of its last full step
falls below `similar`; each layer decides for itself. Attention comes from the full step's own pass. The count follows the
text, not the drafts. Layers with a sliding window are left alone. Does not: drop anything, recycle while the prompt is
read, recompute tokens that were decoded sparsely.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from fewer.kv.view import View
from fewer.parts.trail import Trail
from fewer.parts.votes import Positions, top
from fewer.seams import Select, budget_knob, knob, resolve_budget
from fewer.types import Rows, Told


@dataclass(frozen=True)
class Look:
    """A full step: its queries (Hq * d,), its position, per kv-head the best positions and their ranks; its age."""

    q: torch.Tensor
    pos: int
    best: Positions
    ranks: list[torch.Tensor]  # 0 = highest attention
    age: int = 0


@dataclass
class Looks:
    """One request: entries allowed, the last look of every layer, the queries and position of rows in flight."""

    limit: int | None
    trail: Trail[Look] = field(default_factory=Trail)
    pos: list[int] = field(default_factory=list)
    q: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Recycled(Select):
    """Choose in a full step, read the choice in those that follow."""

    budget: int | float = budget_knob(1024, "entries a kv-head reads between full steps")
    stride: int = knob(10, "tokens from one full step to the next", low=1)
    similar: float = knob(-1.0, "cosine of queries below which a full step comes sooner", low=-1.0, high=1.0)

    def start(self, told: Told) -> Looks:
        return Looks(resolve_budget(self.budget, told.prompt_len))

    def begin(self, rows: Rows, told: Told, state: Looks) -> None:
        state.trail.begin(rows, told)
        state.pos, state.q = rows.pos.tolist(), {}

    def knows(self, layer: int, row: int, told: Told, state: Looks) -> bool:
        last = state.trail.before(row, layer)
        return self.similar <= -1 and last is not None and last.age + 1 < self.stride

    def pick(self, layer: int, row: int, q: torch.Tensor, view: View, told: Told, state: Looks) -> list | None:
        if state.limit is None or told.windows[layer] is not None:
            return None
        now, last = q.flatten(), state.trail.before(row, layer)
        if last is None or last.age + 1 >= self.stride or self._strange(now, last):
            state.q[layer, row] = now.clone()
            return None
        state.trail.leave(row, layer, replace(last, age=last.age + 1))
        return [self._places(h, view, n, last, state.limit) for h, n in enumerate(view.lens().tolist())]

    def _strange(self, now: torch.Tensor, last: Look) -> bool:
        return self.similar > -1 and bool(torch.cosine_similarity(now, last.q, 0) < self.similar)

    def _places(self, h: int, view: View, n: int, last: Look, limit: int) -> torch.Tensor:
        since = min(limit, n - view.below(h, last.pos))
        old = view.find(h, last.best[h][last.ranks[h] < limit - since])
        return torch.cat([old, torch.arange(n - since, n)])

    def looks(self, layer: int, row: int, told: Told, state: Looks) -> bool:
        return (layer, row) in state.q

    def saw(self, layer: int, row: int, probs: list[torch.Tensor], view: View, told: Told, state: Looks) -> None:
        assert state.limit is not None
        best, ranks = [], []
        for h, p in enumerate(probs):
            mass = p[:, :-1].sum(0)
            at = top(mass, state.limit)
            best.append(view.positions(h)[at])
            ranks.append(mass[at].argsort(descending=True, stable=True).argsort())
        state.trail.leave(row, layer, Look(state.q[layer, row], state.pos[row], best, ranks))
