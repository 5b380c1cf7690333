"""One request on its way through the engine: prompt, plan, sampler, ledger, sequences, and the text so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from fewer.errors import PromptTooLong
from fewer.ledger import Ledger
from fewer.pace import Pace
from fewer.plan import Seams
from fewer.sampling import Sampler
from fewer.seams import Propose
from fewer.types import Told


class Detokenizer(Protocol):
    """Turns token ids into text, never half a character."""

    def begin(self, data: bytes) -> str: ...

    def push(self, token: int) -> str: ...

    def flush(self) -> str: ...


@dataclass
class TokenLogprob:
    """The model's own log probability of an emitted token, and its best alternatives."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass
class Request:
    """Mutable, owned by the runner. `told` is what methods see; each model has its own sequence and `Told`."""

    prompt: list[int]
    seams: Seams
    sampler: Sampler
    max_tokens: int
    ledger: Ledger
    detok: Detokenizer | None = None
    forced: np.ndarray | None = None  # (n,) bool: prompt tokens no transform may drop
    chunk: int = 512  # prompt rows a forward
    told: Told = field(default_factory=lambda: Told(0))
    seqs: dict[str, int] = field(default_factory=dict)
    aside: dict[tuple[str, str], int] = field(default_factory=dict)  # (model, name) -> a further sequence (Forward.on)
    tolds: dict[str, Told] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    drafts: list[tuple[list[int], float]] = field(
        default_factory=list
    )  # texts beside this one: tokens, log probability
    finish_reason: str | None = None
    error: BaseException | None = None
    on_text: Callable[[str], None] | None = None
    on_progress: Callable[[int, int], None] | None = None  # (prompt rows done, prompt rows)
    cached: int = 0  # leading prompt tokens whose entries came from a shared prefix
    kept: np.ndarray | None = None  # indices of the prompt tokens that entered the model
    kept_prompt: list[int] = field(default_factory=list)
    on_prefilled: Callable[[Request], None] | None = None  # the whole prompt is committed
    on_end: Callable[[Request], None] | None = None  # about to leave the engine; its sequences still exist
    pace: Pace | None = None  # decides how much of a draft is verified; None = all of every draft
    max_context: int | None = None  # positions the model was made for; None = no limit for this plan
    _shown: int = 0
    _owed: int = 0  # characters of the text that min_tokens asks for: no stop string ends there

    def __post_init__(self) -> None:
        self.told.greedy = self.sampler.params.temperature == 0
        self.told.expect = lambda logits, path: self.sampler.expect(logits, self.told, path)

    def held(self) -> dict[str, list[int]]:
        """Model -> every sequence of this request."""
        out = {model: [seq] for model, seq in self.seqs.items()}
        for (model, _), seq in self.aside.items():
            out.setdefault(model, []).append(seq)
        return out

    @property
    def propose(self) -> Propose | None:
        """The drafter, unless the guard has given it up."""
        return None if self.pace is not None and self.pace.retired else self.seams.propose

    def fit(self, length: int) -> None:
        """Bound the text by what the context leaves after `length` prompt tokens. Raises PromptTooLong if nothing is left."""
        if self.max_context is None:
            return
        if length >= self.max_context:
            raise PromptTooLong(
                f"{length} tokens enter the model, its context is {self.max_context}. Lower the budget of the plan's transforms."
            )
        self.max_tokens = min(self.max_tokens, self.max_context - length)

    def accept(self, token: int) -> bool:
        """Append one emitted token; True when the text ends here (finish_reason is then set)."""
        self.tokens.append(token)
        if token in self.sampler.stops and len(self.tokens) > self.sampler.params.min_tokens:
            self.finish_reason = "stop"
        else:
            if self.detok is not None:
                self.text += self.detok.push(token)
                if self._cut_at_stop():
                    self.finish_reason = "stop"
            if self.finish_reason is None and len(self.tokens) >= self.max_tokens:
                self.finish_reason = "length"
        if self.finish_reason is not None and self.detok is not None and not self._stopped_by_string():
            self.text += self.detok.flush()
            self._cut_at_stop()
        self._show()
        return self.finish_reason is not None

    def _stopped_by_string(self) -> bool:
        return self.finish_reason == "stop" and self.tokens[-1] not in self.sampler.stops

    def _cut_at_stop(self) -> bool:
        """Does a stop string end the text? Not one that is complete within the first min_tokens tokens."""
        if len(self.tokens) <= self.sampler.params.min_tokens:
            self._owed = len(self.text)
            return False
        first = [(s, max(0, self._owed - len(s) + 1)) for s in self.sampler.params.stop]
        at = [i for s, begin in first if (i := self.text.find(s, begin)) >= 0]
        if at:
            self.text = self.text[: min(at)]
        return bool(at)

    def _show(self) -> None:
        """Hand over text that can no longer become part of a stop string."""
        if self.on_text is None:
            return
        end = len(self.text)
        if self.finish_reason is None:
            for s in self.sampler.params.stop:
                for n in range(min(len(s) - 1, end), 0, -1):
                    if self.text.endswith(s[:n]):
                        end = min(end, len(self.text) - n)
                        break
        if end > self._shown:
            self.on_text(self.text[self._shown : end])
            self._shown = end

    def note_logprob(self, logits: torch.Tensor, token: int) -> None:
        """Record the model's own log probability of `token` under logits (V,)."""
        n = self.sampler.params.logprobs
        if n is None:
            return
        lp = torch.log_softmax(logits.double(), dim=-1)
        best = torch.topk(lp, n) if n else None
        top = [] if best is None else [(int(i), float(v)) for i, v in zip(best.indices, best.values)]
        self.logprobs.append(TokenLogprob(token, float(lp[token]), top))
