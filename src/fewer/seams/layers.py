"""The seam of the layers: which rows attend, and which use the FFN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from fewer.seams.method import Method
from fewer.types import Rows, Told


@dataclass(frozen=True)
class Route(Method):
    """Which rows attend and which use the FFN, per layer. A row that does neither has left the network."""

    seam: ClassVar[str] = "route"
    missing_kv: ClassVar[str] = "absent"  # a row that does not attend leaves no entry in that layer
    row_local: ClassVar[bool] = True  # decisions about a row depend on that row alone

    def attend(self, layer: int, x: torch.Tensor, rows: Rows, told: Told, state: Any) -> np.ndarray | None:
        """x (m, D) -> (m,) bool; None = all."""
        return None

    def ffn(self, layer: int, x: torch.Tensor, rows: Rows, told: Told, state: Any) -> np.ndarray | None:
        """x (m, D) after attention -> (m,) bool; None = all."""
        return None

    def after_ffn(
        self, layer: int, before: torch.Tensor, after: torch.Tensor, ran: np.ndarray, told: Told, state: Any
    ) -> None:
        """before, after (r, D) for the local rows `ran` that used the FFN."""

    def watches_ffn(self, told: Told) -> bool:
        """Is after_ffn wanted in this step?"""
        return False
