"""Keep the segments beside which the model is surest of the question: XL3M (Wang et al., 2024).

    prompt = segments + question (its last `question` tokens)
    u_i = mean over the last `span` rows of H(p(next | segment i, question))        entropy, each segment read alone
    keep the segments of lowest u, spliced in their order, before the question; then answer from those

A model that finds what the question needs is certain of what comes next. Each segment is read at positions 0.., so a
prompt may be longer than the model's context, and attention is paid inside segments only. Memory: one segment at a time.
Does not: cut a segment (a budget that is no multiple of the segment leaves room), look from one segment to another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fewer.seams import Commit, Forward, Rewind, Transform, Work, budget_knob, knob, resolve_budget
from fewer.types import Told, chain


def entropy(logits: torch.Tensor) -> float:
    """Mean entropy in nats of the distributions of logits (w, V)."""
    lp = torch.log_softmax(logits.double(), -1)
    return float(-(lp.exp() * lp).sum(-1).mean())


@dataclass(frozen=True)
class CertainSegments(Transform):
    """Keep whole segments of the prompt, `budget` tokens with the question, by how certain they make the model."""

    budget: int | float = budget_knob(0.5, "prompt tokens kept")
    segment: int = knob(256, "tokens a segment", low=1)
    question: int = knob(32, "last prompt tokens, read behind every segment", low=1)
    span: int = knob(1, "last rows whose certainty counts; as many as `question` = of the whole question", low=1)

    def run(self, tokens: list[int], forced: np.ndarray, told: Told, state: None) -> Work:
        n = len(tokens)
        budget = resolve_budget(self.budget, n)
        if budget is None or budget >= n:
            return np.arange(n)
        stay = forced.copy()
        first = n - min(self.question, budget)
        stay[first:] = True
        starts = range(0, first, self.segment)
        doubt = []
        for at in starts:
            body = [*tokens[at : min(at + self.segment, first)], *tokens[first:]]
            m = len(body)
            want = np.arange(m - min(self.span, n - first), m)
            out = yield Forward(chain(body, 0), want, stage="transform")
            assert out.logits is not None
            doubt.append(entropy(out.logits))
            yield Commit(np.zeros(0, dtype=np.int64))
        yield Rewind(0)
        for i in np.argsort(doubt, kind="stable"):
            more = stay.copy()
            more[starts[i] : min(starts[i] + self.segment, first)] = True
            if more.sum() <= budget:
                stay = more
        return np.flatnonzero(stay)
