"""Choosing a token: penalties, rules, temperature, top-k, top-p, min-p, in that order; then one draw through Rng.

temperature 0 is greedy (ties go to the lowest id). Repetition penalty looks at prompt and text, presence and frequency
at the text alone. Log probabilities reported are the model's own, before any of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from fewer.errors import BadRequest
from fewer.seams import Rule
from fewer.types import Rng, Told

NOTHING_ALLOWED = "no token is allowed here: the rules of this request forbid every continuation."


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters of one request."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    seed: int | None = None
    logprobs: int | None = None  # None = none; n = the chosen token's and the n best
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        checks = [
            (self.temperature >= 0, "temperature must be >= 0"),
            (self.top_k >= 0, "top_k must be >= 0 (0 = off)"),
            (0 < self.top_p <= 1, "top_p must be in (0, 1]"),
            (0 <= self.min_p <= 1, "min_p must be in [0, 1]"),
            (self.repetition_penalty > 0, "repetition_penalty must be > 0"),
            (self.min_tokens >= 0, "min_tokens must be >= 0"),
            (self.logprobs is None or 0 <= self.logprobs <= 20, "logprobs must be between 0 and 20"),
            (all(self.stop), "a stop string must not be empty"),
            (self.seed is None or self.seed >= 0, "seed must be >= 0, or absent for a new one each time"),
        ]
        for ok, message in checks:
            if not ok:
                raise BadRequest(message)


class Sampler:
    """One request's sampler. `draw` is called once a token, in order, along the accepted path."""

    def __init__(
        self, params: Sampling, rules: tuple[Rule, ...], prompt: list[int], eos: frozenset[int], rng: Rng
    ) -> None:
        self.params, self.rules, self.prompt, self.rng = params, rules, prompt, rng
        self.draft_rng = rng.spawn()  # what is drafted must not move the text's own draws
        self.stops = frozenset(params.stop_tokens) | (frozenset() if params.ignore_eos else eos)
        self._eos = torch.tensor(sorted(eos | set(params.stop_tokens)), dtype=torch.int64)
        self.checks = 0  # tokens a black-box rule has tested
        self._black = next((r for r in rules if r.black_box), None)
        p = params
        self.plain_greedy = (
            p.temperature == 0
            and not rules
            and not p.logit_bias
            and not p.min_tokens
            and p.repetition_penalty == 1
            and not p.presence_penalty
            and not p.frequency_penalty
            and p.logprobs is None
        )

    def weights(self, logits: torch.Tensor, told: Told, truncate: bool = True, soft: bool = False) -> torch.Tensor:
        """logits (V,) -> probabilities (V,) after everything; one-hot when greedy, unless soft or a rule draws by itself."""
        z = self._ruled(self._shaped(_wide(logits), told.generated), told)
        if self.params.temperature == 0 and self._black is None and not soft:
            return torch.nn.functional.one_hot(z.argmax(), len(z)).to(z.dtype)
        return self._chances(z, truncate)

    def expect(self, logits: torch.Tensor, told: Told, path: Sequence[int] = ()) -> torch.Tensor:
        """What this request makes of a drafter's logits (V,) after `path` more tokens: penalties, bias, temperature and
        truncation, as in weights(). Rules are left out, since their state cannot run ahead; greedy counts as temperature 1.
        """
        return self._chances(self._shaped(_wide(logits), [*told.generated, *path]))

    def _chances(self, z: torch.Tensor, truncate: bool = True) -> torch.Tensor:
        p = self.params
        probs = torch.softmax(z / (p.temperature or 1.0), dim=-1)
        return _truncate(probs, p.top_k, p.top_p, p.min_p) if p.temperature and truncate else probs

    def draw(self, logits: torch.Tensor, told: Told) -> int:
        """One token; told.generated and the rules advance with it."""
        if self._black is not None:
            token = self._draw_by_test(self._black, logits, told)
        elif self.params.temperature == 0:
            token = int(self.weights(logits, told).argmax())
        else:
            token = self.rng.categorical(self.weights(logits, told).cpu())
        self.push(token, told)
        return token

    def _draw_by_test(self, rule: Rule, logits: torch.Tensor, told: Told) -> int:
        """One token from a rule that tests tokens one by one; the tests are counted here.

        If top-k, top-p and min-p left it nothing that is allowed, it gets the whole distribution instead.
        """
        state, p = told.of(rule), self.params

        def allows(token: int) -> bool:
            self.checks += 1
            return rule.may_stop(told, state) if token in self.stops else rule.allows(token, told, state)

        rng = self.rng if p.temperature else None
        token = rule.draw(self.weights(logits, told), allows, rng, told, state)
        if token is None and p.temperature and (p.top_k or p.top_p < 1 or p.min_p):
            token = rule.draw(self.weights(logits, told, truncate=False), allows, rng, told, state)
        if token is None:
            raise BadRequest(NOTHING_ALLOWED)
        return token

    def push(self, token: int, told: Told) -> None:
        """`token` joins the text."""
        told.generated.append(token)
        for r in self.rules:
            r.advance(token, told, told.of(r))

    def _shaped(self, z: torch.Tensor, generated: Sequence[int]) -> torch.Tensor:
        """Penalties, bias and min_tokens after `generated`."""
        p, n = self.params, len(generated)
        z = z.clone()
        if p.repetition_penalty != 1:
            seen = torch.tensor(sorted({*self.prompt, *generated}), dtype=torch.int64)
            picked = z[seen]
            z[seen] = torch.where(picked > 0, picked / p.repetition_penalty, picked * p.repetition_penalty)
        if n and (p.presence_penalty or p.frequency_penalty):
            ids, counts = np.unique(np.asarray(generated), return_counts=True)
            z[torch.from_numpy(ids)] -= p.presence_penalty + p.frequency_penalty * torch.from_numpy(counts).to(z.dtype)
        for token, bias in p.logit_bias.items():
            z[token] += bias
        if n < p.min_tokens:
            z[self._eos] = float("-inf")
        return z

    def _ruled(self, z: torch.Tensor, told: Told) -> torch.Tensor:
        for r in self.rules:
            z = r.mask(z, told, told.of(r))
        if not all(r.may_stop(told, told.of(r)) for r in self.rules if not r.black_box):
            z[self._eos] = float("-inf")
        if not torch.isfinite(z).any():
            raise BadRequest(NOTHING_ALLOWED)
        return z


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits.double() if logits.dtype == torch.float64 else logits.float()


def _truncate(p: torch.Tensor, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    """Zero what top-k, then top-p, then min-p cut; renormalised. The most likely token always stays."""
    if top_k and top_k < len(p):
        kth = torch.topk(p, top_k)
        q = torch.zeros_like(p)
        q[kth.indices] = kth.values
        p = q / q.sum()
    if top_p < 1:
        s, order = torch.sort(p, descending=True, stable=True)
        drop = torch.cumsum(s, 0) - s >= top_p
        p = p.clone()
        p[order[drop]] = 0
        p = p / p.sum()
    if min_p > 0:
        p = torch.where(p >= min_p * p.max(), p, torch.zeros_like(p))
        p = p / p.sum()
    return p
