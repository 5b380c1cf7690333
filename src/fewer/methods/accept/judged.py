"""Let a drafted token stand that the target would not have said, if a classifier finds that it does not matter.

Where a draft x is rejected, the target has read it all the same: h(x), its last hidden state behind x, is there for nothing.

    important(x) = sigmoid(w . h(x) / rms(h(x)) + b)                x stands after all if important(x) < threshold

The classifier was trained on mismatches of one pair of models and one task, labelled without people: a mismatch is
important if the answer changes when the draft's token is put there and the target goes on (`fewer train judge`).
Threshold 0 is the lossless rule underneath, which is recursive rejection; 1 lets nearly everything stand.

Paper: Garipov et al. 2025 (AutoJudge), in its setting with the target's hidden state alone. Does not: judge the end of the
text, which stays the target's, or tokens that rules and sampling parameters forbid; know tasks it was not trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fewer.methods.propose.drawn_lines import DrawnLines
from fewer.models.decoder import Decoder
from fewer.parts.acceptance import RecursiveRejection
from fewer.parts.trained import UNTRAINED, find
from fewer.seams import Propose, Target, knob
from fewer.types import Rng, Told, Tree

KIND = "judge"
TAP = "last"


@dataclass(frozen=True)
class Classifier:
    """weight (D,) and bias of a logistic regression on a hidden state that is scaled to a mean square of one."""

    weight: torch.Tensor
    bias: float

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (...) the probability that the token read last is important."""
        return torch.sigmoid((scaled(hidden) * self.weight.to(hidden)).sum(-1) + self.bias)


def scaled(hidden: torch.Tensor) -> torch.Tensor:
    """(..., D) with a mean square of one."""
    return hidden * hidden.square().mean(-1, keepdim=True).add(1e-12).rsqrt()


@dataclass(frozen=True)
class Judged(RecursiveRejection):
    """Rejected tokens that are less important than `threshold` stand."""

    exact: ClassVar[bool] = False
    taps: ClassVar[frozenset[str]] = frozenset({TAP})

    threshold: float = knob(0.1, "importance below which a mismatch stands; 0 = none does", low=0.0, high=1.0)
    file: str = knob("qwen2.5-coder-1.5b", "trained classifier: one that comes with fewer, a file, or untrained")

    def drafter(self) -> Propose:
        return DrawnLines(length=8)

    def brings(self, main: Decoder) -> dict[str, Decoder]:
        """No model; but the classifier must be this one's."""
        if self.file != UNTRAINED:
            find(KIND, self.file).check(main, {"weight": (main.spec.d_model,), "bias": (1,)})
        return {}

    def start(self, told: Told) -> Classifier:
        """An untrained one weighs all of the hidden state alike, which means nothing."""
        if self.file == UNTRAINED:
            return Classifier(torch.tensor(1.0), 0.0)
        part = find(KIND, self.file)
        return Classifier(part.tensors["weight"].float(), float(part.tensors["bias"]))

    def choose(self, node: int, tree: Tree, target: Target, rng: Rng, told: Told, state: Classifier) -> int:
        token = super().choose(node, tree, target, rng, told, state)
        kids = [k for k in tree.children(node) if k < target.seen] if self.threshold else []
        if not kids or target.ends(token) or token in tree.tokens[kids]:
            return token
        possible = target.probs(node, soft=True)
        for kid in kids:
            drafted = int(tree.tokens[kid])
            unimportant = state(target.hidden(TAP)[kid + 1]) < self.threshold
            if possible[drafted] > 0 and not target.ends(drafted) and unimportant:
                return drafted
        return token
