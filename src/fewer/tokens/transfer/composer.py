"""The net that composes rows of a merged prefix (dynamic.py), taught by what the model itself says behind the plain one.

    loss = mean over the tokens after the prefix of KL(model behind its tokens || model behind the merged rows)

The net is hypernet.py's, used for inputs alone; the model is frozen and everything after the prefix is plain tokens, as it
is when merged prompts are used. Merges are random neighbours inside words, anew for each text. Not done: the paper's LoRA
on the model beside the net.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import kl_div

from fewer.models.decoder import Decoder
from fewer.models.layers import DenseHead
from fewer.tokens.transfer import hypernet
from fewer.tokens.transfer.bits import opening
from fewer.tokens.transfer.causal import run
from fewer.tokens.transfer.dynamic import PREFIX, Run, inside_words
from fewer.tokens.transfer.ends import End


class Composer:
    """A learner as adapt.train() takes it."""

    def __init__(self, old: End, dense: Decoder, seed: int) -> None:
        assert isinstance(dense.head, DenseHead)
        self.tokenizer, self.dense, self.head = old.tokenizer, dense, dense.head
        self.embed = old.matrix("embed")
        self.net = hypernet.for_rows(self.embed)
        self.joins, self.rng = inside_words(old.tokenizer), random.Random(seed)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.net.parameters()), "lr": hypernet.RATE}]

    @torch.no_grad()
    def compose(self, runs: Sequence[Run]) -> torch.Tensor:
        """(n, D) inputs of merged tokens, as dynamic.py asks for them."""
        return self._rows(runs)

    def _rows(self, runs: Sequence[Run]) -> torch.Tensor:
        return hypernet.predict(self.net, self.embed, runs) * self.dense.spec.embed_scale

    def lesson(self, text: str) -> tuple[torch.Tensor, int]:
        """The loss on one text, and how many tokens followed its prefix."""
        ids = [opening(self.tokenizer), *self.tokenizer.encode(text, bos=False)]
        cut = max(2, round(PREFIX * len(ids)))
        runs = [(ids[0],), *hypernet.random_merges(ids[1:cut], self.rng, self.joins)]
        rest = self.head.embed(torch.tensor(ids[cut:-1], dtype=torch.int64))
        with torch.no_grad():
            plain = self._scores(torch.cat([self.head.embed(torch.tensor(ids[:cut])), rest]), cut - 1)
        own = self._scores(torch.cat([self._rows(runs), rest]), len(runs) - 1)
        return kl_div(own, plain, reduction="batchmean", log_target=True), len(plain)

    def _scores(self, x: torch.Tensor, start: int) -> torch.Tensor:
        """(n, V) log probabilities behind the rows from `start` on."""
        return torch.log_softmax(self.head.logits(run(self.dense, x)[start:]), -1)
