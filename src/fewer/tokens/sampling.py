"""Text byte by byte: one model, or several with different vocabularies whose next-byte distributions are averaged.

An ensemble works on bytes because there the models speak of the same events, whatever their tokens; a weighted mean of
distributions is the mixture of the papers ("Exact Byte-Level Probabilities from Tokenized Language Models for FIM-Tasks
and Model Ensembles"). Does not: weigh models by how well they have done so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from fewer.errors import BadRequest
from fewer.tokens.bytes import END, ByteState
from fewer.tokens.covers import log
from fewer.types import Rng


class Bytes(Protocol):
    """Anything with a next-byte distribution: a ByteState, an Ensemble."""

    def next(self) -> np.ndarray: ...  # (257,), the last is the text's end

    def push(self, data: bytes) -> float: ...  # log probability of the bytes appended


class Ensemble:
    """Several states of one text, mixed: next = sum of weights times each one's next. weights default to equal."""

    def __init__(self, states: Sequence[ByteState], weights: Sequence[float] | None = None) -> None:
        if not states or any(s.bytes != states[0].bytes for s in states):
            raise BadRequest("an ensemble needs at least one state, and all of them behind the same bytes")
        w = np.ones(len(states)) if weights is None else np.array(weights, dtype=np.float64)
        if len(w) != len(states) or (w < 0).any() or not w.sum():
            raise BadRequest(f"an ensemble of {len(states)} needs as many weights, none negative, not all zero")
        self.states, self.weights = states, w / w.sum()

    def next(self) -> np.ndarray:
        return self.weights @ np.array([s.next() for s in self.states])

    def push(self, data: bytes) -> float:
        logp = 0.0
        for byte in data:
            logp += log(self.next()[byte])
            for s in self.states:
                s.push(bytes([byte]))
        return logp


def sample(
    source: Bytes, max_bytes: int, temperature: float = 0.0, seed: int | None = None, stop: bytes = b""
) -> Iterator[int]:
    """Go on from where `source` stands, byte by byte, until the text ends, `stop` is complete or max_bytes are there.

    temperature 0 takes the likeliest byte; other temperatures sharpen or flatten each byte's distribution."""
    if max_bytes < 1 or temperature < 0:
        raise BadRequest(f"max_bytes={max_bytes} must be at least 1 and temperature={temperature} not negative")
    rng, said = Rng(seed), b""
    while len(said) < max_bytes:
        p = source.next()
        byte = int(p.argmax()) if temperature == 0 else rng.categorical(p ** (1 / temperature))
        if byte == END:
            return
        said += bytes([byte])
        yield byte
        if stop and said.endswith(stop):
            return
        if len(said) < max_bytes:
            source.push(bytes([byte]))
