"""A prompt read sparsely, each head by its own pattern: MInference 1.0 (Jiang et al., 2024).

Every head keeps to one shape of attention, whatever the text: near entries and the first ones (a-shape), a few columns
and diagonals (vertical-slash), or blocks (block-sparse). Which shape is each head's own, and found once for a model by
`fewer train patterns`; where its lines lie is found for each piece of the prompt from a few rows (parts/patterns.py).
Rows of a block of `block` share their places; what is not picked is never read:

    reads of a block = block x (places picked) + the block's own triangle,   places + block <= budget, over heads on average

Few heads look everywhere for something that columns and diagonals miss, and one of them can cost the model its memory;
others change nothing that is read later. So the file also says how much of the budget is each head's, or that it reads all.
The `look` rows of a piece, evenly spaced, that find the lines read all in any case. So what they get is exact, and the rows
of their block move by what that changes in them on average: what a sparse reading misses is much the same for neighbours
(Delta Attention, Willette et al., 2025, moves the rows that follow one exact row by all of its difference; here that made more
errors than it mended, and the mean of a block fewer).
Blocks that hold one of the prompt's last `whole` rows, the question as a rule, read all: they are few, and what their
answer begins with rests on them (TriangleMix, He et al., 2025, reads its last rows so). The cache is whole and the answer
reads all of it. Layers with a sliding window are left alone.
Does not: choose for each query head (kv-heads are what is stored; their queries choose together), skip inside a block.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from fewer.errors import BadRequest
from fewer.kv.view import View
from fewer.parts.budget import limit, require_least
from fewer.parts.patterns import KINDS, SINKS, SPARSE, Pattern, Piece, evenly, pick
from fewer.seams import Blocks, Full, Select, budget_knob, knob
from fewer.types import Told

Table = list[list[Pattern]]  # layer -> kv-head


@dataclass(frozen=True)
class PromptPatterns(Select):
    """Rows of the prompt read at most `budget` entries a kv-head, on average over heads, in the pattern of their head."""

    acts = "prompt"

    budget: int | float = budget_knob(
        1024, "entries a row of the prompt reads a kv-head, its block included, but for the last"
    )
    pattern: str = knob("vertical-slash", "shape of heads for which no file speaks", choices=SPARSE)
    columns: float = knob(0.8, "of vertical-slash: share of the places that are columns", low=0.0, high=1.0)
    block: int = knob(128, "rows that share their places", low=1)
    look: int = knob(
        32, "rows of a piece that read all: they find its lines and set the others of their block right", low=1
    )
    whole: int = knob(64, "last rows of the prompt whose blocks read all", low=0)
    file: str = knob("", "patterns of each head, written by `fewer train patterns`; none = `pattern` for all")

    def __post_init__(self) -> None:
        require_least(self.budget, self.block + SINKS, f"block + {SINKS}")

    def remember(self, told: Told) -> Table | None:
        return read_table(self.file, told.n_layers) if self.file else None

    def start(self, told: Told) -> int | None:
        told.remembered(self)
        return limit(self.budget, told.prompt_len, self.block + SINKS)

    def pick_blocks(
        self, layer: int, q: torch.Tensor, view: View, told: Told, state: int | None, full: Full
    ) -> Blocks | None:
        most = int(view.lens().max())
        if state is None or most <= state or told.windows[layer] is not None:
            return None
        starts = range(0, len(q), self.block)
        sparse = [at for at in starts if told.seen + min(at + self.block, len(q)) <= told.prompt_len - self.whole]
        if not sparse:
            return None
        table, scale = told.remembered(self), q.shape[-1] ** -0.5
        heads, looked, seen = [], 0, full(evenly(len(q), self.look))
        for h, group in enumerate(q.chunk(view.n_heads, 1)):
            pattern = Pattern(self.pattern, self.columns) if table is None else table[layer][h]
            piece = Piece(group, view.keys(h), scale, self.block, state - self.block, self.look, seen[h])
            places, read = pick(pattern, piece)
            heads.append(places[: len(sparse)] + [torch.arange(n) for n in piece.blocks()[len(sparse) :]])
            looked += read
        return Blocks(self.block, [list(of) for of in zip(*heads)], looked)


def read_table(file: str, n_layers: int) -> Table:
    """The patterns of a file. Raises BadRequest if it cannot be read or is another model's."""
    try:
        data = json.loads(Path(file).read_text(encoding="utf-8"))
        table = [
            [Pattern(str(kind), float(columns), float(room)) for kind, columns, room in layer]
            for layer in data["patterns"]
        ]
    except OSError as e:
        raise BadRequest(f"cannot read patterns from {file}: {e.strerror or e}") from None
    except (ValueError, KeyError, TypeError):
        raise BadRequest(f"{file} is no file of `fewer train patterns`") from None
    if len(table) != n_layers or any(p.kind not in KINDS for layer in table for p in layer):
        raise BadRequest(f"{file} has patterns of {len(table)} layers, the model has {n_layers}: train its own")
    return table
