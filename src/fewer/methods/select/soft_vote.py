"""Every entry judged anew by a vote of all heads, the last choice kept while queries stay alike: TokenSelect (Wu et al., 2024).

    mass_j = sum over query heads h of softmax_j(q_h . k_j)     the same positions for all heads of a layer
    read   = `sinks` first + `recent` newest + the rest of `budget` by mass

If the cosine between a row's queries (all heads as one vector) and those that chose last is at least `similar`, that choice
is used again and no key is scanned. Which choice is "last" follows the text, not the drafts. Layers with a sliding window
are left alone. Does not: select while the prompt is read, page keys, make scanning cheaper than reading keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from fewer.kv.view import View
from fewer.parts.trail import Trail
from fewer.parts.votes import attention, favourites
from fewer.seams import Select, budget_knob, knob, resolve_budget
from fewer.types import Rows, Told

Note = tuple[torch.Tensor, torch.Tensor]  # queries that chose (Hq * d,), positions chosen


@dataclass
class Votes:
    """One request: entries allowed, and the last choice of every layer."""

    limit: int | None
    trail: Trail[Note] = field(default_factory=Trail)
    reused: int = 0
    chosen: int = 0


@dataclass(frozen=True)
class SoftVote(Select):
    """Read the entries that all heads together want most."""

    budget: int | float = budget_knob(2048, "entries a kv-head reads")
    sinks: int = knob(128, "first entries always read", low=0)
    recent: int = knob(512, "newest entries always read", low=0)
    similar: float = knob(0.9, "cosine from which the last choice is used again; above 1 = never", low=-1.0)

    def start(self, told: Told) -> Votes:
        return Votes(resolve_budget(self.budget, told.prompt_len))

    def begin(self, rows: Rows, told: Told, state: Votes) -> None:
        state.trail.begin(rows, told)

    def pick(self, layer: int, row: int, q: torch.Tensor, view: View, told: Told, state: Votes) -> list | None:
        if state.limit is None or told.windows[layer] is not None:
            return None
        now = q.flatten()
        note = state.trail.before(row, layer)
        held = [view.positions(h) for h in range(view.n_heads)]
        end = 1 + max((int(p[-1]) for p in held if len(p)), default=-1)
        edge, sinks = max(0, end - min(self.recent, state.limit)), 0
        sinks = min(self.sinks, max(0, state.limit - (end - edge)), edge)
        room = state.limit - sinks - (end - edge)
        if note is not None and torch.cosine_similarity(now, note[0], 0) >= self.similar:
            state.reused += 1
        else:
            allowed = torch.zeros(end, dtype=torch.bool)
            allowed[sinks:edge] = True
            note = now.clone(), favourites(held, attention(q, view), max(0, room), True, allowed)[0]
            state.chosen += 1
        state.trail.leave(row, layer, note)
        middle = note[1][(note[1] >= sinks) & (note[1] < edge)][: max(0, room)]
        wanted = torch.cat([torch.arange(sinks), middle, torch.arange(edge, end)]).to(torch.int32)
        return [view.find(h, wanted) for h in range(view.n_heads)]
