"""Many short prompts, one question each: what does the model say of the next token?

Prompts of a batch share one forward and leave nothing behind. Each gets its own row of logits, so a batch changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from fewer.engine import Engine
from fewer.plan import PLAIN
from fewer.types import Group, Step, Told, chain

ROWS = 1024  # of a forward
LOGITS = 1 << 24  # numbers of a forward's logits


def after(
    engine: Engine, prompts: Sequence[Sequence[int]], wanted: Sequence[int] | None = None
) -> Iterator[torch.Tensor]:
    """Log probabilities (n, vocabulary), float64, behind the last `n` tokens of each prompt: 1, or as `wanted` says.

    Order is kept. A prompt longer than a forward goes alone."""
    store, told = engine.stores["main"], Told(0)
    each = [1] * len(prompts) if wanted is None else wanted
    at = 0
    while at < len(prompts):
        n, rows, asked = 0, 0, 0
        while at + n < len(prompts) and (
            not n
            or (rows + len(prompts[at + n]) <= ROWS and (asked + each[at + n]) * engine.model.spec.vocab <= LOGITS)
        ):
            rows, asked, n = rows + len(prompts[at + n]), asked + each[at + n], n + 1
        groups = [
            Group(store.new(), chain(list(p), 0), PLAIN, told, np.arange(len(p) - k, len(p)))
            for p, k in zip(prompts[at : at + n], each[at : at + n])
        ]
        try:
            outs, _ = engine.model.forward(Step(groups), store)
        finally:
            for g in groups:
                store.drop(g.seq)
        engine.forwards["main"] += 1
        for out in outs:
            assert out.logits is not None
            yield torch.log_softmax(out.logits.double(), -1)
        at += n
