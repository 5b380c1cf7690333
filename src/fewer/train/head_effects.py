"""How much it matters that one attention head reads a prompt sparsely: what that changes in all keys and values behind it.

A document is read in full, then once for each kv-head with this head alone in its pattern:

    effect(head) = mean over the layers behind and kv-heads of (||dK||^2 / ||K - mean K||^2 + ||dV||^2 / ||V||^2) / 2

where K and V are those of the full reading and d is what changed, both from the first quarter of the document on. What a head
of the last layer gives reaches no key and no value: its effect is 0.
Few heads have most of it: on qwen2.5-coder-0.5b 5 of 48 have two thirds. Effects of several heads add up roughly.
Does not: ask whether what changed would have been read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fewer.bench.prefill import Reader
from fewer.engine import Engine
from fewer.kv.view import View
from fewer.methods.select.prompt_patterns import PromptPatterns
from fewer.parts.patterns import Pattern, Piece, pick
from fewer.plan import PLAIN, Seams, plan
from fewer.seams import Blocks, Full, Select
from fewer.types import Told

Head = tuple[int, int]  # layer, kv-head
Entries = list[tuple[torch.Tensor, torch.Tensor]]  # of a layer: kv-head -> keys, values (n, d)


@dataclass(frozen=True)
class Alone(Select):
    """One head reads the prompt in its pattern, `room` places a block; all others read everything."""

    acts = "prompt"

    head: Head = (0, 0)
    pattern: Pattern = field(default_factory=Pattern)
    room: int = 128

    def pick_blocks(self, layer: int, q: torch.Tensor, view: View, told: Told, state: Any, full: Full) -> Blocks | None:
        h, size = self.head[1], PromptPatterns.block
        if layer != self.head[0] or int(view.lens()[h]) - len(q) <= self.room:
            return None
        piece = Piece(
            q.chunk(view.n_heads, 1)[h], view.keys(h), q.shape[-1] ** -0.5, size, self.room, PromptPatterns.look
        )
        places, _ = pick(self.pattern, piece)
        return Blocks(
            size,
            [
                [mine if head == h else torch.arange(n) for head in range(view.n_heads)]
                for mine, n in zip(places, piece.blocks())
            ],
        )


def effects(
    eng: Engine,
    ids: Sequence[int],
    heads: Mapping[Head, Pattern],
    room: int,
    over: Callable[[], bool],
    say: Callable[[str], None],
) -> dict[Head, float]:
    """The effect of each head and pattern. Ends early when `over()`: heads that were not reached have the mean effect."""
    full, found = _read(eng, ids, PLAIN), dict[Head, float]()
    for i, (head, pattern) in enumerate(heads.items()):
        if over():
            break
        say(f"head {i + 1} of {len(heads)}: layer {head[0]}, head {head[1]}")
        if head[0] + 1 == eng.model.spec.n_layers:
            found[head] = 0.0
        else:
            got = _read(eng, ids, plan([Alone(head, pattern, room)]))
            found[head] = sum(map(_off, full[head[0] + 1 :], got[head[0] + 1 :])) / len(full)
    mean = sum(found.values()) / max(1, len(found))
    return {head: found.get(head, mean or 1.0) for head in heads}


def _off(full: Entries, got: Entries) -> float:
    """A layer's relative squared error, keys and values alike, mean over its heads."""
    sums = 0.0
    for (k, v), (k2, v2) in zip(full, got):
        late = slice(len(k) // 4, None)
        spread = (k - k.mean(0))[late].pow(2).sum()
        sums += float((k2 - k)[late].pow(2).sum() / spread + (v2 - v)[late].pow(2).sum() / v[late].pow(2).sum()) / 2
    return sums / len(full)


def _read(eng: Engine, ids: Sequence[int], seams: Seams) -> list[Entries]:
    """The keys and values that a reading of ids leaves, layer by layer."""
    reader = Reader(eng, seams, len(ids))
    for at in range(0, len(ids), eng.chunk):
        reader.piece(ids[at : at + eng.chunk])
    views = [reader.store.view(reader.seq, layer) for layer in range(eng.model.spec.n_layers)]
    out = [[(view.keys(h).float(), view.values(h).float()) for h in range(view.n_heads)] for view in views]
    reader.close()
    return out
