"""Sparse patterns of attention heads over a prompt, each found from a few rows: what MInference's heads are made of.

    a-shape         the first `SINKS` and the nearest entries
    vertical-slash  the columns and the diagonals that the last rows of a piece look at most
    block-sparse    the blocks of keys whose mean is nearest to the mean of the block's queries

A pattern gives, for each block of `size` rows, at most `room` places before it. Slashes are bands of `size` diagonals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

SINKS = 4
KINDS = ("a-shape", "vertical-slash", "block-sparse")
Picked = tuple[list[torch.Tensor], int]  # per block ascending places; entries looked at


@dataclass(frozen=True)
class Pattern:
    """kind: one of KINDS. columns: share of the room that goes to columns, the rest to diagonals (vertical-slash)."""

    kind: str = "vertical-slash"
    columns: float = 0.5


@dataclass(frozen=True)
class Piece:
    """One kv-head of one piece: its queries q (m, g, d), the keys of all entries k (n + m, d), score scale, block size,
    how many places a block may read, how many last rows are looked at."""

    q: torch.Tensor
    k: torch.Tensor
    scale: float
    size: int
    room: int
    look: int

    def blocks(self) -> list[int]:
        """Entries before each block."""
        held = len(self.k) - len(self.q)
        return [held + at for at in range(0, len(self.q), self.size)]

    def last_rows(self) -> torch.Tensor:
        """(w, n + m) attention of the last rows, summed over the head's queries."""
        w, n = min(self.look, len(self.q)), len(self.k)
        z = torch.einsum("wgd,nd->gwn", self.q[-w:], self.k.to(self.q.dtype)).mul_(self.scale)
        z[..., n - w :].masked_fill_(torch.ones(w, w, dtype=torch.bool).triu(1), float("-inf"))
        return torch.softmax(z, -1).sum(0)


def pick(pattern: Pattern, piece: Piece) -> Picked:
    """The places that `pattern` gives each block of `piece`."""
    if pattern.kind == "a-shape":
        return [_near(n, piece.room) for n in piece.blocks()], 0
    if pattern.kind == "block-sparse":
        return _block_sparse(piece)
    return _vertical_slash(piece, pattern.columns)


def _near(n: int, room: int) -> torch.Tensor:
    if n <= room:
        return torch.arange(n)
    sinks = min(SINKS, room)
    return torch.cat([torch.arange(sinks), torch.arange(n - (room - sinks), n)])


def _vertical_slash(piece: Piece, share: float) -> Picked:
    mass = piece.last_rows()
    columns, bands = mass.sum(0), diagonals(mass, piece.size)
    by_column = columns.topk(min(len(columns), 2 * piece.room + len(piece.q))).indices  # enough for every block
    by_band = bands.argsort(descending=True).tolist()
    for_bands, out = round((1 - share) * piece.room), []
    for n in piece.blocks():
        read = torch.zeros(n, dtype=torch.bool)
        left = min(n, piece.room)
        lines = min(for_bands, left)
        for s in by_band:  # diagonals s * size .. of the block's rows: up to 2 * size - 1 keys
            if lines <= 0:
                break
            high = min(n, n + piece.size - s * piece.size)
            low = max(0, n - (s + 1) * piece.size + 1, high - lines)
            if low < high:
                new = int((~read[low:high]).sum())
                read[low:high] = True
                lines, left = lines - new, left - new
        free = by_column[by_column < n]
        free = free[~read[free]][:left]
        read[free] = True
        out.append(read.nonzero().flatten())
    return out, len(mass) * len(piece.k)


def diagonals(mass: torch.Tensor, size: int) -> torch.Tensor:
    """mass (w, n), row i at place n - w + i -> (ceil(n / size),) what lies on diagonals s * size .. s * size + size - 1."""
    w, n = mass.shape
    back = pad(mass.flip(1), (0, w)).contiguous()  # row i shifted by its distance from the last one
    total = back.as_strided((w, n), (n + w - 1, 1), w - 1).sum(0)
    return pad(total, (0, -n % size)).view(-1, size).sum(1)


def _block_sparse(piece: Piece) -> Picked:
    size, held = piece.size, len(piece.k) - len(piece.q)
    means = [k.to(piece.q.dtype).mean(0) for k in piece.k.split(size)]
    of_keys, out = torch.stack(means), []
    for i, n in enumerate(piece.blocks()):
        if n <= piece.room:
            out.append(torch.arange(n))
            continue
        q = piece.q[i * size : (i + 1) * size].mean(0)  # (g, d)
        z = (q @ of_keys[: -(-n // size)].T) * piece.scale
        read = torch.zeros(n, dtype=torch.bool)
        left = piece.room
        for b in torch.softmax(z, -1).sum(0).argsort(descending=True).tolist():
            new = min(size, n - b * size, left)
            read[b * size : b * size + new] = True
            left -= new
            if left <= 0:
                break
        out.append(read.nonzero().flatten())
    return out, held + len(piece.q) + len(out) * len(of_keys)
