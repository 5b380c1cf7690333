"""Seams of the cache: what stays, what one row reads of it, how it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from fewer.kernels.ranking import Picks
from fewer.kv.segment import Encoded
from fewer.kv.view import View
from fewer.seams.asks import Work
from fewer.seams.method import Held, Method, Watcher
from fewer.types import Rows, Told


@dataclass(frozen=True)
class Retain(Method, Watcher):
    """What stays in the cache. Destructive; called after every commit; entries not kept are freed."""

    seam: ClassVar[str] = "retain"
    positions: ClassVar[str] = (
        "true"  # "place": keys are kept unrotated and rotated by their place in the cache when read
    )
    acts: ClassVar[str] = "always"  # "prompt": only once, when the prompt is complete

    def keep(self, held: Held, told: Told, state: Any) -> dict[int, list[torch.Tensor]] | None:
        """layer -> per kv-head ascending places to keep. None = keep all. Layers left out keep all."""
        raise NotImplementedError

    def furthest(self, told: Told, state: Any) -> int | None:
        """With positions = "place": entries that are further than this from the next token are rotated as if they stood
        there. None = no bound."""
        return None

    def moment(self, told: Told) -> int:
        """With acts = "prompt": after how many prompt tokens keep() is called. What follows is read from what was kept."""
        return told.prompt_len

    def study(self, tokens: list[int], told: Told, state: Any) -> Work:
        """With acts = "prompt": forwards of its own right before keep(), on the cache of `tokens` (all so far). Their rows
        see the cache and each other; on the main model none may be accepted."""
        return
        yield

    def read_logits(self, tokens: np.ndarray, logits: torch.Tensor, told: Told, state: Any) -> None:
        """With needs = {"logits"}: the tokens (A,) that become cache now, rejected drafts left out, and the logits (A, V)
        after each. told.seen is the position of the first. Called before keep()."""

    def sees(self, layer: int, x: torch.Tensor, rows: Rows, told: Told, state: Any) -> None:
        """With needs = {"hidden"}: x (m, D), what enters a layer, of a step's rows. With acts = "prompt" only while the
        prompt is read."""

    def horizon(self, held: Held, told: Told, state: Any) -> int | None:
        """Tokens that may still be committed before keep() acts; None = any number. Drafts stop there, so they stay exact."""
        return 1 if self.acts == "always" and told.decoding else None


class Full(Protocol):
    """Lets some rows (w,) of a piece, ascending, read all: per kv-head what they gave each entry (w, n_h), summed over its
    queries."""

    def __call__(self, rows: torch.Tensor) -> list[torch.Tensor]: ...


@dataclass(frozen=True)
class Blocks:
    """What the rows of a piece of the prompt read, `size` rows at a time.

    places[b][h]: ascending places of kv-head h among the entries before block b's first row. A block's rows see each other
    as ever. looked: entries, summed over heads and rows, that were read to find this out beside those of Full. right: rows that
    read all by Full keep what they read, and what this changes in them, on average over a block, is added to the other rows of
    their block."""

    size: int
    places: list[list[torch.Tensor]]
    looked: int = 0
    right: bool = True


@dataclass(frozen=True)
class Select(Method):
    """What one row reads. Nothing is lost. Called for every layer and decoding row."""

    seam: ClassVar[str] = "select"
    acts: ClassVar[str] = "text"  # "prompt": pick_blocks() is asked while the prompt is read, pick() never

    def begin(self, rows: Rows, told: Told, state: Any) -> None:
        """A step with these decoding rows starts at layer 0."""

    def read(self, layer: int, q: torch.Tensor, k: torch.Tensor, told: Told, state: Any) -> None:
        """With needs = {"queries"}: q (m, Hq, d) and k (m, H, d), rotated, of the prompt's rows, piece by piece."""

    def sees(self, x: torch.Tensor, rows: Rows, told: Told, state: Any) -> None:
        """With needs = {"hidden"}: x (m, D), the hidden states of a step's rows behind layer 0, prompt and drafts alike,
        before deeper layers run. What becomes of drafts is known when the next step's rows are seen."""

    def knows(self, layer: int, row: int, told: Told, state: Any) -> bool:
        """May pick() be asked now, before the row has come to `layer`? It then sees no queries (q is empty) and nothing that
        layers below have shown it in this step since. Layers that are known one after the other run in one go."""
        return False

    def pick(self, layer: int, row: int, q: torch.Tensor, view: View, told: Told, state: Any) -> Picks | None:
        """q (Hq, d) rotated -> per kv-head ascending places among the entries before this row; None = read all.

        view: what is committed and, behind it, the in-flight rows this one descends from. The row itself is always read."""
        raise NotImplementedError

    def holds(self, layer: int, row: int, view: View, told: Told, state: Any) -> int:
        """Asked after a pick() that knows() allowed: how many entries may be appended, to each kv-head, until it must be asked
        again? Till then it would say the same, with what was appended read too. Only of a Ranking and of None."""
        return 0

    def pick_blocks(self, layer: int, q: torch.Tensor, view: View, told: Told, state: Any, full: Full) -> Blocks | None:
        """q (m, Hq, d) rotated, of the rows of one piece of the prompt; view: what is committed and these m rows behind it.
        full: may be asked once which entries some rows look at. None = read all."""
        raise NotImplementedError

    def looks(self, layer: int, row: int, told: Told, state: Any) -> bool:
        """Asked after pick() said None: does it want to know, by saw(), what the row gave each entry?"""
        return False

    def saw(self, layer: int, row: int, probs: list[torch.Tensor], view: View, told: Told, state: Any) -> None:
        """probs[h] (g, n_h + 1): attention of a row that read all; the entries of `view` and, last, the row itself."""


@dataclass(frozen=True)
class Codec(Method, Watcher):
    """How entries are stored. Raw entries that are due change into packed ones; attention reads them through decode."""

    seam: ClassVar[str] = "codec"
    per_head: ClassVar[bool] = False  # packs each kv-head by itself, so heads may hold entries of different tokens

    def due(self, held: Held, told: Told, state: Any) -> bool:
        """Called after every commit: pack the raw entries now?"""
        raise NotImplementedError

    def encode(self, layer: int, view: View, told: Told, state: Any) -> tuple[Encoded, torch.Tensor, np.ndarray]:
        """All raw entries of a layer -> (packed form, positions (E,) int32, entries a head (H,))."""
        raise NotImplementedError

    def horizon(self, held: Held, told: Told, state: Any) -> int | None:
        """As Retain.horizon."""
        return None
