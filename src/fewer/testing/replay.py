"""Replay: write down what a method decided in a run, then carry it out naively and see whether the text is the same.

The engine's way of evicting, selecting, routing and packing is fast and indirect. Here the same decisions are executed on
plain lists, one token at a time, per layer and kv-head. The log probabilities must agree, whatever the method decided: a
wrong head's index, a shifted position or a forgotten row shows at once. The method's own judgement is not what is tested.
What this does not do: drafts (the run has none), rules that draw tokens themselves, corrections by rows that read all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch

from fewer.kernels.ranking import Picks, listed
from fewer.kv.segment import Encoded
from fewer.kv.view import View
from fewer.models.decoder import Decoder
from fewer.models.layers import rotate
from fewer.models.rope import cos_sin
from fewer.seams import (
    Blocks,
    Codec,
    Commit,
    Forward,
    Full,
    Given,
    Held,
    Method,
    Retain,
    Route,
    Select,
    Transform,
    Work,
)
from fewer.types import Rows, Told

Places = list[torch.Tensor]


@dataclass
class Decisions:
    """What was decided: at which count of committed tokens, at which layer, for which position."""

    keep: dict[int, dict[int, Places]] = field(default_factory=dict)  # seen -> layer -> per head
    pick: dict[tuple[int, int], Places] = field(default_factory=dict)  # (layer, position)
    attend: dict[tuple[int, int], bool] = field(default_factory=dict)
    ffn: dict[tuple[int, int], bool] = field(default_factory=dict)
    packed: dict[int, dict[int, list[tuple[torch.Tensor, torch.Tensor]]]] = field(default_factory=dict)  # seen -> layer
    furthest: int | None = None
    given: list[Given | list[int]] = field(
        default_factory=list
    )  # in front of the prompt: entries, or tokens read there


def recorded(method: Method, log: Decisions) -> Method:
    """The same method, knobs and declarations, that also writes its decisions into `log`."""
    cls: Any = RECORDERS.get(method.seam)
    if cls is None:
        return method
    both = type(type(method).__name__, (cls, type(method)), {"log": log})
    twin = both(**{f.name: getattr(method, f.name) for f in fields(method)})
    object.__setattr__(twin, "name", method.name)
    return twin


class KeepLog(Retain):
    log: Any

    def keep(self, held: Held, told: Told, state: Any) -> dict[int, Places] | None:
        out = super().keep(held, told, state)
        self.log.furthest = self.furthest(told, state)
        self.log.keep[told.seen] = {layer: [i.clone() for i in idx] for layer, idx in (out or {}).items()}
        return out


class PickLog(Select):
    log: Any

    def pick(self, layer: int, row: int, q: torch.Tensor, view: View, told: Told, state: Any) -> Picks | None:
        out = super().pick(layer, row, q, view, told, state)
        if out is not None:
            self.log.pick[layer, told.seen] = [i.clone() for i in listed(out, q)]
        return out

    def pick_blocks(self, layer: int, q: torch.Tensor, view: View, told: Told, state: Any, full: Full) -> Blocks | None:
        """A row's places: those of its block, and the block's rows before it. Rows that read all correct rows that come before
        them, which a replay token by token cannot: this run does without."""
        out = super().pick_blocks(layer, q, view, told, state, full)
        held = [int(n) - len(q) for n in view.lens()]
        if out is None:
            return None
        for i in range(len(q)):
            first = i - i % out.size
            places, own = out.places[i // out.size], torch.arange(first, i)
            self.log.pick[layer, told.seen + i] = [torch.cat([p, n + own]) for p, n in zip(places, held)]
        return replace(out, right=False)


class RouteLog(Route):
    log: Any

    def attend(self, layer: int, x: torch.Tensor, rows: Rows, told: Told, state: Any) -> np.ndarray | None:
        out = super().attend(layer, x, rows, told, state)
        self.log.attend.update({(layer, int(p)): bool(b) for p, b in zip(rows.pos, () if out is None else out)})
        return out

    def ffn(self, layer: int, x: torch.Tensor, rows: Rows, told: Told, state: Any) -> np.ndarray | None:
        out = super().ffn(layer, x, rows, told, state)
        self.log.ffn.update({(layer, int(p)): bool(b) for p, b in zip(rows.pos, () if out is None else out)})
        return out


class PackLog(Codec):
    log: Any

    def encode(self, layer: int, view: View, told: Told, state: Any) -> tuple[Encoded, torch.Tensor, np.ndarray]:
        encoded, pos, lens = super().encode(layer, view, told, state)
        k, v = encoded.decode()
        ends = np.cumsum(lens)
        per_head = [(k[e - n : e].clone(), v[e - n : e].clone()) for e, n in zip(ends, lens)]
        self.log.packed.setdefault(told.seen, {})[layer] = per_head
        return encoded, pos, lens


class GivenLog(Transform):
    log: Any

    def run(self, tokens: list[int], forced: np.ndarray, told: Told, state: Any) -> Work:
        work, read = super().run(tokens, forced, told, state), np.zeros(0, dtype=np.int64)
        reply: Any = None
        while True:
            try:
                ask = work.send(reply)
            except StopIteration as end:
                return end.value
            if self.gives and isinstance(ask, Forward):
                read = ask.rows.tokens
            elif self.gives and isinstance(ask, Commit):
                self.log.given.append(read[ask.accepted].tolist())
            elif isinstance(ask, Given):
                self.log.given.append(ask)
            reply = yield ask


RECORDERS: dict[str, type[Method]] = {
    "retain": KeepLog,
    "select": PickLog,
    "route": RouteLog,
    "codec": PackLog,
    "transform": GivenLog,
}


@dataclass
class Lane:
    """One kv-head's entries at one layer."""

    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    packed: int = 0  # leading entries that a codec has packed


class Replay:
    """Carries out `Decisions` on plain lists. by_place: keys are unrotated and rotated by their place when read."""

    def __init__(self, model: Decoder, log: Decisions, by_place: bool) -> None:
        self.model, self.spec, self.log, self.by_place = model, model.spec, log, by_place
        self.begun = [0] * self.spec.n_layers  # entries held when the step began, as far as Retain was asked
        self.lanes = [[Lane() for _ in range(self.spec.n_kv_heads)] for _ in range(self.spec.n_layers)]

    def text(self, tokens: Sequence[int]) -> list[torch.Tensor]:
        """Log probabilities (V,) after each token; decisions are carried out when as many tokens were committed."""
        out, first = [], 0
        for given in self.log.given:
            first += self._give(given, first)
        for pos, token in enumerate(tokens, first):
            out.append(torch.log_softmax(self._feed(token, pos), 0))
            self._maintain(pos + 1)
        return out

    def _give(self, given: Given | list[int], first: int) -> int:
        """Let the cache hold what stands in front of the prompt, from position `first` on; how much that is."""
        if isinstance(given, list):
            for i, token in enumerate(given):
                self._feed(token, first + i)
            return len(given)
        at = list(range(first, first + given.keys.shape[2]))
        for layer, lanes in enumerate(self.lanes):
            for h, lane in enumerate(lanes):
                lane.keys += list(self._turn(layer, given.keys[layer, h].to(self.model.dtype), at))
                lane.values += list(given.values[layer, h].to(self.model.dtype))
                lane.positions += at
        return len(at)

    def _feed(self, token: int, pos: int) -> torch.Tensor:
        x = self.model.head.embed(torch.tensor([token]))
        for layer, block in enumerate(self.model.blocks):
            if self.log.attend.get((layer, pos), True):
                x = block.out(self._attention(layer, x, pos)[None], x)
            if self.log.ffn.get((layer, pos), True):
                x = block.mlp(x)
        return self.model.head.logits(x)[0]

    def _attention(self, layer: int, x: torch.Tensor, pos: int) -> torch.Tensor:
        spec, lanes = self.spec, self.lanes[layer]
        at = max(len(lane.positions) for lane in lanes) if self.by_place else pos
        one, zero = torch.ones(1, spec.head_dim // 2, dtype=x.dtype), torch.zeros(1, spec.head_dim // 2, dtype=x.dtype)
        q, k, v = self.model.blocks[layer].qkv(x, one, zero)
        q = self._turn(layer, q[0], [at] * spec.n_heads)
        picked = self.log.pick.get((layer, pos))
        g, heads = spec.n_heads // spec.n_kv_heads, []
        for h, lane in enumerate(lanes):
            n = len(lane.keys)
            lane.keys.append(k[0, h] if self.by_place else self._turn(layer, k[0, h][None], [at])[0])
            lane.values.append(v[0, h])
            lane.positions.append(pos)
            read = [*(range(n) if picked is None else picked[h].tolist()), n]
            least = 0 if self.log.furthest is None else self.begun[layer] - self.log.furthest
            where = [*(max(i, least) for i in range(n)), at] if self.by_place else lane.positions
            keys = torch.stack([lane.keys[i] for i in read])
            if self.by_place:
                keys = self._turn(layer, keys, [where[i] for i in read])
            values, ages = torch.stack([lane.values[i] for i in read]), torch.tensor([at - where[i] for i in read])
            heads += [self._head(q[h * g + j], keys, values, ages, layer) for j in range(g)]
        return torch.stack(heads)

    def _head(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, ages: torch.Tensor, layer: int
    ) -> torch.Tensor:
        spec = self.spec
        s = keys @ q * spec.scale
        if spec.attn_softcap is not None:
            s = spec.attn_softcap * torch.tanh(s / spec.attn_softcap)
        window = spec.windows[layer]
        if window is not None:
            s = s.masked_fill(ages >= window, float("-inf"))
        return torch.softmax(s, 0) @ values

    def _turn(self, layer: int, x: torch.Tensor, at: list[int]) -> torch.Tensor:
        """x (n, d), row i rotated to position at[i]."""
        return rotate(x[:, None], *cos_sin(self.spec.ropes[layer], torch.tensor(at), x.dtype))[:, 0]

    def _maintain(self, seen: int) -> None:
        for layer, idx in self.log.keep.get(seen, {}).items():
            for lane, places in zip(self.lanes[layer], idx):
                keep = places.tolist()
                lane.keys = [lane.keys[i] for i in keep]
                lane.values = [lane.values[i] for i in keep]
                lane.positions = [lane.positions[i] for i in keep]
        if seen in self.log.keep:
            self.begun = [max(len(lane.positions) for lane in lanes) for lanes in self.lanes]
        for layer, heads in self.log.packed.get(seen, {}).items():
            for lane, (k, v) in zip(self.lanes[layer], heads):
                lane.keys[lane.packed :], lane.values[lane.packed :] = list(k), list(v)
                lane.packed = len(lane.keys)
