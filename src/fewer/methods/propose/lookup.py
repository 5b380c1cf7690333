"""Prompt lookup: draft what followed the last tokens where they stood before, in the prompt or the answer.

Take the longest suffix of the text, of at most `longest` tokens, that also stands earlier; of several places the newest;
copy the `budget` tokens behind it. No model and no index: the text is one array and a look-up compares it with its own
end, newest token first, in `longest` passes over the places that still match.
From Saxena, "Prompt Lookup Decoding" (2023), as in transformers (prompt_lookup_num_tokens) and vLLM (method ngram).
Does not: branch (see lookahead), find matches longer than `longest` (see suffix-automaton), look beyond `window` tokens back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fewer.parts.copying import Copying
from fewer.seams import Propose, knob
from fewer.types import Told, Tree


@dataclass(slots=True)
class Lookup:
    """The text as an array that grows by doubling, and how copying went."""

    tokens: np.ndarray = field(default_factory=lambda: np.empty(1024, np.int32))
    size: int = 0
    copying: Copying = field(default_factory=Copying)

    def extend(self, text: list[int]) -> None:
        """Take over what `text` has gained."""
        while len(text) > len(self.tokens):
            self.tokens = np.concatenate([self.tokens, np.empty_like(self.tokens)])
        self.tokens[self.size : len(text)] = text[self.size :]
        self.size = len(text)

    def find(self, longest: int, window: int) -> tuple[int, int]:
        """(length of the longest match, place of its last token); (0, -1) if the last token is new to the window."""
        first = max(0, self.size - window)
        text = self.tokens[first : self.size]
        n, match = len(text), 0
        places = np.arange(n - 1)
        while match < min(longest, n - 1):
            still = places[text[places - match] == text[n - 1 - match]]
            if match:
                still = still[still >= match]
            if not len(still):
                break
            places, match = still, match + 1
        return (match, int(places[-1]) + first) if match else (0, -1)


@dataclass(frozen=True)
class PromptLookup(Propose):
    """Copy what followed the longest suffix of the text that stands in it before."""

    budget: int = knob(15, "tokens of a draft", low=1)
    shortest: int = knob(2, "tokens of text that must match for a draft", low=1)
    longest: int = knob(8, "tokens of text that are matched at most", low=1)
    window: int = knob(1 << 16, "newest tokens of the text that are searched", low=16)

    def __post_init__(self) -> None:
        if self.shortest > self.longest:
            raise ValueError(
                f"shortest={self.shortest} is more than longest={self.longest}, so nothing would be drafted"
            )

    def start(self, told: Told) -> Lookup:
        return Lookup()

    def guess(self, context: list[int], limit: int, told: Told, state: Lookup) -> Tree:
        match, at = state.find(self.longest, self.window)
        return state.copying.draft(context, match if match >= self.shortest else 0, at, min(self.budget, limit))

    def learn(self, context: list[int], new: list[int], told: Told, state: Lookup) -> None:
        state.copying.learn(context, new)
        state.extend(context)
