"""A prompt read as chunks that are thinned and joined, two and two, on their way up the stack: HOMER (Song et al., 2024).

    chunk       prefix + a piece of the middle + suffix, at positions from 0 on: all chunks have the same ones
    a level     a chunk runs through its layers, and the last rows' attention there (parts/significance.py) says which half
                of the middle goes on; what does not is also cut from the cache of all layers below
    joined      prefix (mean of both), left middle, right middle, suffix (mean of both): states and entries alike

until one chunk is left, which runs to the top. Left is finished before right is begun, so one thinned chunk a level waits at
most: memory grows with the logarithm of the length. No position is beyond `budget`, and a prompt may be longer than the
context. The cache that is left has `budget` entries at most, the same in every layer.
Does not: overlap chunks, give joined middles new positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch

from fewer.decode import answer, prefill, transform
from fewer.errors import BadRequest
from fewer.parts.look import best_places
from fewer.parts.significance import Significance
from fewer.request import Request
from fewer.seams import Commit, Forward, Given, Part, Rewind, Splice, Strategy, Work, budget_knob, knob, resolve_budget
from fewer.types import Rows

HELD = "it decides itself what each layer holds of the prompt."
APART = "chunks of the prompt run apart from each other, where no other method sees them."


@dataclass(frozen=True)
class MergedChunks(Strategy):
    """Read the prompt in chunks of `budget` tokens that are halved and joined up the layers until one is left."""

    excludes: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"retain": HELD, "route": HELD, "select": APART, "codec": APART}
    )
    plain_cache: ClassVar[bool] = False
    makes_room: ClassVar[bool] = True

    budget: int | float = budget_knob(1024, "prompt tokens of a chunk, and of the cache in the end")
    prefix: int = knob(32, "first prompt tokens, in every chunk: the instruction", low=0)
    suffix: int = knob(48, "last prompt tokens, in every chunk: the question", low=1)
    rows: int = knob(48, "last rows whose attention counts, at most the suffix; the paper's is 1", low=1)
    warmup: float = knob(0.375, "share of the layers below the first merge", low=0.0, high=1.0)
    calibrate: int = knob(16, "rows that tell what a distance gets in any case; 0 = it is not taken off", low=0)

    def takes(self, prompt_len: int) -> int:
        budget = self._budget(prompt_len)
        return prompt_len if budget is None else budget

    def run(self, req: Request, horizon: Callable[[], int | None]) -> Work:
        n = len(req.prompt)
        budget = self._budget(n)
        if budget is None:
            pending, at = yield from prefill(req)
        else:
            yield from transform(req)
            reading = Reading(self, req, self.levels(n, budget, req.told.n_layers), budget)
            at = yield from reading.read()
            pending = req.prompt[-1:]
        yield from answer(req, pending, at, horizon)

    def _budget(self, n: int) -> int | None:
        """Tokens of a chunk; None = the prompt is read as it is."""
        budget = resolve_budget(self.budget, n)
        if budget is None or budget >= n:
            return None
        if budget < (least := self.prefix + self.suffix + 2):
            raise BadRequest(
                f"a chunk of {budget} tokens has no room beside a prefix of {self.prefix} and a suffix of {self.suffix}: "
                f"raise the budget to {least} or more, or shorten them."
            )
        return budget

    def levels(self, n: int, budget: int, n_layers: int) -> list[int]:
        """After how many layers each level of chunks ends, that of the 2^(levels - 1) first ones first."""
        affixes = self.prefix + self.suffix
        height = math.ceil(math.log2(math.ceil((n - affixes) / (budget - affixes))))
        if height >= n_layers:
            raise BadRequest(
                f"{n} tokens in chunks of {budget} are joined in {height + 1} levels, and the model has {n_layers} layers: "
                "raise the budget."
            )
        warmup = min(round(self.warmup * n_layers), n_layers - height - 1)
        each = (n_layers - warmup) // (height + 1)
        return [n_layers - each * (height - level) for level in range(height + 1)]


@dataclass
class Chunk:
    """A sequence of its own, `depth` layers high: tokens and positions (n,); above the first layers states (n, D)."""

    name: str
    tokens: np.ndarray
    pos: np.ndarray
    states: torch.Tensor | None = None
    depth: int = 0


Making = Generator[Forward | Commit | Rewind | Given | Splice, Any, Chunk]


@dataclass(frozen=True)
class Reading:
    """One prompt on its way up. ends: after how many layers each level ends."""

    method: MergedChunks
    req: Request
    ends: list[int]
    budget: int

    def read(self) -> Work:
        """Leave the thinned prompt, but for its last token, in the model's sequence -> that token's position. It passes all
        layers once more for its answer."""
        n = len(self.req.prompt)
        places = np.arange(self.method.prefix, n - self.method.suffix)
        top = yield from self.merged(np.array_split(places, 1 << len(self.ends) - 1))
        whole = Part(((top.name, np.arange(len(top.pos) - 1)),))
        yield Splice("", (whole,), range(top.depth), ends=(top.name,))
        self.req.told.seen = n - 1
        return int(top.pos[-1])

    def merged(self, leaves: list[np.ndarray]) -> Making:
        """One chunk of some leaves, depth first; thinned unless it is the last."""
        level = len(leaves).bit_length() - 1
        if level == 0:
            chunk = self.leaf(leaves[0])
        else:
            half = len(leaves) // 2
            left = yield from self.merged(leaves[:half])
            right = yield from self.merged(leaves[half:])
            chunk = yield from self.joined(left, right)
        look = Significance(
            self.ends[level] - 1, len(chunk.pos), min(self.method.rows, self.method.suffix), self.method.calibrate
        )
        yield from self.climb(chunk, self.ends[level], look)
        if level < len(self.ends) - 1:
            yield from self.thin(chunk, look)
        return chunk

    def leaf(self, places: np.ndarray) -> Chunk:
        """A chunk of the prompt's tokens at `places`. The suffix stands behind the longest leaf, at the same positions in all."""
        m, n = self.method, len(self.req.prompt)
        longest = -(-(n - m.prefix - m.suffix) >> len(self.ends) - 1)
        of = np.concatenate([np.arange(m.prefix), places, np.arange(n - m.suffix, n)])
        suffix = m.prefix + longest + np.arange(m.suffix)
        pos = np.concatenate([np.arange(m.prefix + len(places)), suffix])
        return Chunk(f"chunk at {places[0]}", np.asarray(self.req.prompt)[of], pos)

    def climb(self, chunk: Chunk, end: int, look: Significance) -> Work:
        """Run a chunk through its next layers, up to `end`, watched by look."""
        req, n, states = self.req, len(chunk.pos), list[torch.Tensor]()
        for at in range(0, n, req.chunk):
            of = slice(at, at + req.chunk)
            m = len(chunk.pos[of])
            rows = Rows(
                chunk.pos[of],
                np.arange(-1, m - 1),
                chunk.tokens[of],
                chunk.states if chunk.states is None else chunk.states[of],
            )
            out = yield Forward(
                rows,
                None,
                stop=end,
                start=chunk.depth,
                taps=frozenset({"last"}),
                watch=look,
                stage="prefill",
                on=chunk.name,
            )
            states.append(out.hidden["last"])
            yield Commit(np.arange(m))
        if chunk.depth == 0:
            req.told.seen += n - self.method.prefix - self.method.suffix
            if req.on_progress:
                req.on_progress(req.told.seen, len(req.prompt))
        chunk.states, chunk.tokens, chunk.depth = torch.cat(states), np.full(n, -1), end

    def thin(self, chunk: Chunk, look: Significance) -> Work:
        """Keep half a chunk's room of its middle, in its states and in every layer that it has passed."""
        m, n = self.method, len(chunk.pos)
        affixes = m.prefix + m.suffix
        size = affixes + (self.budget - affixes) // 2
        if n <= size:
            return
        stay = np.ones(n, dtype=bool)
        stay[m.prefix : n - m.suffix] = False
        kept = best_places(look.calibrated(chunk.pos), stay, size)
        assert chunk.states is not None
        chunk.states, chunk.pos, chunk.tokens = (
            chunk.states[torch.from_numpy(kept)],
            chunk.pos[kept],
            chunk.tokens[kept],
        )
        yield Splice(chunk.name, (Part(((chunk.name, kept),)),), range(chunk.depth))

    def joined(self, left: Chunk, right: Chunk) -> Making:
        """Two chunks as one, which takes the left one's name."""
        p, s, x, y = self.method.prefix, self.method.suffix, left.states, right.states
        a, b, first = len(left.pos) - s, len(right.pos) - s, np.arange(p)
        assert x is not None and y is not None
        prefix = Part(((left.name, first), (right.name, first)))
        middles = Part(((left.name, np.arange(p, a)),)), Part(((right.name, np.arange(p, b)),))
        suffix = Part(((left.name, np.arange(a, a + s)), (right.name, np.arange(b, b + s))))
        parts = (prefix, *middles, suffix) if p else (*middles, suffix)
        yield Splice(left.name, parts, range(left.depth), ends=(right.name,))
        states = torch.cat([(x[:p] + y[:p]) / 2, x[p:a], y[p:b], (x[a:] + y[b:]) / 2])
        pos = np.concatenate([left.pos[:a], right.pos[p:]])
        return Chunk(left.name, np.full(len(pos), -1), pos, states, left.depth)
