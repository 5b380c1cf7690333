"""Which tokens lie near a token among a model's input embeddings: its k nearest by cosine.

The whole table is far too large to keep in floats (152k x 1536 is 930 MB), so each row is kept as WIDTH random projections
of its direction; the best of those are compared exactly. Made at the first question, which takes a second or two for a
large vocabulary; answers are remembered.

Does not: guarantee the exact k nearest, since a true neighbour may be missed by the projections.
"""

from __future__ import annotations

from typing import Protocol

import torch

WIDTH, BLOCK, CANDIDATES = 96, 8192, 256


class Embeds(Protocol):
    """The one thing asked of a model's head."""

    def embed(self, tokens: torch.Tensor) -> torch.Tensor: ...


class Neighbours:
    """Near tokens of one model's vocabulary."""

    def __init__(self, head: Embeds, vocab: int) -> None:
        self._head, self._vocab = head, vocab
        self._table: torch.Tensor | None = None  # (V, WIDTH)
        self._known: dict[tuple[int, int], torch.Tensor] = {}

    def __call__(self, token: int, count: int) -> torch.Tensor:
        """The `count` nearest other tokens, nearest first."""
        found = self._known.get((token, count))
        if found is None:
            found = self._known[token, count] = self._find(token, min(count, self._vocab - 1))
        return found

    @torch.inference_mode()
    def _find(self, token: int, count: int) -> torch.Tensor:
        if self._table is None:
            self._table = self._projections()
        rough = self._table @ self._table[token]
        rough[token] = float("-inf")
        near = torch.topk(rough, min(max(count, CANDIDATES), self._vocab - 1)).indices
        exact = self._directions(near) @ self._directions(torch.tensor([token]))[0]
        return near[torch.topk(exact, count).indices]

    def _projections(self) -> torch.Tensor:
        parts, mix = [], None
        for at in range(0, self._vocab, BLOCK):
            rows = self._directions(torch.arange(at, min(at + BLOCK, self._vocab)))
            if mix is None:
                mix = torch.randn(rows.shape[1], WIDTH, generator=torch.Generator().manual_seed(0)) / WIDTH**0.5
            parts.append(rows @ mix)
        return torch.cat(parts)

    def _directions(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, D) float32 of length one."""
        return torch.nn.functional.normalize(self._head.embed(tokens).float(), dim=1)
