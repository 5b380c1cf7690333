"""What a sequence holds, looked at from outside: copies of caches, where two differ, the memory that is really kept."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

from fewer.kv.store import Store
from fewer.models.decoder import Decoder
from fewer.models.layers import rotate
from fewer.plan import PLAIN
from fewer.request import Request
from fewer.runner import Runner
from fewer.types import Group, Step, Told, chain


class CheckFailed(AssertionError):
    """A check found something; the message says what, where, and on which input."""


def require(ok: Any, message: str) -> None:
    """Raise CheckFailed(message) unless `ok`."""
    if not ok:
        raise CheckFailed(message)


@dataclass
class Cache:
    """A copy of what one sequence held: keys, values (n_h, d) and positions (n_h,) as [layer][kv-head]; keys rotated."""

    next_pos: int
    keys: list[list[torch.Tensor]]
    values: list[list[torch.Tensor]]
    positions: list[list[torch.Tensor]]


def entries(runner: Runner, req: Request) -> np.ndarray | None:
    """(L, H) committed entries of a request on the main model, None before it has any."""
    seq = req.seqs.get("main")
    store = runner.stores["main"]
    return None if seq is None else np.stack([store.entries(seq, layer) for layer in range(store.spec.n_layers)])


def copy_cache(store: Store, decoder: Decoder, seq: int, by_place: bool = False) -> Cache:
    """What a sequence holds now. by_place: its keys are kept unrotated, so they are rotated by their positions here."""
    cache = Cache(store.next_pos(seq), [], [], [])
    for layer in range(store.spec.n_layers):
        view = store.view(seq, layer)
        heads = range(view.n_heads if view.segments else 0)
        keys, pos = [view.keys(h).clone() for h in heads], [view.positions(h).clone() for h in heads]
        if by_place:
            keys = [rotate(k[:, None], *decoder.angles(layer, p.numpy()))[:, 0] for k, p in zip(keys, pos)]
        cache.keys.append(keys)
        cache.values.append([view.values(h).clone() for h in heads])
        cache.positions.append(pos)
    return cache


def before(cache: Cache, position: int) -> Cache:
    """The part of a cache that stands before a position."""
    at = [[p < position for p in layer] for layer in cache.positions]

    def part(of: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
        return [[t[keep] for t, keep in zip(layer, heads)] for layer, heads in zip(of, at)]

    return Cache(min(cache.next_pos, position), part(cache.keys), part(cache.values), part(cache.positions))


def differ(a: Cache, b: Cache, tol: float) -> str | None:
    """Where two caches first differ, or None."""
    if a.next_pos != b.next_pos:
        return f"next position {a.next_pos} != {b.next_pos}"
    for layer, (pa, pb) in enumerate(zip(a.positions, b.positions)):
        for h in range(max(len(pa), len(pb))):
            where = f"layer {layer}, kv-head {h}"
            if len(pa) != len(pb) or pa[h].tolist() != pb[h].tolist():
                return f"{where}: positions {pa[h].tolist() if pa else []} != {pb[h].tolist() if pb else []}"
            for what, x, y in (("keys", a.keys, b.keys), ("values", a.values, b.values)):
                gap = float((x[layer][h] - y[layer][h]).abs().max()) if len(pa[h]) else 0.0
                if not gap <= tol:
                    return f"{where}: {what} differ by {gap:.3g}"
    return None


def fresh(decoder: Decoder, tokens: Sequence[int]) -> Cache:
    """The plain cache of `tokens`, made in one prefill."""
    store = decoder.new_store()
    seq, rows = store.new(), chain(list(tokens), 0)
    decoder.forward(Step([Group(seq, rows, PLAIN, Told(len(rows)), None)]), store)
    store.commit(seq, rows, np.arange(len(rows)))
    return copy_cache(store, decoder, seq)


def next_logits(decoder: Decoder, store: Store, seq: int, token: int) -> torch.Tensor:
    """Plain logits (V,) after one more token; the sequence is left as it was."""
    at = store.next_pos(seq)
    rows = chain([token], at)
    outs, _ = decoder.forward(Step([Group(seq, rows, PLAIN, Told(at), np.arange(1))]), store)
    store.commit(seq, rows, np.zeros(0, dtype=np.int64))
    assert outs[0].logits is not None
    return outs[0].logits[0]


def real_bytes(store: Store, seq: int) -> int:
    """Memory of all tensors that a sequence's entries keep alive, found by following references."""
    s = store.sequence(seq)
    held: list[Any] = [t for t in (s.k, s.v, s.pos) if t is not None]
    for layer in s.segments:
        for seg in layer:
            held += [t for t in (seg.k, seg.v, seg.pos, seg.packed) if t is not None]
    return memory(held)


def memory(roots: Sequence[Any]) -> int:
    """Bytes of the tensors and arrays reachable from `roots`; each storage once; modules and types are not entered."""
    seen: set[int] = set()
    sizes: dict[int, int] = {}
    todo = list(roots)
    while todo:
        x = todo.pop()
        if id(x) in seen or isinstance(x, (ModuleType, type)):
            continue
        seen.add(id(x))
        if type(x) is torch.Tensor:
            store = x.untyped_storage()
            sizes[store.data_ptr()] = store.nbytes()
        elif type(x) is np.ndarray:
            base = x if x.base is None else x.base
            sizes[id(base)] = getattr(base, "nbytes", x.nbytes)
        elif type(x) is FunctionType:
            todo += [c.cell_contents for c in x.__closure__ or ()] + list(x.__defaults__ or ())
        else:
            todo += gc.get_referents(x)
    return sum(sizes.values())
