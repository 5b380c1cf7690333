"""What each head of each layer will want, foretold behind layer 0: TokenButler (Akhauri et al., 2025).

A trained network (parts/importance.py, under 1.2% of the model's parameters) sees every token's hidden state behind layer 0.
It keeps a small key a token, layer and kv-head; a row's small queries of all later layers are there before those layers run:

    z_j = ask_h . key_j / sqrt(16)  ~  q_h . k_j * scale        mass_j = sum over the heads of a kv-head of softmax_j(z)
    read = the `budget` entries of highest mass, a kv-head of a layer for itself; layer 0 reads all

No key of the cache is scanned to choose, and nothing is lost. Small keys (float32, half the bytes of keys 64 wide in half
precision) stand beside the cache. Entries it never saw (those in front of the prompt) are always read first; layers with
a sliding window read all.
Does not: select while the prompt is read, count its own keys as cache, choose a threshold a head by calibration.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from fewer.attend.reader import ancestors
from fewer.kv.view import View
from fewer.models.decoder import Decoder
from fewer.parts.importance import SMALL, foretell, fresh, look, shapes
from fewer.parts.trail import said
from fewer.parts.trained import UNTRAINED, find
from fewer.parts.votes import top
from fewer.seams import Select, budget_knob, knob, resolve_budget
from fewer.types import Rows, Told

KIND = "butler"


@dataclass
class Lane:
    """Something kept of every token, along dimension `dim` of a buffer that doubles when it is full."""

    dim: int
    held: torch.Tensor | None = None

    def put(self, n: int, new: torch.Tensor) -> None:
        """Write `new` behind the first n."""
        m = new.shape[self.dim]
        if self.held is None or self.held.shape[self.dim] < n + m:
            size = list(new.shape)
            size[self.dim] = max(64, 2 * (n + m))
            more = new.new_empty(size)
            if n:
                more.narrow(self.dim, 0, n).copy_(self.first(n))
            self.held = more
        self.held.narrow(self.dim, n, m).copy_(new)

    def first(self, n: int) -> torch.Tensor:
        assert self.held is not None
        return self.held.narrow(self.dim, 0, n)

    def move(self, n: int, rows: list[int]) -> None:
        """Of what stands behind the first n, only `rows` stay, close together."""
        if self.held is not None and rows != list(range(len(rows))):
            at = n + torch.tensor(rows)
            self.held.narrow(self.dim, n, len(rows)).copy_(self.held.index_select(self.dim, at))


@dataclass
class Seen:
    """One request: entries allowed, and what was seen of the first `n` tokens of the text and, behind them, of the rows of
    the last step: positions, narrow keys and values, small keys (later layers * H, tokens, SMALL)."""

    limit: int | None
    weights: dict[str, torch.Tensor]
    n: int = 0
    pos: Lane = field(default_factory=lambda: Lane(0))
    narrow: tuple[Lane, Lane] = field(default_factory=lambda: (Lane(0), Lane(0)))
    small: Lane = field(default_factory=lambda: Lane(1))
    rows: Rows | None = None  # of the last step
    sees: torch.Tensor | None = None  # (m, m) bool, of those rows
    ask: torch.Tensor | None = None  # (m, later layers * Hq, SMALL), of those rows

    def settle(self, told: Told) -> None:
        """Keep what became text of the last step's rows; forget what is no longer text."""
        if self.rows is None:
            return
        stand, at = list[int](), -1
        for i, (pos, parent, token) in enumerate(zip(self.rows.pos, self.rows.parent, self.rows.tokens)):
            if parent == at and pos < told.seen and (pos < told.prompt_len or said(told, int(pos)) == token):
                stand.append(i)
                at = i
        for lane in (self.pos, *self.narrow, self.small):
            lane.move(self.n, stand)
        self.rows, self.n = None, self.n + len(stand)
        self.n = int(torch.searchsorted(self.pos.first(self.n), told.seen))


@dataclass(frozen=True)
class Foretold(Select):
    """Read the entries that a trained network foretells each head to want."""

    needs = frozenset({"hidden"})

    budget: int | float = budget_knob(0.5, "entries a kv-head reads")
    file: str = knob("smollm2-135m", "trained network: the one that comes with fewer, a file, or untrained")

    def brings(self, main: Decoder) -> dict[str, Decoder]:
        if self.file != UNTRAINED:
            spec = main.spec
            find(KIND, self.file).check(main, shapes(spec.d_model, spec.n_layers, spec.n_heads, spec.n_kv_heads))
        return {}

    def start(self, told: Told) -> Seen:
        part = {} if self.file == UNTRAINED else dict(find(KIND, self.file).tensors)
        return Seen(resolve_budget(self.budget, told.prompt_len), part)

    def sees(self, x: torch.Tensor, rows: Rows, told: Told, state: Seen) -> None:
        if state.limit is None:
            return
        state.settle(told)
        w, n, m, pos = self._weights(x, told, state), state.n, len(rows), torch.from_numpy(rows.pos)
        y, q, *new = look(w, x, pos)
        state.pos.put(n, pos)
        for lane, more in zip(state.narrow, new):
            lane.put(n, more)
        of_step = ancestors(rows)
        state.sees = torch.ones(m, m, dtype=torch.bool).tril() if of_step is None else of_step
        seen = torch.cat([torch.ones(m, n, dtype=torch.bool), state.sees], 1)
        keys, values = (lane.first(n + m) for lane in state.narrow)
        state.ask, key = foretell(w, y, q, keys, values, seen, pos)
        state.small.put(n, key.transpose(0, 1))
        state.rows = rows

    def knows(self, layer: int, row: int, told: Told, state: Seen) -> bool:
        return layer > 0

    def pick(self, layer: int, row: int, q: torch.Tensor, view: View, told: Told, state: Seen) -> list | None:
        if state.limit is None or not layer or told.windows[layer] is not None:
            return None
        if max(view.lens().tolist()) <= state.limit:
            return None
        assert state.ask is not None and state.sees is not None
        heads, kv = told.heads
        ask = state.ask[row, (layer - 1) * heads : layer * heads].view(kv, -1, SMALL)
        before = state.sees[row].nonzero().flatten()[:-1]
        keys, pos = state.small.first(state.n + len(state.sees))[(layer - 1) * kv : layer * kv], state.pos
        if len(before):
            known = torch.cat([torch.arange(state.n), state.n + before])
            keys, at = keys[:, known], pos.first(state.n + len(state.sees))[known]
        else:
            keys, at = keys[:, : state.n], pos.first(state.n)
        view.scanned += keys.numel() * keys.itemsize
        mass = torch.softmax(ask @ keys.transpose(1, 2) * SMALL**-0.5, -1).sum(1)
        return [top(spread(mass[h], at, view.positions(h)), state.limit) for h in range(kv)]

    def _weights(self, x: torch.Tensor, told: Told, state: Seen) -> dict[str, torch.Tensor]:
        """In the model's own precision; made when the first rows are seen."""
        if not state.weights:
            state.weights = fresh(shapes(x.shape[1], told.n_layers, *told.heads))
        if state.weights["in"].dtype != x.dtype:
            state.weights = {name: t.to(x.dtype) for name, t in state.weights.items()}
        return state.weights


def spread(mass: torch.Tensor, known: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """mass (n,) at positions `known` -> at the positions held; what was never seen has all of it."""
    if torch.equal(known, held.long()):
        return mass
    if not len(known):
        return mass.new_full((len(held),), float("inf"))
    at = torch.searchsorted(known, held.long()).clamp(max=len(known) - 1)
    return torch.where(known[at] == held, mass[at], float("inf"))
