"""What a forward of M rows costs beside one of a single row: how many drafted rows are worth their place.

    curve(decoder)   from the cache folder; else timed once, a second or so, and kept there for this model (its structure,
                     bytes and types), processor, instruction set, threads, version of fewer and compiled library
    NOMINAL          where nothing can be timed, and where the clock must have no say
    Costs            a curve that the forwards of real requests correct

A kernel reads the weights once for all rows, so a few more are nearly free until arithmetic is what limits. Least times
are taken, since a busy machine only ever adds; where they lie far below the medians it was busy, and nothing is kept. What a curve
does not know is the length of the context; `Costs` learns what it adds.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np

from fewer import __version__
from fewer.kernels.cpu import features, processor
from fewer.kernels.native import native
from fewer.models.decoder import Decoder
from fewer.models.fetch import cache_folder
from fewer.models.size import weight_bytes
from fewer.plan import PLAIN
from fewer.types import Group, Step, Told, chain

ROWS = (1, 2, 4, 8, 16, 32)
CHUNK = 512  # prompt rows a forward
CONTEXT = 32  # tokens in the cache while the curve is timed
TABLE = 66  # row counts whose costs are looked up
BUSY = 1.25  # median over least time of a machine that has other things to do
ROUNDS, PATIENCE = 5, 1.0  # rounds of the sizes at most; seconds after which no other is begun


@dataclass(frozen=True)
class Curve:
    """times[i]: cost of a forward of rows[i] rows, in forwards of one row. measured: on this machine, by `time_rows`."""

    rows: tuple[int, ...] = ROWS
    times: tuple[float, ...] = (1.0, 1.05, 1.2, 1.6, 2.5, 4.2)
    measured: bool = False

    def __call__(self, m: int) -> float:
        """Cost of m rows: straight between the sizes, and on as the last two go."""
        i = next((i for i, r in enumerate(self.rows[1:-1], 1) if m <= r), len(self.rows) - 1)
        a, b, x, y = self.rows[i - 1], self.rows[i], self.times[i - 1], self.times[i]
        return x + (y - x) * (m - a) / (b - a)


NOMINAL = Curve()


@dataclass(slots=True)
class Costs:
    """C(m) in forwards of one row. timed: forwards that really ran correct the curve."""

    curve: Curve
    timed: bool
    _one: float = 0.0  # log of the seconds of a forward of one row; 0.0 = not known
    _off: dict[int, float] = field(default_factory=dict)  # size class -> log of the correction
    _table: list[float] = field(default_factory=list)
    _last: tuple[int, float] = (0, 0.0)

    def __post_init__(self) -> None:
        self._table = [0.0, *(self.curve(m) for m in range(1, TABLE))]

    def __call__(self, m: int) -> float:
        c = self._table[m] if m < TABLE else self.curve(m)
        off = self._off.get((m - 1).bit_length())
        return c if off is None else c * math.exp(off)

    @property
    def known(self) -> bool:
        """Has a forward been heard of?"""
        return bool(self._one)

    @property
    def seconds(self) -> float:
        """Of a forward of one row; infinite while unknown."""
        return math.exp(self._one) if self._one else math.inf

    def heard(self, m: int, seconds: float) -> None:
        """A forward of m rows took so long. Most of a surprise is the moment's; what comes again is the size's."""
        if not self.timed or seconds <= 0 or (m, seconds) == self._last:  # requests of one batch tell the same
            return
        self._last = m, seconds
        now = math.log(seconds / self(m))
        if not self._one:
            self._one = now
            return
        surprise = max(-0.4, min(0.4, now - self._one))
        self._one += 0.2 * surprise
        if m > 1:
            size = (m - 1).bit_length()
            self._off[size] = self._off.get(size, 0.0) + 0.06 * surprise


def curve(decoder: Decoder) -> Curve:
    """This model's curve on this machine, timed if it is not known yet. A cache that cannot be used is no error."""
    path = cache_folder() / "rows" / f"{_key(decoder)}.json"
    try:
        held = json.loads(path.read_text())
        return Curve(tuple(held["rows"]), tuple(held["times"]), True)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if decoder.spec.max_context <= CONTEXT + ROWS[-1]:
        return NOMINAL
    ids = (np.arange(CONTEXT + ROWS[-1]) % decoder.spec.vocab).tolist()
    seen = time_rows(decoder, ids, CONTEXT, ROUNDS, PATIENCE)
    found = smooth(seen)
    if all(statistics.median(s) < BUSY * min(s) for s in seen.values()):
        _keep(path, found)
    return found


def smooth(seen: dict[int, list[float]]) -> Curve:
    """Timings a size -> a curve that begins at 1 and never falls."""
    least = np.maximum.accumulate([min(seen[m]) for m in seen])
    return Curve(tuple(seen), tuple(round(float(t), 4) for t in least / least[0]), True)


def time_rows(
    decoder: Decoder, ids: Sequence[int], context: int, rounds: int, patience: float = float("inf")
) -> dict[int, list[float]]:
    """Seconds of forwards of each size of ROWS behind `context` tokens of ids, the arg max of every row wanted.

    Nothing is committed. Sizes take turns, so a slow moment hits all alike; the first round does not count. No round is
    begun after `patience` seconds, but one is always counted.
    """
    store, told = decoder.new_store(), Told(context)
    seq = store.new()
    for at in range(0, context, CHUNK):
        rows = chain(ids[at : min(at + CHUNK, context)], at)
        decoder.forward(Step([Group(seq, rows, PLAIN, told, None)]), store)
        store.commit(seq, rows, np.arange(len(rows)))
    seen: dict[int, list[float]] = {m: [] for m in ROWS}
    began = time.perf_counter()
    for r in range(rounds + 1):
        if r > 1 and time.perf_counter() - began > patience:
            break
        for m in ROWS:
            rows = chain(ids[context : context + m], context)
            start = time.perf_counter()
            decoder.forward(Step([Group(seq, rows, PLAIN, told, np.arange(m))], best=1), store)
            if r:
                seen[m].append(time.perf_counter() - start)
            store.commit(seq, rows, np.zeros(0, np.int64))
    store.drop(seq)
    return seen


def medians(seen: dict[int, list[float]]) -> dict[int, float]:
    """Timings a size -> the median."""
    return {m: statistics.median(s) for m, s in seen.items()}


def _key(decoder: Decoder) -> str:
    """What the curve depends on, in one word."""
    cpu = features()
    model = (repr(decoder.spec), weight_bytes(decoder), str(decoder.dtype), str(decoder.kv_dtype), decoder.device)
    machine = (processor(), cpu.get("isa", "torch"), cpu.get("threads", 0), os.cpu_count())
    return hashlib.sha256(repr((model, machine, __version__, _library(native))).encode()).hexdigest()[:24]


@functools.cache
def _library(compiled: ModuleType | None) -> str:
    """The compiled kernels in one word: built anew from other code they are other kernels of the same version."""
    path = None if compiled is None else compiled.__file__
    return "none" if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _keep(path: Path, found: Curve) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps({"rows": found.rows, "times": found.times}) + "\n")
        partial.replace(path)
    except OSError:
        pass
