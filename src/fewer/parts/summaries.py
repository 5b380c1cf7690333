"""Summaries of blocks: a few numbers for every `size` neighbouring entries, made once a block is complete.

Entries are only appended or taken away, so what was summarised still holds if nothing was taken away, or if the last
summarised entry is where and what it was; otherwise all is made anew. So retention methods may evict under a selection.
Blocks that rows in flight complete are made for the row that asks and not kept, so a draft meets the blocks it would meet
as text. Does not: summarise a block's part.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from fewer.kv.view import View

Make = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # keys (b, size, d), positions (b, size) -> (b, w)


class Summaries:
    """The complete blocks of one kv-head at one layer."""

    def __init__(self, size: int, make: Make) -> None:
        self.size, self.make = size, make
        self._rows, self.count = torch.zeros(0, 0), 0
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None  # key and position of the last entry summarised
        self._edits: int | None = None  # of the view that was found to hold

    def of(self, view: View, h: int, n: int) -> torch.Tensor:
        """(blocks, w) for the n entries of kv-head h, rows in flight last, at least one block; what is incomplete is left out."""
        blocks = (n - view.in_flight) // self.size
        if self.count and (blocks < self.count or not self._holds(view, h)):
            self.count = 0
        self._edits = view.edits
        if blocks > self.count:
            first, last = self.count * self.size, blocks * self.size
            keys, pos = view.part(h, first, last)
            self._append(self._made(keys, pos))
            self._last = keys[-1].clone(), pos[-1].clone()
        out = self._rows[: self.count]
        if n // self.size > blocks:
            more = self._made(*view.part(h, blocks * self.size, n // self.size * self.size))
            out = torch.cat([out, more]) if blocks else more
        view.scanned += out.nbytes
        return out

    def _made(self, keys: torch.Tensor, pos: torch.Tensor) -> torch.Tensor:
        return self.make(keys.unflatten(0, (-1, self.size)), pos.unflatten(0, (-1, self.size)))

    def _holds(self, view: View, h: int) -> bool:
        if view.edits is not None and view.edits == self._edits:
            return True
        key, pos = view.part(h, self.count * self.size - 1, self.count * self.size)
        return self._last is not None and bool(pos[0] == self._last[1]) and torch.equal(key[0], self._last[0])

    def _append(self, new: torch.Tensor) -> None:
        need = self.count + len(new)
        if need > len(self._rows) or self._rows.shape[1:] != new.shape[1:]:
            grown = new.new_zeros(max(need, self.count + self.count // 4), new.shape[1])
            if self.count:
                grown[: self.count] = self._rows[: self.count]
            self._rows = grown
        self._rows[self.count : need] = new
        self.count = need
