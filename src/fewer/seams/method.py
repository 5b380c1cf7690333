"""The base of every seam, and what a method may be shown: evidence that it declares, and what a sequence holds."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch

from fewer.kv.view import View
from fewer.types import Told

if TYPE_CHECKING:
    from fewer.models.decoder import Decoder


@dataclass(frozen=True)
class Method:
    """Base of all methods."""

    seam: ClassVar[str] = ""
    name: ClassVar[str] = ""  # the catalogue name, set on the object when a plan is made
    needs: ClassVar[frozenset[str]] = (
        frozenset()
    )  # evidence the engine must produce: "attention", "queries", "hidden", "logits", "best"
    uses: ClassVar[frozenset[str]] = frozenset()  # models beside "main" that its forwards name, e.g. "draft"
    by_text: ClassVar[bool] = (
        False  # it speaks to them through text, so their vocabularies may differ from the main one's
    )

    def brings(self, main: Decoder) -> dict[str, Decoder]:
        """Models of its own, made from the main one, under names no other method takes. Asked when a request is queued;
        a name that the engine already has is not made again, so it must say everything the model depends on."""
        return {}

    def remember(self, told: Told) -> Any:
        """What outlives a request: made once for an engine and these knobs, had from `told.remembered(self)`. Bounded, and
        free to change what a run costs, never what it says; nobody but this method touches it."""
        return None

    def start(self, told: Told) -> Any:
        """This request's own state, made when the prompt's length is known."""
        return None

    @classmethod
    def knobs(cls) -> dict[str, dict[str, Any]]:
        """Knob -> {default, type, doc, range}. The signature is the schema."""
        out = {}
        for f in fields(cls):
            m = f.metadata
            default = None if f.default is MISSING else f.default
            out[f.name] = {
                "default": default,
                "type": str(f.type),
                **{k: v for k, v in m.items() if v not in (None, ())},
            }
        return out


class Watcher:
    """Declared evidence of chosen rows, handed out only because somebody asked: needs = {"attention"}, {"queries"}."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def probe(self, m: int, told: Told, state: Any) -> np.ndarray | None:
        """Which of the m local rows of this step to report; None = none. Called once a step."""
        return None

    def watch(self, layer: int, rows: np.ndarray, probs: list[torch.Tensor], told: Told, state: Any) -> None:
        """probs[h]: (w, g, n_h) over committed then in-flight entries of kv-head h, in order."""

    def watch_queries(self, layer: int, rows: np.ndarray, q: torch.Tensor, told: Told, state: Any) -> None:
        """q (w, Hq, d): queries before rotation, of the rows that probe() chose."""


class Held(Protocol):
    """What a sequence holds, read-only, as the engine shows it to Retain and Codec."""

    n_layers: int
    n_heads: int  # kv-heads
    scale: float  # on q.k before softmax

    def entries(self, layer: int) -> np.ndarray: ...  # (H,)
    def raw_entries(self, layer: int) -> int: ...
    def view(self, layer: int) -> View: ...
    def angles(self, layer: int, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]: ...  # cos, sin (T, d/2)
