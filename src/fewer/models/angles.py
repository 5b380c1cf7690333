"""cos/sin of rotary positions: tables grown on demand, one a distinct `Rope`, looked up once a step."""

from __future__ import annotations

import numpy as np
import torch

from fewer.models.rope import cos_sin
from fewer.models.spec import Rope, Spec

Turn = tuple[torch.Tensor, torch.Tensor]


class Angles:
    """Rotation of any layer at any positions."""

    def __init__(self, spec: Spec, dtype: torch.dtype, device: str) -> None:
        self.spec, self.dtype, self.device = spec, dtype, device
        self._tables: dict[Rope, Turn] = {}
        self._ropes = list(dict.fromkeys(spec.ropes))
        self._which = [self._ropes.index(rope) for rope in spec.ropes]

    def __call__(self, layer: int, positions: np.ndarray) -> Turn:
        """cos, sin (T, d/2) of `layer` at positions (T,) int64."""
        return self._at(self.spec.ropes[layer], positions)

    def step(self, positions: np.ndarray, unrotated: np.ndarray | None = None) -> list[Turn]:
        """cos, sin (T, d/2) a layer; layers with one rope share them. `unrotated`: rows left as they are (cos 1, sin 0)."""
        turns = [self._at(rope, positions) for rope in self._ropes]
        if unrotated is not None:
            at = torch.from_numpy(unrotated)
            turns = [(cos.clone(), sin.clone()) for cos, sin in turns]
            for cos, sin in turns:
                cos[at], sin[at] = 1.0, 0.0
        return [turns[i] for i in self._which]

    def _at(self, rope: Rope, positions: np.ndarray) -> Turn:
        need = int(positions.max()) + 1 if len(positions) else 1
        table = self._tables.get(rope)
        if table is None or len(table[0]) < need:
            size = max(512, 1 << (need - 1).bit_length())
            cos, sin = cos_sin(rope, torch.arange(size), self.dtype)
            table = self._tables[rope] = (cos.to(self.device), sin.to(self.device))
        first = need - len(positions)
        if len(positions) == 1 or (len(positions) and positions[0] == first and (np.diff(positions) == 1).all()):
            return table[0][first:need], table[1][first:need]
        at = torch.from_numpy(np.ascontiguousarray(positions))
        return table[0][at], table[1][at]
