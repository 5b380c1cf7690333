"""Draft from a suffix automaton: copy what followed the exact longest suffix of the text that stands in it before.

The automaton of prompt and answer grows with every token in O(1) and always knows the longest match, however long, and
its newest place (parts/automaton.py). The `budget` tokens behind that place are the draft.
From Hu et al., "SAM Decoding: Speculative Decoding via Suffix Automaton" (2024): its automaton of the text itself.
Memory: about 0.5 kB a token, for at most `capacity` tokens; then the older half is forgotten.
Does not: keep an automaton of a corpus, fall back on another drafter after short matches (see rasd), branch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fewer.parts.automaton import Automaton
from fewer.parts.copying import Copying
from fewer.seams import Propose, knob
from fewer.types import Told, Tree


@dataclass(slots=True)
class Seen:
    """The automaton of one request's text, and how copying went."""

    automaton: Automaton
    copying: Copying = field(default_factory=Copying)


@dataclass(frozen=True)
class SuffixAutomaton(Propose):
    """Copy what followed the longest suffix of the text that stands in it before, however long it is."""

    budget: int = knob(15, "tokens of a draft", low=1)
    shortest: int = knob(2, "tokens of text that must match for a draft", low=1)
    capacity: int = knob(1 << 15, "tokens of text the automaton holds", low=16)

    def start(self, told: Told) -> Seen:
        return Seen(Automaton(self.capacity))

    def guess(self, context: list[int], limit: int, told: Told, state: Seen) -> Tree:
        match, at = state.automaton.match()
        return state.copying.draft(context, match if match >= self.shortest else 0, at, min(self.budget, limit))

    def learn(self, context: list[int], new: list[int], told: Told, state: Seen) -> None:
        state.copying.learn(context, new)
        state.automaton.extend(context)
