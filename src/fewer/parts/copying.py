"""Drafting by copying what followed an earlier place of the text, with chances learned from how copying went so far."""

from __future__ import annotations

import numpy as np

from fewer.parts.rates import MATCHED, Rates
from fewer.types import EMPTY_TREE, Tree


class Copying:
    """One request's copies. A match is the number of last tokens that also stand at the earlier place."""

    def __init__(self) -> None:
        self.rates = Rates(MATCHED)
        self._length, self._match, self._copied = -1, 0, list[int]()

    def draft(self, text: list[int], match: int, at: int, length: int) -> Tree:
        """A chain of the `length` tokens after place `at`, where a match of `match` tokens ends. A copy that runs into the
        end of the text goes on with itself."""
        if match < 1 or length < 1:
            return EMPTY_TREE
        copied = text[at + 1 : at + 1 + length]
        period = len(text) - 1 - at
        while len(copied) < length:
            copied.append(copied[len(copied) - period])
        self._length, self._match, self._copied = len(text), match, copied
        chances = np.array(self.rates.chain(match - 1, length))
        return Tree(np.array(copied, np.int64), np.arange(-1, length - 1), chance=chances)

    def learn(self, context: list[int], new: list[int]) -> None:
        """`context` ends in `new`: compare with the last draft, of which the engine may have verified only a part."""
        if len(context) - len(new) == self._length:
            for kind, (copied, token) in enumerate(zip(self._copied, new), self._match - 1):
                self.rates.note(kind, copied == token)
                if copied != token:
                    break
        self._length = -1
