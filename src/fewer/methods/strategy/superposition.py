"""Superposed Decoding: several drafts of a text from one row a step, the mixture of their last tokens.

    x = sum over drafts of g_i * embedding(last token of draft i),     g = the drafts' scores as probabilities
    score(draft + token) = score(draft) + (1 - weight) log p + weight log ((1 - sum w_n) p + sum w_n P_n)

p is what the model says behind x, one distribution for all drafts, sharpened by `sharpen` and cut to its `candidates`
likeliest tokens a draft; P_n is how often the draft's own last n tokens went on so in a corpus (parts/ngrams.py), which
is what tells a fitting token of one draft from one of another. The `drafts` best of all continuations go on. A draft that
ends keeps its place. The best one a token is the request's text, given out as far as all drafts agree; all are in its
`drafts`. With temperature continuations are drawn without replacement instead.
From Shen et al., "Superposed Decoding" (2024). `drafts = 1, weight = 0` with all candidates is plain decoding.
Does not: penalties, rules or bias, which follow one text; drop tokens the corpus does not know (the paper does, with
a corpus of billions of tokens; here the model's p stands in for the mass w_n leaves).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch

from fewer.decode import prefill, read
from fewer.errors import BadRequest
from fewer.kernels.topk import topk
from fewer.parts import corpus
from fewer.parts.ngrams import Ngrams
from fewer.request import Request
from fewer.seams import Commit, Forward, Strategy, Work, knob
from fewer.types import Told, code_points, soft

SHARES = np.array([0.01, 0.04, 0.15, 0.18, 0.12])  # w_n, as published
ONE_TEXT = "it writes several texts at once, a rule follows one."
TOKENS = "what it keeps is judged by tokens, and the rows behind the prompt are mixtures of them."


@dataclass(slots=True)
class Draft:
    """One text: its score in the search, and the model's log probability as far as a mixture can tell."""

    tokens: list[int] = field(default_factory=list)
    score: float = 0.0
    logprob: float = 0.0

    @property
    def merit(self) -> float:
        """Score a token: drafts of different lengths are compared by it."""
        return self.score / max(1, len(self.tokens))


class Board:
    """The drafts of one request."""

    def __init__(self, method: Superposition, req: Request, ngrams: Ngrams | None) -> None:
        self.method, self.req, self.ngrams = method, req, ngrams
        self.alive, self.ended = [Draft()], list[Draft]()

    def step(self, logits: torch.Tensor) -> None:
        """Continue the drafts by one token; logits (V,) are the model's behind the mixture of their last ones."""
        tokens, p, own = self._candidates(logits)
        with np.errstate(divide="ignore"):
            lm = np.log(p)
            scores = np.stack([d.score + self._rescored(d, tokens, p, lm) for d in self.alive])
        alive: list[Draft] = []
        for place in self._chosen(scores, self.method.drafts - len(self.ended)):
            i, j = divmod(place, len(tokens))
            draft = self.alive[i]
            grown = Draft([*draft.tokens, int(tokens[j])], float(scores[i, j]), draft.logprob + float(own[j]))
            (self.ended if grown.tokens[-1] in self.req.sampler.stops else alive).append(grown)
        self.alive = alive

    def _candidates(self, logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens (n,), their sharpened probabilities (n,), the model's own log probabilities (n,)."""
        sampler, told = self.req.sampler, self.req.told
        wide = logits.double()
        p = (
            sampler.weights(logits, told)
            if sampler.params.temperature
            else torch.softmax(wide / self.method.sharpen, -1)
        )
        if len(self.alive[0].tokens) < sampler.params.min_tokens and sampler.stops:
            p[sorted(sampler.stops)] = 0
        n = min(self.method.candidates * self.method.drafts, len(p))
        tokens = torch.arange(len(p)) if n == len(p) else topk(p[None], n)[1][0]
        own = torch.log_softmax(wide, -1)[tokens]
        return tokens.numpy(), p[tokens].double().numpy(), own.numpy()

    def _rescored(self, draft: Draft, tokens: np.ndarray, p: np.ndarray, lm: np.ndarray) -> np.ndarray:
        """What each token adds to a draft's score."""
        weight = self.method.weight
        if self.ngrams is None or not weight:
            return lm
        last = (self.req.kept_prompt[-len(SHARES) :] + draft.tokens)[-len(SHARES) :]
        known = SHARES @ self.ngrams.shares(last, tokens) + (1 - SHARES.sum()) * p
        return (1 - weight) * lm + weight * np.log(known)

    def _chosen(self, scores: np.ndarray, count: int) -> list[int]:
        """Places in scores (drafts, tokens), flat: the `count` best, or drawn without replacement."""
        flat = scores.reshape(-1)
        if not self.req.sampler.params.temperature:
            order = np.argsort(-flat, kind="stable")[:count]
            return [int(i) for i in order if flat[i] > -np.inf]
        left, out = np.exp(flat - flat.max()), list[int]()
        while len(out) < count and left.any():
            out.append(self.req.sampler.rng.categorical(left))
            left[out[-1]] = 0
        return out

    def mixture(self, embed: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """(1, D): the drafts' last tokens, each by its draft's probability."""
        scores = torch.tensor([d.score for d in self.alive], dtype=torch.float64)
        vectors = embed(torch.tensor([d.tokens[-1] for d in self.alive]))
        return (torch.softmax(scores, 0).to(vectors)[:, None] * vectors).sum(0, keepdim=True)

    def ranked(self) -> list[Draft]:
        """All drafts, best first."""
        return sorted([*self.ended, *self.alive], key=lambda d: -d.merit)

    def agreed(self) -> int:
        """Tokens at the beginning that all drafts share."""
        first, *others = (d.tokens for d in self.ranked())
        return next((i for i, t in enumerate(first) if any(o[i : i + 1] != [t] for o in others)), len(first))


@dataclass(frozen=True)
class Superposition(Strategy):
    """Write `drafts` texts for the forwards of one; the best is the answer, all are the result's drafts."""

    excludes: ClassVar[Mapping[str, str]] = MappingProxyType({"rule": ONE_TEXT, "retain": TOKENS})

    drafts: int = knob(3, "texts written at once", low=1, high=16)
    weight: float = knob(0.5, "weight of the n-grams against the model; 0 = the model alone", low=0.0, high=1.0)
    sharpen: float = knob(0.1, "temperature at which the model's choices are compared", low=0.01, high=1.0)
    candidates: int = knob(3, "likeliest tokens looked at a step and draft", low=1)
    text: str = knob(corpus.PYTHON, f"corpus of the n-grams: {corpus.DOC}")

    def __post_init__(self) -> None:
        corpus.check(self.text)

    def remember(self, told: Told) -> Ngrams | None:
        text = corpus.read(self.text) if self.weight else ""
        return Ngrams((told.encode or code_points)(text), len(SHARES) + 1) if text else None

    def run(self, req: Request, horizon: Callable[[], int | None]) -> Work:
        _needs_one_text(req)
        pending, at = yield from prefill(req)
        board, said, seen = Board(self, req, req.told.remembered(self)), list[torch.Tensor](), 0
        logits = yield from read(req, pending, at, horizon, "prefill")
        at += len(pending)
        while True:
            said.append(logits)
            board.step(logits)
            agreed = board.agreed()
            if self._emit(req, board, seen, agreed, said):
                return
            seen = agreed
            if not board.alive or len(board.alive[0].tokens) >= req.max_tokens:
                break
            out = yield Forward(soft(board.mixture(req.told.embed), at), want=np.array([0]))
            assert out.logits is not None
            logits, at = out.logits[0], at + 1
            yield Commit(np.arange(1))
        self._emit(req, board, seen, len(board.ranked()[0].tokens), said)

    def _emit(self, req: Request, board: Board, start: int, end: int, said: list[torch.Tensor]) -> bool:
        """Give out tokens start .. end of the best draft; True when the text ends there."""
        drafts = board.ranked()
        req.drafts = [(d.tokens, d.logprob) for d in drafts]
        for i, token in enumerate(drafts[0].tokens[start:end], start):
            req.sampler.push(token, req.told)
            req.note_logprob(said[i], token)
            if req.accept(token):
                return True
        return False


def _needs_one_text(req: Request) -> None:
    p = req.sampler.params
    plain = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "logit_bias": {}}
    odd = [name for name, value in plain.items() if getattr(p, name) != value]
    if odd:
        raise BadRequest(f"superposed drafts are several texts at once, and {odd[0]} follows one: leave it out.")
