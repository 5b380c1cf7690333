"""Trail: what a row leaves behind for the row that follows it, also when it was a draft.

A note a layer, written while a row is computed, is what the rows that descend from it read: the next row of its branch in
this step, or the first rows of the next step if the row became text. Notes of rejected drafts are never seen again. So a
decision that rests on the last one (a selection used again, a count since the last full look) is the same with and
without drafts. Does not: keep more than one token's notes beyond a step.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from fewer.types import Rows, Told

Note = TypeVar("Note")


class Trail(Generic[Note]):
    """One request's notes: layer -> Note, a row."""

    def __init__(self) -> None:
        self._root: dict[int, Note] = {}
        self._rows: Rows | None = None
        self._left: list[dict[int, Note]] = []

    def begin(self, rows: Rows, told: Told) -> None:
        """A step starts: whatever rows of the last one became text, the newest of them is what the text now ends with."""
        if self._rows is not None:
            at = -1
            for i, (pos, parent) in enumerate(zip(self._rows.pos.tolist(), self._rows.parent.tolist())):
                if parent == at and pos < told.seen and said(told, pos) == self._rows.tokens[i]:
                    self._root, at = self._left[i], i
        self._rows, self._left = rows, [{} for _ in range(len(rows))]

    def before(self, row: int, layer: int) -> Note | None:
        """The note of the row before this one."""
        assert self._rows is not None
        parent = int(self._rows.parent[row])
        return (self._root if parent < 0 else self._left[parent]).get(layer)

    def leave(self, row: int, layer: int, note: Note) -> None:
        """Write this row's note."""
        self._left[row][layer] = note


def said(told: Told, pos: int) -> int | None:
    """The token that the text has at a position behind the prompt."""
    at = pos - told.prompt_len
    return told.generated[at] if 0 <= at < len(told.generated) else None
