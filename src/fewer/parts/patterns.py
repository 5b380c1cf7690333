"""Sparse patterns of attention heads over a prompt, each found from a few rows: what MInference's heads are made of.

    a-shape         the first `SINKS` and the nearest entries
    vertical-slash  the columns and the diagonals that a few rows, evenly spaced over the piece, look at most
    block-sparse    the blocks of keys whose mean is nearest to the mean of the block's queries
    whole           everything, for the few heads that no pattern serves

A pattern gives, for each block of `size` rows, at most so many places before it: its own share of the piece's `room`
(`whole`: all). Slashes are bands of `size` diagonals.
Of the rows that find lines, a block hears its own in full and the others by `HEARSAY`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn.functional import pad

SINKS = 4
HEARSAY = 0.25  # what a row of another block weighs: 0.1 to 0.25 were best on qwen2.5-coder-0.5b, 1 and 0 worse
SPARSE = ("a-shape", "vertical-slash", "block-sparse")
KINDS = (*SPARSE, "whole")
Picked = tuple[list[torch.Tensor], int]  # per block ascending places; entries looked at


@dataclass(frozen=True)
class Pattern:
    """kind: one of KINDS. columns: share of the room that goes to columns, the rest to diagonals (vertical-slash). room: what
    the head may read, as a multiple of what heads read on average."""

    kind: str = "vertical-slash"
    columns: float = 0.5
    room: float = 1.0


@dataclass(frozen=True)
class Piece:
    """One kv-head of one piece: its queries q (m, g, d), the keys of all entries k (n + m, d), score scale, block size,
    how many places a block may read on average over heads, how many rows are looked at. seen: (w, n + m) `masses`, if
    somebody has them."""

    q: torch.Tensor
    k: torch.Tensor
    scale: float
    size: int
    room: int
    look: int
    seen: torch.Tensor | None = None

    def blocks(self) -> list[int]:
        """Entries before each block."""
        held = len(self.k) - len(self.q)
        return [held + at for at in range(0, len(self.q), self.size)]

    @cached_property
    def looking(self) -> torch.Tensor:
        """(w,) the rows that find lines, evenly spaced, the last one among them."""
        return evenly(len(self.q), self.look)

    @cached_property
    def masses(self) -> torch.Tensor:
        """(w, n + m) attention of the looking rows, summed over the head's queries."""
        if self.seen is not None:
            return self.seen
        at, m, n = self.looking, len(self.q), len(self.k)
        hidden = torch.arange(m) > at[:, None]
        q, keys = self.q[at] * self.scale, self.k.to(self.q.dtype).T
        mass = q.new_zeros(len(at), n)
        for one in q.unbind(1):  # a query at a time: what fits a cache
            z = one @ keys
            z[:, n - m :].masked_fill_(hidden, float("-inf"))
            mass += torch.softmax(z, -1)
        return mass

    @cached_property
    def lines(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What each block hears of columns (blocks, n + m) and of bands of diagonals (blocks, ceil((n + m) / size))."""
        blocks = torch.arange(len(self.blocks()))
        heard = torch.where(self.looking // self.size == blocks[:, None], 1.0, HEARSAY).to(self.masses)
        return heard @ self.masses, heard @ diagonals(self.masses, self.looking, self.size)

    @cached_property
    def means(self) -> torch.Tensor:
        """(ceil((n + m) / size), d) the mean key of each block of keys."""
        return torch.stack([k.to(self.q.dtype).mean(0) for k in self.k.split(self.size)])


def evenly(m: int, n: int) -> torch.Tensor:
    """(n,) or fewer of the rows 0 .. m-1, ascending and as far from each other, the last one among them."""
    return torch.arange(m - 1, -1, -max(1, m // n))[:n].flip(0)


def pick(pattern: Pattern, piece: Piece) -> Picked:
    """The places that `pattern` gives each block of `piece`."""
    room = max(1, round(pattern.room * piece.room))
    if pattern.kind == "whole":
        return [torch.arange(n) for n in piece.blocks()], 0
    if pattern.kind == "a-shape":
        return [_near(n, room) for n in piece.blocks()], 0
    if pattern.kind == "block-sparse":
        return _block_sparse(piece, room)
    return _vertical_slash(piece, room, pattern.columns)


def _near(n: int, room: int) -> torch.Tensor:
    if n <= room:
        return torch.arange(n)
    sinks = min(SINKS, room)
    return torch.cat([torch.arange(sinks), torch.arange(n - (room - sinks), n)])


def _vertical_slash(piece: Piece, room: int, share: float) -> Picked:
    columns, bands = piece.lines
    size, for_bands, out = piece.size, round((1 - share) * room), []
    for n, by_column, by_band in zip(piece.blocks(), columns, bands.argsort(1, descending=True).tolist()):
        read = torch.zeros(n, dtype=torch.bool)
        left = min(n, room)
        lines = min(for_bands, left)
        for s in by_band:  # diagonals s * size .. of the block's rows: up to 2 * size - 1 keys
            if lines <= 0:
                break
            high = min(n, n + size - s * size)
            low = max(0, n - (s + 1) * size + 1, high - lines)
            if low < high:
                new = int((~read[low:high]).sum())
                read[low:high] = True
                lines, left = lines - new, left - new
        read[by_column[:n].masked_fill(read, -1).topk(left).indices] = True
        out.append(read.nonzero().flatten())
    return out, 0 if piece.seen is not None else len(piece.looking) * len(piece.k)


def diagonals(mass: torch.Tensor, at: torch.Tensor, size: int) -> torch.Tensor:
    """mass (w, n) of evenly spaced rows `at` of a piece, the last one the last entry -> (w, ceil(n / size)): what each has
    on the diagonals s * size .. s * size + size - 1, counted from itself."""
    w, n = mass.shape
    step = int(at[1] - at[0]) if w > 1 else 1
    back = pad(mass.flip(1), (0, w * step)).contiguous()  # row i begins step * (w - 1 - i) before its own place
    own = back.as_strided((w, n), (n + w * step - step, 1), (w - 1) * step)
    return pad(own, (0, -n % size)).view(w, -1, size).sum(2)


def _block_sparse(piece: Piece, room: int) -> Picked:
    size, held = piece.size, len(piece.k) - len(piece.q)
    of_keys, out = piece.means, []
    for i, n in enumerate(piece.blocks()):
        if n <= room:
            out.append(torch.arange(n))
            continue
        q = piece.q[i * size : (i + 1) * size].mean(0)  # (g, d)
        z = (q @ of_keys[: -(-n // size)].T) * piece.scale
        read = torch.zeros(n, dtype=torch.bool)
        left = room
        for b in torch.softmax(z, -1).sum(0).argsort(descending=True).tolist():
            new = min(size, n - b * size, left)
            read[b * size : b * size + new] = True
            left -= new
            if left <= 0:
                break
        out.append(read.nonzero().flatten())
    return out, held + len(piece.q) + len(out) * len(of_keys)
