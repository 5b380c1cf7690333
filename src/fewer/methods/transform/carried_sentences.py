"""Read a text of any length in pieces and carry along the sentences that the question looks at: InfiniRetri (Ye et al., 2025).

    for each piece of whole sentences:  read  carried + piece + question  from position 0
        s_j = attention of the question's rows to token j at one layer, summed over heads and rows
        phrases: s is averaged over `phrase` neighbours;  the `topk` best tokens call for their sentences
        carried = those sentences, as token ids, the best first, as long as they fit into the budget
    answer from  carried + question

What is carried is text, not KV: memory is that of budget + piece + question tokens, whatever the length, and the prompt
may be far longer than the model's context. Cost is linear: n (1 + (budget + question) / piece) rows.
Does not: cut sentences where others would (a full stop inside a number or a name ends one), read the layers above `layer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from fewer.parts.look import Look
from fewer.parts.pooling import mean_over_neighbours
from fewer.seams import Commit, Forward, Rewind, Transform, Work, budget_knob, knob, resolve_budget
from fewer.types import Told, chain

CHUNK = 512


@dataclass(frozen=True)
class CarriedSentences(Transform):
    """Keep the sentences, `budget` tokens with the question, that the question's attention calls for piece by piece."""

    budget: int | float = budget_knob(512, "prompt tokens kept and carried along")
    piece: int = knob(1024, "new tokens read at a time", low=1)
    question: int = knob(32, "last prompt tokens, read behind every piece", low=1)
    topk: int = knob(300, "tokens that call for their sentences", low=1)
    phrase: int = knob(9, "neighbours averaged: the length of an answer (odd)", low=1)
    layer: float = knob(
        0.6, "depth at which to look, as a share of the layers; none above it is run", low=0.0, high=1.0
    )

    def run(self, tokens: list[int], forced: np.ndarray, told: Told, state: None) -> Work:
        n = len(tokens)
        budget = resolve_budget(self.budget, n)
        if budget is None or budget >= n:
            return np.arange(n)
        first = n - min(self.question, budget)
        stay = forced.copy()
        stay[first:] = True
        room = max(0, budget - int(stay.sum()))
        depth = max(1, round(self.layer * told.n_layers))
        ends = sentence_ends(tokens[:first], told, self.piece)
        carried = np.zeros(0, dtype=np.int64)
        for start, end in pieces(ends, self.piece):
            context = np.concatenate([carried, np.arange(start, end)])
            look = Look(depth - 1, rows=n - first, mass=True)
            yield from self.read([tokens[i] for i in context] + tokens[first:], n - first, depth, look)
            scores = mean_over_neighbours(look.scores[: len(context)], self.phrase)
            carried = called_for(context, scores, ends, self.topk, room, stay)
        stay[carried] = True
        return np.flatnonzero(stay)

    def read(self, text: list[int], question: int, depth: int, look: Look) -> Work:
        """One reading from position 0; the question's rows are the end of the last forward, and that one is watched."""
        body = len(text) - question
        cuts = [*range(0, body, CHUNK)[1:], len(text)] if body > CHUNK else [len(text)]
        at = 0
        for cut in cuts:
            last = cut == len(text)
            yield Forward(chain(text[at:cut], at), stop=depth, watch=look if last else None, stage="transform")
            yield Commit(np.arange(0 if last else cut - at))
            at = cut
        yield Rewind(0)


def sentence_ends(tokens: list[int], told: Told, most: int) -> np.ndarray:
    """Ascending places behind the last token of each sentence; one longer than `most` tokens is cut. The last is n."""
    known: dict[int, bool] = {}
    ends, start = [], 0
    for i, token in enumerate(tokens):
        if token not in known:
            said = told.spell(token, False)
            known[token] = b"\n" in said or said.rstrip().endswith((b".", b"!", b"?"))
        if known[token] or i + 1 - start >= most or i + 1 == len(tokens):
            ends.append(i + 1)
            start = i + 1
    return np.array(ends, dtype=np.int64)


def pieces(ends: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """(start, end) of consecutive runs of whole sentences, each as long as `size` allows."""
    start = before = 0
    for end in ends.tolist():
        if end - start > size:
            yield start, before
            start = before
        before = end
    if before > start:
        yield start, before


def called_for(
    context: np.ndarray, scores: torch.Tensor, ends: np.ndarray, topk: int, room: int, stay: np.ndarray
) -> np.ndarray:
    """Ascending tokens of the sentences that hold the `topk` best of the context's tokens, at most `room`, best first.

    context (c,) their places in the prompt, scores (c,). Tokens that stay anyway need no room.
    """
    out = np.zeros(0, dtype=np.int64)
    sentence = np.searchsorted(ends, context, side="right")
    for i in scores.topk(min(topk, len(scores))).indices.tolist():
        of = sentence[i]
        whole = context[sentence == of]
        whole = whole[~stay[whole]]
        if len(whole) and not len(np.intersect1d(whole[:1], out)) and len(out) + len(whole) <= room:
            out = np.concatenate([out, whole])
    return np.sort(out)
