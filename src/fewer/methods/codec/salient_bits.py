"""Bits by saliency: ZipCache (He et al., 2024). Tokens that matter keep more bits, the rest fewer.

    saliency_j = sum over probe rows i >= j of p_ij / (number of probe rows >= j)        p: attention, mean over heads
    keys:   per channel,  k ~ low_c + step_c * code
    values: channel-separable per token,  s_c = sqrt(max_t |v_tc|),  v ~ s_c * (low_t + step_t * code)

The share `salient` of the tokens with the highest saliency is stored at `high` bits, the rest at `low` bits. Dividing by
how many rows could see a token removes the advantage of early ones. Probes are a few rows (the newest and some spread
over the text), so attention need not be kept for all. Packing happens when the prompt is complete, then every `gap` tokens.
Does not: change what was packed once; give attention what it could read as it lies (two classes of bits lie mixed by
position, values carry a scale a channel too): a layer is decoded while it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from fewer.kv.segment import Encoded
from fewer.kv.view import View
from fewer.parts.quant import Quantised, quantise
from fewer.seams import Codec, Held, knob
from fewer.types import Told

BITS = (2, 4, 8, 16)


@dataclass
class Saliency:
    """What probe rows saw: per layer the summed probability of each position, and the probes' positions."""

    mass: dict[int, torch.Tensor] = field(default_factory=dict)
    probes: set[int] = field(default_factory=set)
    here: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # positions of this step's probes

    def add(self, layer: int, p: torch.Tensor) -> None:
        """p (n,): probability one probe row gave each position."""
        old = self.mass.get(layer)
        if old is not None:
            p = p.clone()
            p[: len(old)] += old
        self.mass[layer] = p

    def scores(self, layer: int, first: int, n: int) -> torch.Tensor:
        """(n,) normalised saliency of positions first .. first + n - 1; never probed ones rank last."""
        if layer not in self.mass:
            return torch.zeros(n, dtype=torch.float64)
        mass = torch.nn.functional.pad(self.mass[layer], (0, max(0, first + n - len(self.mass[layer]))))
        probes = np.sort(np.fromiter(self.probes, dtype=np.int64))
        seen_by = len(probes) - np.searchsorted(probes, np.arange(first, first + n))
        return mass[first : first + n] / torch.from_numpy(seen_by).clamp_min(1)


@dataclass(frozen=True)
class SalientBits(Codec):
    """Keep the share `salient` of tokens at `high` bits and the others at `low` bits; 16 leaves them as they are."""

    needs = frozenset({"attention"})

    high: int = knob(4, "bits of salient tokens; 16 packs nothing", choices=BITS)
    low: int = knob(2, "bits of the other tokens; 16 packs nothing", choices=BITS)
    salient: float = knob(0.6, "share of tokens that are salient", low=0.0, high=1.0)
    gap: int = knob(100, "generated tokens between packings", low=1)
    probes: float = knob(
        0.1, "share of rows that are probes: half the newest, half spread over the text", low=0.0, high=1.0
    )

    def __post_init__(self) -> None:
        if self.high < self.low or (self.high == 16) != (self.low == 16):
            raise ValueError(
                f"high={self.high} and low={self.low}: high must not be below low, and 16 goes with 16 only"
            )

    def start(self, told: Told) -> Saliency:
        return Saliency()

    # ------------------------------------------------------------------ evidence
    def is_probe(self, pos: np.ndarray, told: Told) -> np.ndarray:
        """(m,) bool. By position alone, so that chunks, batches and drafts do not change it."""
        n, gap = told.prompt_len, self.gap
        size, end = (gap, n + ((pos - n) // gap + 1) * gap) if told.decoding else (n, np.full_like(pos, n))
        newest = pos >= end - self.probes / 2 * size
        spread = (pos * 2654435761 % 2**32) < self.probes / 2 * 2**32
        return newest | spread

    def probe(self, m: int, told: Told, state: Saliency) -> np.ndarray | None:
        if self.high == 16:
            return None
        pos = told.seen + np.arange(1 if told.decoding else m)
        rows = np.flatnonzero(self.is_probe(pos, told))
        state.here = pos[rows]
        state.probes.update(state.here.tolist())
        return rows

    def watch(self, layer: int, rows: np.ndarray, probs: list[torch.Tensor], told: Told, state: Saliency) -> None:
        mean = torch.stack([p.double().mean(1) for p in probs]).mean(0)  # (w, n)
        for p, pos in zip(mean, state.here):
            state.add(layer, p[: pos + 1])

    # ------------------------------------------------------------------ packing
    def due(self, held: Held, told: Told, state: Saliency) -> bool:
        if self.high == 16 or not told.decoding:
            return False
        return told.seen == told.prompt_len or held.raw_entries(0) >= self.gap

    def horizon(self, held: Held, told: Told, state: Saliency) -> int | None:
        """A probe must be a certain token, and packing comes when `gap` raw tokens are there."""
        if self.high == 16:
            return None
        room = self.gap - held.raw_entries(0)
        ahead = told.seen + np.arange(1, room + 1)
        probes = ahead[self.is_probe(ahead, told)]
        return max(1, min(room, int(probes[0]) - told.seen if len(probes) else room))

    def encode(self, layer: int, view: View, told: Told, state: Saliency) -> tuple[Encoded, torch.Tensor, np.ndarray]:
        heads, n = view.n_heads, int(view.lens()[0])
        k = torch.stack([view.keys(h) for h in range(heads)], 1).flatten(1)  # (n, H d)
        v = torch.stack([view.values(h) for h in range(heads)], 1).flatten(1)
        pos = view.positions(0)
        order = state.scores(layer, int(pos[0]), n).sort(descending=True, stable=True).indices
        cut = round(self.salient * n)
        places = [order[:cut].sort().values, order[cut:].sort().values]
        packed = PackedTokens(heads, k.dtype, k, v, places, (self.high, self.low))
        return Encoded(packed.decode, packed.nbytes), pos.repeat(heads), np.full(heads, n)


class PackedTokens:
    """Keys and values of n tokens in two classes of bits. decode() -> k, v flat (H n, d), head by head."""

    def __init__(
        self,
        heads: int,
        dtype: torch.dtype,
        k: torch.Tensor,
        v: torch.Tensor,
        places: list[torch.Tensor],
        bits: tuple[int, int],
    ) -> None:
        self.heads, self.dtype, self.n = heads, dtype, len(k)
        wide = k.dtype if k.dtype == torch.float64 else torch.float32
        self.classes: list[tuple[torch.Tensor, Quantised, Quantised, torch.Tensor]] = []
        for at, b in zip(places, bits):
            if len(at):
                values = v[at].to(wide)
                scale = values.abs().amax(0).sqrt().to(torch.float16)
                safe = scale.to(wide).clamp_min(torch.finfo(torch.float16).tiny)
                keys = quantise(k[at].to(wide), b, 0)
                self.classes.append((at.to(torch.int32), keys, quantise(values / safe, b, 1), scale))

    @property
    def nbytes(self) -> int:
        return sum(at.nbytes + k.nbytes + v.nbytes + s.nbytes for at, k, v, s in self.classes)

    def decode(self) -> tuple[torch.Tensor, torch.Tensor]:
        wide = self.dtype if self.dtype == torch.float64 else torch.float32
        width = self.classes[0][1].channels
        k, v = torch.empty(self.n, width, dtype=self.dtype), torch.empty(self.n, width, dtype=self.dtype)
        for at, keys, values, scale in self.classes:
            safe = scale.to(wide).clamp_min(torch.finfo(torch.float16).tiny)
            k[at] = keys.dense(wide).to(self.dtype)
            v[at] = (values.dense(wide) * safe).to(self.dtype)
        return self._by_head(k), self._by_head(v)

    def _by_head(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(self.n, self.heads, -1).transpose(0, 1).reshape(self.heads * self.n, -1)
