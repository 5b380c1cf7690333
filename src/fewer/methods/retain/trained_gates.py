"""Gates that learnt what to keep: Attention-Gate (Zeng et al., 2024).

Before every layer's attention stands a small trained module (parts/gates.py) that sees what enters the layer. When the
prompt is complete it has seen the whole context, and says of every token and kv-head of its layer whether the entry stays:

    p = sigmoid(gate(hidden states of the whole prompt))          kept where p >= threshold

Heads and layers keep different entries and different numbers of them; how many is for the gates to say, and was the aim of
their training (`fewer train gate --keep`). No entry is forced to stay: neither first nor newest tokens. What is generated
always stays, as in the paper, whose gates act on the prompt alone. Rows of the prompt read all of it, so gates see the plain
model's hidden states, a prompt may come in pieces of any size, and the next token after it is the plain model's.
Does not: cut while the prompt is read (the paper's own rows read only what is kept), evict generated tokens, keep to a budget.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from fewer.models.decoder import Decoder
from fewer.parts.gates import fresh, gate, narrow, shapes
from fewer.parts.trained import UNTRAINED, find
from fewer.seams import Held, Retain, knob
from fewer.types import Rows, Told

KIND = "gate"


@dataclass
class Seen:
    """One request's gates and, a layer, what they keep in mind of the prompt's tokens (n, NARROW)."""

    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    narrow: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedGates(Retain):
    """Keep the prompt entries that trained gates let through."""

    acts = "prompt"
    needs = frozenset({"hidden"})

    threshold: float = knob(0.5, "least that a gate must say for an entry to stay; 0 = all stay", low=0.0, high=1.0)
    file: str = knob("smollm2-135m", "trained gates: those that come with fewer, a file, or untrained")

    def brings(self, main: Decoder) -> dict[str, Decoder]:
        if self.file != UNTRAINED:
            spec = main.spec
            find(KIND, self.file).check(main, shapes(spec.d_model, spec.n_layers, spec.n_kv_heads))
        return {}

    def start(self, told: Told) -> Seen:
        return Seen()

    def sees(self, layer: int, x: torch.Tensor, rows: Rows, told: Told, state: Seen) -> None:
        if not self.threshold:
            return
        a, first = narrow(self._weights(x, told, state), layer, x), int(rows.pos[0])
        old = state.narrow.get(layer)
        state.narrow[layer] = a if old is None else torch.cat([old[:first], a])

    def keep(self, held: Held, told: Told, state: Seen) -> dict[int, list[torch.Tensor]] | None:
        kept = {}
        for layer, a in state.narrow.items():
            stays, view = torch.sigmoid(gate(state.weights, layer, a)) >= self.threshold, held.view(layer)
            if not stays.all():
                kept[layer] = [s[view.positions(h).long()].nonzero().flatten() for h, s in enumerate(stays)]
        state.narrow, state.weights = {}, {}
        return kept

    def _weights(self, x: torch.Tensor, told: Told, state: Seen) -> dict[str, torch.Tensor]:
        """In the model's own precision; made when the first rows are seen."""
        if not state.weights:
            untrained = self.file == UNTRAINED
            w = fresh(shapes(x.shape[1], told.n_layers, told.heads[1])) if untrained else find(KIND, self.file).tensors
            state.weights = {name: t.to(x.dtype) for name, t in w.items()}
        return state.weights
