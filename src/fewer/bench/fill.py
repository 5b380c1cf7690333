"""`fewer bench fill`: decoding speed at a long context, every plan beside own full attention, on a cache that is filled at once.

Reading a prompt of 32k tokens takes minutes and says nothing about decoding. So the cache is filled with random keys and
values, shared by all plans; a codec packs them before the first step. Each then decodes token after token, in turn with
the others; several requests in one forward, each reading the shared cache for itself. Reported are the medians of a step,
the entries it reads, the bytes of keys and summaries scanned to choose them, and the bytes that the sequences hold. The
first steps, in which summaries are made, are reported apart.
Does not: say anything about quality (keys are random, so what is chosen means nothing), measure the prompt.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

import fewer
from fewer.bench.record import head
from fewer.errors import BadRequest
from fewer.kv.segment import pack_stacked
from fewer.kv.store import Store
from fewer.models.decoder import Decoder
from fewer.plan import PLAIN, Seams, plan
from fewer.types import Group, Step, Told, chain

WARM = 2  # first steps, not in the medians


def measure(
    model: str = "smollm2-135m",
    plans: Sequence[str] = (),
    length: int = 8000,
    steps: int = 12,
    seed: int = 0,
    say: Callable[[str], None] = lambda s: None,
    threads: int | None = None,
    requests: int = 1,
) -> dict[str, Any]:
    """{"what": "fill", ..., "results": {plan: figures}}. Raises BadRequest, and what plans and models raise."""
    seams = {"plain": PLAIN, **{p: plan([p]) for p in plans}}
    if wrong := next((p for p, s in seams.items() if not _can_begin(s)), None):
        what = "only selections and codecs that need not see the prompt can"
        raise BadRequest(f"{wrong} cannot begin in a filled cache: {what}")
    say(f"loading {model}")
    decoder = fewer.open(model, threads=threads).model
    if requests < 1:
        raise BadRequest(f"{requests} requests: give at least one")
    if steps < 1 or not 1 <= length <= decoder.spec.max_context - steps - WARM:
        raise BadRequest(f"a context of {length} and {steps} + {WARM} steps must fit in {decoder.spec.max_context}")
    store = decoder.new_store()
    whole = filled(store, length, seed)
    forks = {name: [store.fork(whole) for _ in range(requests)] for name in seams}
    runs = {name: Decoding(decoder, store, forks[name], s, length) for name, s in seams.items()}
    for i in range(WARM + steps):
        for name, run in runs.items():
            say(f"step {i + 1}/{WARM + steps}: {name}")
            run.step(5 + i)
    given = " ".join(f"--plan '{p}'" for p in plans)
    command = (
        f"fewer bench fill -m {model} {given} --length {length} --steps {steps} --seed {seed} --requests {requests}"
    )
    plain = statistics.median(runs["plain"].seconds[WARM:])
    return {
        **head("fill", command, seed),
        "model": model,
        "length": length,
        "requests": requests,
        "results": {name: run.figures(plain) for name, run in runs.items()},
    }


def _can_begin(seams: Seams) -> bool:
    parts = [m for m in (seams.select, seams.codec) if m is not None]
    return len(parts) == len(seams.methods()) and not any(m.needs for m in parts)


def filled(store: Store, length: int, seed: int) -> int:
    """A sequence of `length` entries a kv-head of random keys and values."""
    spec, seq = store.spec, store.new()
    g, held = torch.Generator().manual_seed(seed), store.sequence(seq)
    pos = torch.arange(length, dtype=torch.int32).expand(spec.n_kv_heads, -1)
    shape = (spec.n_kv_heads, length, spec.head_dim)
    for layer in range(spec.n_layers):
        k, v = (torch.randn(shape, generator=g).to(store.dtype) for _ in range(2))
        held.segments[layer] = [pack_stacked(store.meter, k, v, pos)]
    held.next_pos = length
    return seq


class Decoding:
    """One plan's sequences: a token each a step."""

    def __init__(self, decoder: Decoder, store: Store, seqs: list[int], seams: Seams, length: int) -> None:
        self.decoder, self.store, self.seqs, self.seams = decoder, store, seqs, seams
        spec = decoder.spec
        self.told = [
            Told(length, n_layers=spec.n_layers, windows=spec.windows, seen=length, decoding=True) for _ in seqs
        ]
        for seq, told in zip(seqs, self.told):
            if seams.select is not None:
                told.start(seams.select)
            if seams.codec is not None:
                told.start(seams.codec)
                state = told.of(seams.codec)
                for layer in range(spec.n_layers):
                    store.encode(seq, layer, partial(seams.codec.encode, layer, told=told, state=state))
        self.seconds: list[float] = []
        self.read: list[tuple[int, int]] = []

    def step(self, token: int) -> None:
        rows = chain([token], self.told[0].seen)
        for told in self.told:
            told.generated.append(token)
        last = np.array([0])
        groups = [Group(seq, rows, self.seams, told, last) for seq, told in zip(self.seqs, self.told)]
        start = time.perf_counter()
        _, spent = self.decoder.forward(Step(groups, best=1), self.store)
        for seq in self.seqs:
            self.store.commit(seq, rows, last)
        self.seconds.append(time.perf_counter() - start)
        for told in self.told:
            told.seen += 1
        self.read.append((sum(s.entries_read for s in spent), sum(s.bytes_scanned for s in spent)))

    def figures(self, plain: float) -> dict[str, float]:
        """plain: seconds of full attention's step."""
        step = statistics.median(self.seconds[WARM:])
        entries, scanned = (statistics.fmean(x) for x in zip(*self.read[WARM:]))
        return {
            "milliseconds": round(step * 1e3, 3),
            "times": round(plain / step, 3),
            "first_milliseconds": round(self.seconds[0] * 1e3, 1),
            "entries_read": round(entries, 1),
            "bytes_scanned": round(scanned, 1),
            "kv_bytes": self.store.bytes(self.seqs),
        }
