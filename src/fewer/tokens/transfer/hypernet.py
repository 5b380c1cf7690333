"""A small net that predicts a token's row from the rows of its old pieces, trained once for a model, for any tokenizer.

    row = mean_i (1 + gate[place of i]) e_i + B gelu(A [first; mean; last])

Gates differ by the place counted from the front and from the back; they and B begin at 0, so the untrained net is Fast
Vocabulary Transfer, and a token of one piece is always that piece: the paper's tie to the original embeddings holds by
construction. Trained on random tokenizers: in each text, random neighbours are merged into tokens of up to MOST pieces,
every text anew, and the frozen model must foretell the merged text; scores are over all old tokens, the text's merged ones
and those of many texts before (without these nothing teaches a row to be unlikely where it does not belong).
Zero-Shot Tokenizer Transfer, at small scale: the paper's net is a transformer and its tokenizers are sampled UnigramLMs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import nn

MOST = 4  # pieces of a token in training
PLACES = 8
WIDTH = 128
RATE = 5e-4


class Hypernet(nn.Module):
    """`size`: of the rows, about: their root mean square, which the net's own part is measured in."""

    def __init__(self, d: int, size: float) -> None:
        super().__init__()
        self.front = nn.Parameter(torch.zeros(PLACES, d))
        self.back = nn.Parameter(torch.zeros(PLACES, d))
        self.a = nn.Linear(3 * d, WIDTH)
        self.b = nn.Linear(WIDTH, d, bias=False)
        nn.init.zeros_(self.b.weight)
        self.size = size

    def forward(self, e: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """e (B, P, D) rows of pieces, lengths (B,) how many of them are there -> (B, D)."""
        place = torch.arange(e.shape[1])
        there = (place < lengths[:, None]).to(e.dtype)[..., None]
        from_back = (lengths[:, None] - 1 - place).clamp(0, PLACES - 1)
        gate = self.front[place.clamp_max(PLACES - 1)] + self.back[from_back]
        mean = (e * there).sum(1) / lengths[:, None]
        gated = (e * there * (1 + gate)).sum(1) / lengths[:, None]
        last = e[torch.arange(len(e)), lengths - 1]
        own = self.b(nn.functional.gelu(self.a(torch.cat([e[:, 0], mean, last], -1) / self.size))) * self.size
        return torch.where(lengths[:, None] > 1, gated + own, e[:, 0])


def for_rows(old: torch.Tensor) -> Hypernet:
    """An untrained net for the rows `old` (V, D)."""
    return Hypernet(old.shape[1], float(old.pow(2).mean().sqrt()))


def padded(pieces: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs of ids -> (B, P) ids, 0 where a run is over, and (B,) lengths."""
    lengths = torch.tensor([len(p) for p in pieces])
    ids = torch.zeros(len(pieces), int(lengths.max()), dtype=torch.int64)
    for row, p in enumerate(pieces):
        ids[row, : len(p)] = torch.tensor(p)
    return ids, lengths


def predict(net: Hypernet, old: torch.Tensor, pieces: Sequence[Sequence[int]], batch: int = 4096) -> torch.Tensor:
    """(n, D): the rows of tokens given by their old pieces; `old` (V, D)."""
    out = []
    for at in range(0, len(pieces), batch):
        ids, lengths = padded(pieces[at : at + batch])
        out.append(net(old[ids], lengths))
    return torch.cat(out)


def anything(a: int, b: int) -> bool:
    return True


def random_merges(
    ids: Sequence[int], rng: random.Random, joins: Callable[[int, int], bool] = anything
) -> list[tuple[int, ...]]:
    """A text's tokens, some neighbours that may join merged; how many is drawn anew for each text."""
    out, at, often = list[tuple[int, ...]](), 0, rng.uniform(0.1, 0.6)
    while at < len(ids):
        n = 1
        while n < MOST and at + n < len(ids) and joins(ids[at + n - 1], ids[at + n]) and rng.random() < often:
            n += 1
        out.append(tuple(ids[at : at + n]))
        at += n
    return out
