"""A document as a few trained cache entries in front of the prompt: Cartridges (Eyuboglu et al., 2025).

    [ k_1 v_1 .. k_p v_p ]  prompt        p entries a layer and kv-head, positions 0 .. p-1; the prompt goes on at p

The entries were learnt for one document (`fewer train cartridge`), so that the model with them answers as the model with
the document in its context does; no weight of the model changes. They are kept unrotated and take their positions when
they are put in front, so several cartridges can stand behind each other: name the method once for each.
Does not: hold the document itself (what was not learnt is not there), or read the prompt before it is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fewer.models.decoder import Decoder
from fewer.parts.trained import UNTRAINED, find
from fewer.seams import Commit, Forward, Given, Transform, Work, knob
from fewer.types import Told, chain

KIND, NONE = "cartridge", "none"
FRESH, MOST = 8, 1 << 16  # entries of an untrained cartridge: the vocabulary's first tokens; most of a trained one


@dataclass(frozen=True)
class GivenEntries(Transform):
    """Put the entries of a cartridge in front of the prompt."""

    gives: ClassVar[bool] = True

    file: str = knob(
        "smollm2-135m", "a trained cartridge: one that comes with fewer, a file, untrained, or none = nothing"
    )

    def brings(self, main: Decoder) -> dict[str, Decoder]:
        if self.file not in (UNTRAINED, NONE):
            part, spec = find(KIND, self.file), main.spec
            shape = spec.n_layers, spec.n_kv_heads, part.number("entries", 1, MOST), spec.head_dim
            part.check(main, {"keys": shape, "values": shape})
        return {}

    def run(self, tokens: list[int], forced: np.ndarray, told: Told, state: None) -> Work:
        if self.file == UNTRAINED:
            rows = chain(np.arange(min(FRESH, told.vocab)), told.seen)
            yield Forward(rows, stage="transform")
            yield Commit(np.arange(len(rows)))
        elif self.file != NONE:
            part = find(KIND, self.file)
            yield Given(part.tensors["keys"], part.tensors["values"])
        return np.arange(len(tokens))
