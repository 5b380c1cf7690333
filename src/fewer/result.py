"""What the engine hands back: a finished Result, a Score, or a Stream that is still running."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fewer.ledger import Ledger
from fewer.request import Request, TokenLogprob
from fewer.runner import Runner


@dataclass
class Result:
    """One finished generation. `tokens` excludes the prompt and includes the stop token if one ended the text."""

    text: str
    tokens: list[int]
    finish_reason: str  # "stop" | "length" | "cancelled"
    ledger: Ledger
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_tokens: list[int] = field(default_factory=list)
    drafts: list[str] = field(default_factory=list)  # of a strategy that writes several texts: all of them, best first

    def to_dict(self) -> dict[str, Any]:
        """What --json prints."""
        return {
            "text": self.text,
            "tokens": self.tokens,
            "finish_reason": self.finish_reason,
            **({"drafts": self.drafts} if self.drafts else {}),
            "ledger": self.ledger.to_dict(),
        }


@dataclass
class Score:
    """Log probabilities (natural log) of a text's tokens given those before; the first token has none."""

    tokens: list[int]
    logprobs: list[float]

    @property
    def perplexity(self) -> float:
        return float(np.exp(-np.mean(self.logprobs)))


class Stream:
    """Iterate over pieces of text; `.result` and `.ledger` are there at any time, also after an interruption."""

    def __init__(self, runner: Runner, req: Request, finish: Callable[[Request], Result]) -> None:
        self._runner, self._req, self._finish = runner, req, finish
        self._pieces: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stopping = False
        req.on_text = self._pieces.put

    @property
    def ledger(self) -> Ledger:
        return self._req.ledger

    @property
    def kept(self) -> list[int]:
        """The prompt's tokens that entered the model after every transform."""
        return list(self._req.kept_prompt)

    @property
    def result(self) -> Result:
        """What there is so far."""
        if self._req.finish_reason is None:
            self.close()
        return self._finish(self._req)

    def stop(self) -> None:
        """Ask the iteration to end after the forward under way; may be called from a signal handler or another thread."""
        self._stopping = True

    def close(self) -> None:
        """Stop generating and free the request's cache."""
        self._runner.cancel(self._req)

    def __iter__(self) -> Iterator[str]:
        try:
            while not self._stopping and self._runner.turn():
                while not self._pieces.empty():
                    yield self._pieces.get()
            while not self._pieces.empty():
                yield self._pieces.get()
        finally:
            self.close()
        self._finish(self._req)
