"""A suffix automaton of a growing text (Blumer et al., 1985): the smallest machine that reads exactly its substrings.

A state stands for substrings that end at the same places; `link` leads to the state of the longest suffix that ends at
more of them. Adding a token costs O(1) amortised, n tokens make at most 2n states and 3n transitions. The state that the
whole text ends in links to the longest suffix that also stands earlier, so the longest match needs no search.

`newest` of a state is where its substrings last ended. It is kept exact for the `REACH` longest suffixes of every text
read, which are those a draft looks at; beyond (a text that repeats itself at once) it may be an older place.
At `capacity` tokens the automaton is built anew from the newest half, so memory is bounded and the cost stays O(1)
amortised. Does not: hold the text itself (places are the caller's).
"""

from __future__ import annotations

REACH = 16


class Automaton:
    """The text's tokens are pushed in order; places count from 0, also when old tokens are forgotten."""

    def __init__(self, capacity: int = 1 << 62) -> None:
        self.capacity = capacity
        self._clear(0)

    def _clear(self, first: int) -> None:
        """Nothing read; the next token stands at place `first`."""
        self.first = self.size = first
        self.next: list[dict[int, int]] = [{}]
        self.link, self.length, self.newest = [-1], [0], [first - 1]
        self.last = 0
        self._before = (0, -1)

    def extend(self, text: list[int]) -> None:
        """Read what `text` has gained since the last call."""
        for token in text[self.size :]:
            if self.size - self.first >= self.capacity:
                at = self.size
                self._clear(at - self.capacity // 2)
                for old in text[self.first : at]:
                    self._push(old)
            self._push(token)

    def _push(self, token: int) -> None:
        following, link, length = self.next, self.link, self.length
        at, p, state = self.size, self.last, len(link)
        self.size = at + 1
        following.append({})
        length.append(length[p] + 1)
        link.append(0)
        self.newest.append(at)
        while p >= 0 and token not in following[p]:
            following[p][token] = state
            p = link[p]
        if p >= 0:
            q = following[p][token]
            link[state] = q if length[p] + 1 == length[q] else self._split(p, q, token)
        self.last = state
        seen = link[state]
        self._before = (length[seen], self.newest[seen])
        for _ in range(REACH):
            if seen <= 0:
                break
            self.newest[seen] = at
            seen = link[seen]

    def _split(self, p: int, q: int, token: int) -> int:
        """The shorter substrings of state q now end at a new place too: give them a state of their own."""
        clone = len(self.link)
        self.next.append(self.next[q].copy())
        self.length.append(self.length[p] + 1)
        self.link.append(self.link[q])
        self.newest.append(self.newest[q])
        self.link[q] = clone
        while p >= 0 and self.next[p].get(token) == q:
            self.next[p][token] = clone
            p = self.link[p]
        return clone

    def match(self) -> tuple[int, int]:
        """(length of the longest suffix that stands earlier, the newest such place of its last token); (0, -1) = none."""
        return self._before if self._before[0] else (0, -1)
