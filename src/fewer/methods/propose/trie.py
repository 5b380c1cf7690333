"""Drafts from a trie of the request's own n-grams: Lookahead (Zhao et al., 2023; not the Jacobi "lookahead decoding").

Everything the request has seen, prompt and answer, is counted in a trie: the node of an n-gram knows how often it came
and what followed. To draft, look up the last few tokens, longest suffix first; what followed them before are branches,
and branches that share a prefix share its rows, so several guesses become one tree of at most `budget` tokens, the most
probable ones first (parts/trie.py). The model's forward over text + tree then says which path stands (the engine's part).
Does not: learn across requests (the paper's trie outlives them), weigh the prompt above the answer, use a model.
"""

from __future__ import annotations

from dataclasses import dataclass

from fewer.parts.trie import Trie
from fewer.seams import Propose, knob
from fewer.types import Told, Tree


@dataclass(frozen=True)
class NgramTrie(Propose):
    """Draft what followed the last tokens before, in this request's prompt or answer."""

    budget: int = knob(15, "tokens of a draft, all branches together", low=1)
    length: int = knob(15, "tokens of one branch", low=1)
    shortest: int = knob(2, "tokens of text that must match for a draft", low=1)
    longest: int = knob(8, "tokens of text that are matched at most", low=1)
    capacity: int = knob(1 << 15, "entries of the trie", low=16)

    def __post_init__(self) -> None:
        if self.shortest > self.longest:
            raise ValueError(
                f"shortest={self.shortest} is more than longest={self.longest}, so nothing would be drafted"
            )

    def start(self, told: Told) -> Trie:
        return Trie(self.longest + self.length, self.capacity)

    def guess(self, context: list[int], limit: int, told: Told, state: Trie) -> Tree:
        return state.branches(context, self.shortest, self.longest, self.budget, min(self.length, limit))

    def learn(self, context: list[int], new: list[int], told: Told, state: Trie) -> None:
        state.extend(context, len(new))
