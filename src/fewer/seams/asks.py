"""What a running request asks of the engine: forwards, commits, rewinds, given entries; and a coroutine of them, `Work`."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fewer.types import Out, Rows

if TYPE_CHECKING:
    from fewer.seams.method import Watcher


@dataclass(frozen=True)
class Forward:
    """Asks for one forward: rows of a model's sequence. `want` = local rows whose logits come back; None = none.

    stop: leave the stack after so many layers. start: enter it above so many layers, with soft rows that those made;
    they were counted as seen when they began. taps: hidden states to return. best: so many of the likeliest tokens of each
    wanted row are enough, 0 = logits. on: a sequence of the request's own beside the model's, by any name; it begins empty
    when it is first named, no method sees it, and it ends with the request or by Splice.
    """

    rows: Rows
    want: np.ndarray | None = None
    model: str = "main"
    stop: int | None = None
    start: int = 0
    taps: frozenset[str] = frozenset()
    best: int = 0
    watch: Watcher | None = None  # a transform that reads attention during its own pass
    stage: str = "decode"  # which line of the ledger's clock this belongs to
    on: str = ""
    beside: Work | None = None  # runs on other models while this forward does; the answer comes when both are done


@dataclass(frozen=True)
class Commit:
    """Says which rows of the forward just done become cache, in path order."""

    accepted: np.ndarray
    model: str = "main"


@dataclass(frozen=True)
class Rewind:
    """Cuts a model's sequence back to `next_pos` (0 empties it)."""

    next_pos: int
    model: str = "main"


@dataclass(frozen=True)
class Given:
    """Puts entries that no forward made behind what a model's sequence holds: keys not rotated yet, values, (L, H, p, d).
    They take the next p positions and count as seen."""

    keys: torch.Tensor
    values: torch.Tensor
    model: str = "main"


@dataclass(frozen=True)
class Part:
    """Entries of sequences (as in Forward.on) at ascending places (n,), all kv-heads alike; of several, their mean."""

    sources: tuple[tuple[str, np.ndarray], ...]


@dataclass(frozen=True)
class Splice:
    """Gives sequence `into` other entries in the layers `layers`: the parts, one behind the other. What it had there and the
    sequences that it `ends` are freed. Its next position is the one behind the furthest entry."""

    into: str
    parts: tuple[Part, ...]
    layers: range
    ends: tuple[str, ...] = ()
    model: str = "main"


Work = Generator[Forward | Commit | Rewind | Given | Splice, Out, Any]
