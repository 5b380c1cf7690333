"""What the methods of a request remember beside the KV cache: bytes of the tensors and arrays that their states lead to.

Summaries of blocks, running scores, small keys: memory that a claim about the cache must not hide. Walked, not declared, so
no method can forget to say. Memory that two things share counts once; what belongs to the engine (models, stores, memory
that outlives requests) is not walked. Does not: count Python's own objects, lists of numbers among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

LEAVES = frozenset({int, float, bool, str, bytes, type(None)})  # left out early: tries and automata are full of them
ENGINES = ("torch", "numpy", "fewer.models", "fewer.kv", "fewer.kernels", "fewer.types", "fewer.runner", "fewer.engine")


def state_bytes(states: Iterable[Any], shared: Iterable[Any] = ()) -> int:
    """Bytes of all memory that these states lead to. shared: what outlives requests, not entered."""
    found: dict[int, int] = {}  # address -> bytes
    seen = set(map(id, shared))
    todo = list(states)
    while todo:
        x = todo.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, torch.Tensor):
            memory = x.untyped_storage()
            found[memory.data_ptr()] = memory.nbytes()
        elif isinstance(x, np.ndarray):
            while isinstance(x.base, np.ndarray):
                x = x.base
            found[x.ctypes.data] = x.nbytes
        else:
            todo += [y for y in _inside(x) if type(y) not in LEAVES]
    return sum(found.values())


def _inside(x: Any) -> Iterator[Any]:
    if isinstance(x, dict):
        yield from x.values()
    elif isinstance(x, list | tuple | set | frozenset):
        yield from x
    elif not isinstance(x, type) and not callable(x) and not type(x).__module__.startswith(ENGINES):
        yield from getattr(x, "__dict__", {}).values()
        for slot in getattr(type(x), "__slots__", ()):
            yield getattr(x, slot, None)
