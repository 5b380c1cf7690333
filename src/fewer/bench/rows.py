"""What M rows in one forward cost beside one, for people: the curve that decides whether drafting pays.

The same timing as the engine's own (costs.py), at a longer context of real text, over more rounds; medians are reported.
"""

from __future__ import annotations

from typing import Any

from fewer.costs import CHUNK, ROWS, medians, time_rows
from fewer.models.decoder import Decoder

__all__ = ["CHUNK", "ROWS", "curve"]


def curve(decoder: Decoder, ids: list[int], context: int = 1024, rounds: int = 15) -> dict[str, Any]:
    """ids: tokens to read, more than context + 32. -> {"context", "seconds": {M: s}, "times": {M: relative to one row}}."""
    seconds = medians(time_rows(decoder, ids, context, rounds))
    return {
        "context": context,
        "seconds": {str(m): round(s, 6) for m, s in seconds.items()},
        "times": {str(m): round(s / seconds[1], 3) for m, s in seconds.items()},
    }
