"""Byte-pair merging by ranks, as tiktoken does it: of all neighbours whose bytes together are a token, the pair with the
lowest rank merges first, the leftmost on a tie. A piece that is a token as it stands is not merged.

A heap over a linked list makes a piece of n bytes cost O(n log n), so a megabyte without a space is no trap. Pieces are
remembered, for words repeat. Text between the pattern's matches is kept as pieces of its own: nothing is dropped.
Not done: special tokens; they are never made from text.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

import regex

from fewer.errors import BadRequest, CorruptFile

REMEMBERED = 1 << 17  # pieces
LONGEST = 64  # bytes of a piece that is worth remembering


class RankCoder:
    """`ranks`: token bytes -> rank, which is also its id less `offset`. `pattern`: how text is cut before merging.

    Raises CorruptFile if a single byte has no rank, BadRequest for a pattern that does not compile."""

    def __init__(self, ranks: Mapping[bytes, int], pattern: str, offset: int = 0) -> None:
        missing = [b for b in range(256) if bytes([b]) not in ranks]
        if missing:
            raise CorruptFile(
                f"the ranks lack {len(missing)} single bytes, first 0x{missing[0]:02x}; a vocabulary needs its alphabet"
            )
        try:
            self._cut = regex.compile(pattern)
        except regex.error as error:
            raise BadRequest(f"the split pattern does not compile: {error}") from None
        self._ranks = ranks
        self._offset = offset
        self._known: dict[bytes, list[int]] = {}

    def pieces(self, text: str) -> list[str]:
        """`text` cut by the pattern; joined they are the text again."""
        out, at = [], 0
        for match in self._cut.finditer(text):
            start, end = match.span()
            out += [text[at:start], text[start:end]]
            at = end
        return [piece for piece in [*out, text[at:]] if piece]

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, which must be well-formed."""
        return [i for piece in self.pieces(text) for i in self.encode_piece(piece.encode())]

    def encode_piece(self, piece: bytes) -> list[int]:
        """Ids of one piece's bytes, any bytes."""
        known = self._known.get(piece)
        if known is None:
            known = [rank + self._offset for rank in self._merge(piece)]
            if len(piece) <= LONGEST and len(self._known) < REMEMBERED:
                self._known[piece] = known
        return known

    def _merge(self, piece: bytes) -> list[int]:
        ranks = self._ranks
        if piece in ranks:
            return [ranks[piece]]
        parts, _ = merge(piece, lambda left, right: ranks.get(left + right))
        return [ranks[part] for part in parts]


def merge(piece: bytes, rank_of: Callable[[bytes, bytes], int | None]) -> tuple[list[bytes], list[int]]:
    """A piece's bytes merged two neighbours at a time, the lowest rank first, the leftmost on a tie; None = never.

    Returns the parts that are left, and the rank of each merge in the order they were made."""
    n = len(piece)
    end, before = list(range(1, n + 1)), list(range(-1, n - 1))  # of the part that starts at each place
    heap: list[tuple[int, int, int, int]] = []  # rank, left start, right start, right end

    def offer(left: int) -> None:
        middle = end[left]
        if middle < n:
            rank = rank_of(piece[left:middle], piece[middle : end[middle]])
            if rank is not None:
                heapq.heappush(heap, (rank, left, middle, end[middle]))

    for i in range(n - 1):
        offer(i)
    alive = bytearray(b"\x01") * n
    made = []
    while heap:
        rank, left, middle, stop = heapq.heappop(heap)
        if not (alive[left] and alive[middle] and end[left] == middle and end[middle] == stop):
            continue  # one of the two has merged elsewhere since
        alive[middle] = 0
        end[left] = stop
        made.append(rank)
        if stop < n:
            before[stop] = left
        offer(left)
        if before[left] >= 0:
            offer(before[left])
    return [piece[i : end[i]] for i in range(n) if alive[i]], made
