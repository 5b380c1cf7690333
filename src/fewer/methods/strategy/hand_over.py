"""Fast and slow generating: a small model writes, the large one decides where the small one is unsure.

At every position the draft model says what comes next; if its likeliest token has less than `threshold` (by = "top"), or
leads the second by less than that (by = "lead"), the position is handed over: the main model reads what it has missed
and chooses. The ledger says how many positions were handed over and at how many of those the choice was another one.
From Zhang et al., "Fast and Slow Generating" (FS-GEN, 2024). At threshold = 1 every position is handed over: the text is the
main model's own, and what the ledger counts is how often the small one alone would have gone wrong (the paper's oracle).
`fewer bench handover` measures where those positions are.
Does not: save much on a CPU by itself (see the speculative rows), combine the two models' logits, train a router.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from fewer.decode import prefill, read
from fewer.request import Request
from fewer.seams import Commit, Forward, Strategy, Work, knob
from fewer.types import chain


@dataclass(frozen=True)
class HandOver(Strategy):
    """Let the draft model write and ask the main one only where the draft model's next token is uncertain."""

    uses: ClassVar[frozenset[str]] = frozenset({"draft"})

    threshold: float = knob(0.5, "below this certainty a position is handed over; 1 = always", low=0.0, high=1.0)
    by: str = knob(
        "top", "certainty: the likeliest token's probability, or its lead over the second", choices=("top", "lead")
    )

    def run(self, req: Request, horizon: Callable[[], int | None]) -> Work:
        pending, at = yield from prefill(req)
        slow = yield from read(req, pending, at, horizon, "prefill")
        text, known, fed = list(req.kept_prompt), len(req.kept_prompt), 0
        handed = changed = 0
        while True:
            fast = yield from _small(text, fed, req.chunk)
            fed = len(text)
            if self.unsure(fast):
                if known < len(text):
                    slow = yield from read(req, text[known:], known, horizon)
                    known = len(text)
                token, said = req.sampler.draw(slow, req.told), slow
                handed += 1
                changed += token != int(fast.argmax())
            else:
                token, said = req.sampler.draw(fast, req.told), fast
            text.append(token)
            req.note_logprob(said, token)
            if req.accept(token):
                req.ledger.notes.append(
                    f"{handed} of {len(req.tokens)} positions were handed over to the main model, {changed} changed by it"
                )
                return

    def unsure(self, logits: torch.Tensor) -> bool:
        """Is this position handed over? logits (V,) are the small model's."""
        if self.threshold == 1:
            return True
        best = torch.topk(torch.softmax(logits.float(), -1), 2).values
        return float(best[0] if self.by == "top" else best[0] - best[1]) < self.threshold


def _small(text: list[int], fed: int, chunk: int) -> Work:
    """Let the draft model read what it has not -> its logits (V,) behind the text."""
    while True:
        rows = chain(text[fed : fed + chunk], fed)
        fed += len(rows)
        out = yield Forward(rows, np.array([len(rows) - 1]) if fed == len(text) else None, model="draft")
        yield Commit(np.arange(len(rows)), model="draft")
        if out.logits is not None and len(out.logits):
            return out.logits[0]
