"""Drafts from the model's own early layers, a trained adapter and the model's own head: Kangaroo (Liu et al., 2024).

    early layers -> adapter (one attention layer, two norms) -> the model's final norm and head -> likeliest token

The draft shares every weight but the adapter's with the model it drafts for, and has keys and values of its own for its
layers + 1 layers. Drafting is an early exit twice over: in depth, and in length, since it ends behind the first token whose
probability is below `threshold` (that token is still verified) or at `length` tokens.
Does not: hand the early layers' hidden states on to verification, which computes these layers again; branch; sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fewer.models.decoder import Decoder
from fewer.models.spec import Spec
from fewer.parts import adapter
from fewer.parts.draft_model import DraftModel, likeliest
from fewer.parts.trained import UNTRAINED, find
from fewer.seams import Propose, Work, knob
from fewer.types import Rng, Told

KIND = "kangaroo"


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

    def most(self) -> int:
        return self.length

    def start(self, told: Told) -> DraftModel:
        return DraftModel(self._model())

    def draft(self, context: list[int], limit: int, told: Told, state: DraftModel, rng: Rng) -> Work:
        yield from state.begin(context, told)
        tip = -1
        for level in range(min(limit, self.length)):
            if level:
                yield from state.expand([tip], told)
            ((token, p),) = likeliest(state.odds[tip], 1)
            tip = state.add(tip, token)
            if p < self.threshold:
                break
        return state.tree()


def early(spec: Spec, layers: int) -> Spec:
    """The structure of the first layers and an adapter, which turns and sees as the layer in whose place it stands."""
    n = layers + 1
    return replace(spec, n_layers=n, ropes=spec.ropes[:n], windows=spec.windows[:n])
