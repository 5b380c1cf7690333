"""Drafts from the model's own early layers, a trained adapter and the model's own head: Kangaroo (Liu et al., 2024).

    early layers -> adapter (one attention layer, two norms) -> the model's final norm and head -> likeliest token

The draft shares every weight but the adapter's with the model it drafts for, and has keys and values of its own for its
layers + 1 layers. Drafting is an early exit twice over: in depth, and in length, since it ends behind the first token whose
probability is below `threshold` (that token is still verified) or at `length` tokens. Only text that stands is committed;
a draft's own earlier tokens run along as rows of the next draft step, which on few rows costs next to nothing.
Does not: hand the early layers' hidden states on to verification, which computes these layers again; branch; sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fewer.models.decoder import Decoder
from fewer.models.spec import Spec
from fewer.parts import adapter
from fewer.parts.trained import UNTRAINED, find
from fewer.seams import Commit, Forward, Propose, Work, knob
from fewer.types import Rng, Told, Tree, chain

KIND = "kangaroo"
PIECE = 512  # prompt rows a forward


@dataclass(slots=True)
class Fed:
    """Tokens of the text that the draft model has read."""

    tokens: int = 0


@dataclass(frozen=True)
class EarlyExit(Propose):
    """Draft with the first layers, until the draft is unsure."""

    file: str = knob("smollm2-135m", "trained adapter: one that comes with fewer, a file, or untrained")
    length: int = knob(6, "tokens of a draft at most", low=1)
    threshold: float = knob(0.6, "a draft ends behind a token of less probability", low=0.0, high=1.0)

    def brings(self, main: Decoder) -> dict[str, Decoder]:
        if self.file == UNTRAINED:
            layers = max(1, main.spec.n_layers // 8)
            tensors = adapter.fresh(main.spec)
        else:
            part = find(KIND, self.file)
            part.check(main, adapter.shapes(main.spec))
            layers, tensors = part.number("layers", 1, main.spec.n_layers - 1), dict(part.tensors)
        weights = {name: tensors[name].to(main.dtype) for name in adapter.shapes(main.spec)}
        spec = early(main.spec, layers)
        blocks = [*main.blocks[:layers], adapter.Adapter(spec, weights)]
        return {self._model(): Decoder(spec, blocks, main.head, main.dtype, main.device, main.kv_dtype)}

    def _model(self) -> str:
        return f"{KIND} {UNTRAINED if self.file == UNTRAINED else find(KIND, self.file).digest}"

    def start(self, told: Told) -> Fed:
        return Fed()

    def draft(self, context: list[int], limit: int, told: Told, state: Fed, rng: Rng) -> Work:
        model, n = self._model(), len(context)
        while n - state.tokens > PIECE:
            rows = chain(context[state.tokens : state.tokens + PIECE], state.tokens)
            yield Forward(rows, None, model)
            yield Commit(np.arange(PIECE), model)
            state.tokens += PIECE
        certain, drafted, chance = context[state.tokens :], list[int](), list[float]()
        rows = chain(certain, state.tokens)
        for step in range(min(limit, self.length)):
            out = yield Forward(rows, np.array([len(rows) - 1]), model)
            yield Commit(np.arange(0 if step else len(certain)), model)
            assert out.logits is not None
            z = out.logits[0]
            token = int(z.argmax())
            p = float(1 / (z - z[token]).exp().sum())
            drafted.append(token)
            chance.append(p * (chance[-1] if chance else 1.0))
            if p < self.threshold:
                break
            rows = chain(drafted, n)
        state.tokens = n
        return Tree(np.array(drafted), np.arange(-1, len(drafted) - 1), chance=np.array(chance))


def early(spec: Spec, layers: int) -> Spec:
    """The structure of the first layers and an adapter, which turns and sees as the layer in whose place it stands."""
    n = layers + 1
    return replace(spec, n_layers=n, ropes=spec.ropes[:n], windows=spec.windows[:n])
