"""The fewest tokens of a vocabulary that spell a text: what no way of cutting can go below.

    best[0] = 0,  best[e] = 1 + min over tokens t with text[e - len(t) : e] == t of best[e - len(t)]

PathPiece's segmentation (Tokenization Is More Than Compression, 2024) is this path. Here it runs over the whole text,
without pre-tokens, so count / bound says how much a tokenizer gives away by where it may cut and how it merges.
On a tie the longer last token wins, as in the paper's PathPiece-L. Not done: random ties (PathPiece-R).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from fewer.errors import BadRequest

FAR = 1 << 60


class Shortest:
    """Shortest paths through texts over `tokens` (bytes, empty ones ignored)."""

    def __init__(self, tokens: Iterable[bytes]) -> None:
        self._tokens = frozenset(t for t in tokens if t)
        lengths: dict[bytes, set[int]] = defaultdict(set)
        for token in self._tokens:
            lengths[token[:2]].add(len(token))
        self._lengths = {head: tuple(sorted(found)) for head, found in lengths.items()}

    def count(self, data: bytes) -> int:
        """Tokens of the shortest path. Raises BadRequest if the vocabulary cannot spell `data`."""
        return self._run(data)[0][-1]

    def path(self, data: bytes) -> list[bytes]:
        """The tokens themselves."""
        _, start = self._run(data)
        out, at = [], len(data)
        while at:
            out.append(data[start[at] : at])
            at = start[at]
        return out[::-1]

    def _run(self, data: bytes) -> tuple[list[int], list[int]]:
        tokens, lengths, n = self._tokens, self._lengths, len(data)
        best, start = [FAR] * (n + 1), [0] * (n + 1)
        best[0] = 0
        for at in range(n):
            more = best[at] + 1
            if more > FAR:
                continue
            head = data[at : at + 2]
            ends = [at + 1] if head[:1] in tokens else []
            ends += [at + size for size in lengths.get(head, ()) if size > 1]
            for end in ends:
                if end <= n and more < best[end] and (end == at + 1 or data[at:end] in tokens):
                    best[end], start[end] = more, at
        if best[n] >= FAR:
            raise BadRequest("the vocabulary cannot spell this text: it lacks single bytes")
        return best, start
