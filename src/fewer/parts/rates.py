"""How often guesses come true, learned on line by kind of guess:

    rate(kind) = (came true + weight * prior) / (tried + weight)        both counts fade by `fade` at every guess of the kind

MATCHED is the prior for copying what followed an earlier place of the text's last tokens: the share of tokens copied
rightly after a match of 1, 2, .. tokens, measured on greedy answers of SmolLM2-135M to the tasks of `fewer bench`.
A match grows with every copied token that stands, so a copied chain after a match of n has the chances
rate(n), rate(n) rate(n + 1), ...
"""

from __future__ import annotations

from collections.abc import Sequence

MATCHED = (0.2, 0.55, 0.6, 0.68, 0.78, 0.82, 0.9, 0.92, 0.93, 0.94, 0.95)


class Rates:
    """Rates of len(priors) kinds; kinds beyond the last count as the last."""

    def __init__(self, priors: Sequence[float], weight: float = 8.0, fade: float = 0.98) -> None:
        self._priors, self._weight, self._fade = list(priors), weight, fade
        self._came, self._tried = [0.0] * len(priors), [0.0] * len(priors)

    def __getitem__(self, kind: int) -> float:
        """The rate of kind 0, 1, .."""
        kind = min(kind, len(self._priors) - 1)
        return (self._came[kind] + self._weight * self._priors[kind]) / (self._tried[kind] + self._weight)

    def note(self, kind: int, came: bool) -> None:
        """One guess of this kind was made, and came true or not."""
        kind = min(kind, len(self._priors) - 1)
        self._came[kind] = self._came[kind] * self._fade + came
        self._tried[kind] = self._tried[kind] * self._fade + 1

    def chain(self, kind: int, length: int) -> list[float]:
        """Chances of a chain of guesses of kinds `kind`, `kind` + 1, .. that each need all before them."""
        out, chance = [], 1.0
        for i in range(length):
            chance *= self[kind + i]
            out.append(chance)
        return out
