"""The decoder: one loop over layers in which every seam is visible.

    x = embed
    for each layer:  which rows attend? -> q, k, v -> store -> attention -> x += out
                     which rows use the FFN? -> x += mlp
    logits of the wanted rows

It counts rows x layers run and skipped as it goes; no method is asked. What it does not do: choose tokens, commit rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fewer.attend.step import Attention
from fewer.kv.store import Store
from fewer.models.angles import Angles, Turn
from fewer.models.layers import Block, Head, Stack, Walk, rotate
from fewer.models.neighbours import Neighbours
from fewer.models.routing import Router
from fewer.models.spec import Spec
from fewer.types import Group, Out, Step


@dataclass(slots=True)
class Spent:
    """What one group cost in one step."""

    rows: int
    layers_run: float
    layers_skipped: float
    entries_read: int
    bytes_scanned: int = 0  # of keys and summaries that a selection looked at before it read


class Decoder:
    """One model: structure, blocks, head. `forward` is pure but for the in-flight rows it puts into the store."""

    def __init__(
        self,
        spec: Spec,
        blocks: list[Block],
        head: Head,
        dtype: torch.dtype,
        device: str = "cpu",
        kv_dtype: torch.dtype | None = None,
        stack: Stack | None = None,
    ) -> None:
        self.spec, self.blocks, self.head, self.dtype, self.device = spec, blocks, head, dtype, device
        self.kv_dtype, self.stack = kv_dtype or dtype, stack
        self.neighbours = Neighbours(head, spec.vocab)
        self.angles = Angles(spec, dtype if dtype in (torch.float32, torch.float64) else torch.float32, device)

    @property
    def packed(self) -> bool:
        """Do the native kernels hold the weights (float32 rows, half-precision cache)?"""
        return self.kv_dtype != self.dtype

    def new_store(self) -> Store:
        return Store(self.spec, self.kv_dtype, self.device)

    @torch.inference_mode()
    def turned(self, keys: torch.Tensor, first: int) -> torch.Tensor:
        """Keys before rotation (L, H, p, d) -> as attention reads them at positions first, first + 1, .."""
        at = np.arange(first, first + keys.shape[2])
        by_entry = keys.to(self.angles.dtype).transpose(1, 2)
        return torch.stack([rotate(k, *self.angles(i, at)) for i, k in enumerate(by_entry)]).transpose(1, 2)

    def forward(self, step: Step, store: Store) -> tuple[list[Out], list[Spent]]:
        """Outputs and costs, one a group, in order. In-flight rows stay in the store until commit."""
        groups, n_layers = step.groups, self.spec.n_layers if step.stop is None else step.stop
        seen = any(_sees(g) for g in groups)
        plain = step.start == 0 and not step.taps and self.spec.log_scale is None and not seen
        attention = Attention(groups, store, self.angles, self.dtype, n_layers)
        router = Router(groups) if any(g.seams.route is not None for g in groups) else None
        turns = self._turns(groups)
        hidden: list[dict[str, torch.Tensor]] = [{} for _ in groups]
        x = self._inputs(step)
        stack = self.stack if router is None and plain else None
        if stack is not None and attention.whole is not None:
            stack.run(x, turns, attention.whole, n_layers)
            attention.charge_all()
        elif stack is not None and attention.native is not None:
            self._walk(x, step, stack.walk(x, turns, attention.native, n_layers), n_layers, attention)
        else:
            x = self._layers(x, step, n_layers, attention, router, turns, hidden)
        for layer in (*range(step.start), *range(n_layers, self.spec.n_layers)):
            attention.absent(layer)
        _tap(step, hidden, "last", x)
        outs = self._outputs(step, x, hidden)
        spent = []
        for i, (g, r) in enumerate(zip(groups, attention.reads)):
            rows = len(g.rows)
            run = rows * (n_layers - step.start) if router is None else (router.attn_rows[i] + router.ffn_rows[i]) / 2
            spent.append(Spent(rows, run, rows * self.spec.n_layers - run, r.entries_read, r.bytes_scanned))
        return outs, spent

    def _layers(
        self,
        x: torch.Tensor,
        step: Step,
        depth: int,
        attention: Attention,
        router: Router | None,
        turns: list[Turn],
        hidden: list[dict[str, torch.Tensor]],
    ) -> torch.Tensor:
        for layer, block in enumerate(self.blocks[step.start : depth], step.start):
            _show(step, layer, x)
            if router is None:
                q, k, v = block.qkv(x, *turns[layer])
                x = block.out(attention.layer(layer, q, k, v), x)
                x = block.mlp(x)
            else:
                x = router.layer(layer, x, block, attention, turns[layer])
            if layer == 0:
                _tell(step, x)
            if step.taps:
                _tap(step, hidden, f"layer.{layer}", x)
        return x

    def _walk(self, x: torch.Tensor, step: Step, walk: Walk, depth: int, attention: Attention) -> None:
        """The same in place, with everything but attention in native calls."""
        layer = 0
        while layer < depth:
            if (reads := attention.ahead(layer)) is not None:
                walk.through(layer, reads)
                layer += len(reads.picked)
                continue
            attention.read(layer, walk.to(layer), walk.o)
            if layer == 0:
                walk.leave()
                _tell(step, x)
            layer += 1
        walk.leave()

    def _turns(self, groups: list[Group]) -> list[Turn]:
        """Rotations a layer; rows whose plan rotates keys by place when they are read stay unrotated here."""
        place = [np.full(len(g.rows), g.seams.place) for g in groups]
        unrotated = np.concatenate(place) if any(g.seams.place for g in groups) else None
        return self.angles.step(np.concatenate([g.rows.pos for g in groups]), unrotated)

    def _inputs(self, step: Step) -> torch.Tensor:
        parts = []
        for g in step.groups:
            tokens = torch.from_numpy(g.rows.tokens).to(self.device)
            if g.rows.embeds is None:
                parts.append(self.head.embed(tokens))
                continue
            x = self.head.embed(tokens.clamp_min(0))
            x[tokens < 0] = g.rows.embeds.to(x)
            parts.append(x)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _outputs(self, step: Step, x: torch.Tensor, hidden: list[dict[str, torch.Tensor]]) -> list[Out]:
        wanted = [np.zeros(0, np.int64) if g.want is None else g.want + g.start for g in step.groups]
        rows = np.concatenate(wanted)
        outs = [Out(hidden=h) for h in hidden]
        if not len(rows) or step.stop is not None:
            return outs
        picked = x if len(rows) == len(x) else x[torch.from_numpy(rows)]
        ends = np.cumsum([len(w) for w in wanted])
        if step.best:
            ids = self.head.best(picked, min(step.best, self.spec.vocab)).cpu().numpy()
            for o, e, w in zip(outs, ends, wanted):
                o.best = ids[e - len(w) : e]
        else:
            logits = self.head.logits(picked)
            for o, e, w in zip(outs, ends, wanted):
                o.logits = logits[e - len(w) : e]
        return outs


def _tell(step: Step, x: torch.Tensor) -> None:
    """The hidden states behind layer 0, for the selections that declared that they need them."""
    for g in step.groups:
        select = g.seams.select
        if select is not None and "hidden" in select.needs:
            select.sees(x[g.start : g.start + len(g.rows)], g.rows, g.told, g.told.of(select))


def _sees(group: Group) -> bool:
    """Does this group's retention see what enters each layer?"""
    retain = group.seams.retain
    if retain is None or "hidden" not in retain.needs:
        return False
    return retain.acts == "always" or not group.told.decoding


def _show(step: Step, layer: int, x: torch.Tensor) -> None:
    """What enters a layer, for the retentions that see it."""
    for g in step.groups:
        retain = g.seams.retain
        if retain is not None and _sees(g):
            retain.sees(layer, x[g.start : g.start + len(g.rows)], g.rows, g.told, g.told.of(retain))


def _tap(step: Step, hidden: list[dict[str, torch.Tensor]], name: str, x: torch.Tensor) -> None:
    """Copy hidden states that somebody declared."""
    if name in step.taps:
        for h, g in zip(hidden, step.groups):
            h[name] = x[g.start : g.start + len(g.rows)].clone()
