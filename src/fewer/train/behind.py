"""A text behind given cache entries: with gradients through the frozen model, and as the engine reads it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from fewer.kv.store import Store
from fewer.models.decoder import Decoder
from fewer.models.layers import rotate
from fewer.models.rope import cos_sin
from fewer.models.spec import Spec
from fewer.plan import PLAIN
from fewer.train.said import Spoken
from fewer.types import Group, Step, Told, chain

Entries = tuple[torch.Tensor, torch.Tensor]  # keys, values: (L, H, p, d)


def turned(spec: Spec, keys: torch.Tensor) -> torch.Tensor:
    """Keys before rotation (L, H, p, d) -> as they stand at the first p positions, with gradients."""
    at = torch.arange(keys.shape[2])
    each = [rotate(k.transpose(0, 1), *cos_sin(rope, at, k.dtype)) for k, rope in zip(keys, spec.ropes)]
    return torch.stack(each).transpose(1, 2)


def states(dense: Decoder, tokens: torch.Tensor, given: Entries, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Final states (n, D) of tokens (n,) that stand behind given entries, their keys rotated; gradients reach the entries.
    weight (L, H, p): how much each given entry counts in the softmax, None = 1; gradients reach it too."""
    spec, x = dense.spec, dense.head.embed(tokens)
    n, p = len(tokens), given[0].shape[2]
    for layer, block in enumerate(dense.blocks):
        q, k, v = block.qkv(x, *cos_sin(spec.ropes[layer], torch.arange(p, p + n), x.dtype))
        keys, values = (torch.cat([old[layer].transpose(0, 1).to(x.dtype), new]) for old, new in zip(given, (k, v)))
        counts = None if weight is None else weight[layer]
        x = block.mlp(block.out(attend(spec, layer, q, keys, values, counts), x))
    return x


def attend(
    spec: Spec,
    layer: int,
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """q (n, Hq, d) of the last n of the N entries keys, values (N, H, d) -> (n, Hq, d). weight (H, N - n): how much the
    others count in the softmax. One that counts 0 has a gradient: what it would give if it counted."""
    n, h, d = len(q), spec.n_kv_heads, spec.head_dim
    z = torch.einsum("nhgd,mhd->hgnm", q.view(n, h, -1, d), keys) * spec.scale
    if spec.attn_softcap is not None:
        z = spec.attn_softcap * torch.tanh(z / spec.attn_softcap)
    age = torch.arange(len(keys) - n, len(keys))[:, None] - torch.arange(len(keys))
    unseen = (age < 0) | (age >= (spec.windows[layer] or len(keys)))
    z = z.masked_fill(unseen, float("-inf"))
    if weight is None:
        prob = torch.softmax(z, -1)
    else:
        e = torch.exp(z - z.detach().amax(-1, keepdim=True))
        e = e * torch.cat([weight, weight.new_ones(h, n)], 1)[:, None, None]
        prob = e / e.sum(-1, keepdim=True).clamp_min(1e-30)
    return torch.einsum("hgnm,mhd->nhgd", prob, values).reshape(n, -1, d)


@torch.inference_mode()
def put(model: Decoder, store: Store, given: Entries | None) -> int:
    """A new sequence that holds the given entries, keys before rotation."""
    seq = store.new()
    if given is not None:
        store.give(seq, model.turned(given[0], 0), given[1])
    return seq


def logits(
    model: Decoder, tokens: Sequence[int] | np.ndarray, want: np.ndarray, given: Entries | None = None
) -> torch.Tensor:
    """What the engine says at the rows `want` of tokens that stand behind given entries: (W, V)."""
    store = model.new_store()
    seq = put(model, store, given)
    rows = chain(tokens, store.next_pos(seq))
    (out,), _ = model.forward(Step([Group(seq, rows, PLAIN, Told(len(rows)), want)]), store)
    assert out.logits is not None
    return out.logits


def held(model: Decoder, tokens: Sequence[int], given: Entries | None = None) -> int:
    """Bytes that the store allocates for given entries and the tokens behind them."""
    store = model.new_store()
    seq = put(model, store, given)
    if len(tokens):
        rows = chain(tokens, store.next_pos(seq))
        model.forward(Step([Group(seq, rows, PLAIN, Told(len(rows)), None)]), store)
        store.commit(seq, rows, np.arange(len(rows)))
    return store.bytes([seq])


@torch.inference_mode()
def gap(model: Decoder, said: Sequence[Spoken], given: Entries | None = None) -> dict[str, float]:
    """How far the model is from what was said, a token: "kl" in nats (all tokens but the likeliest as one), "perplexity"."""
    kl, lost, n = 0.0, 0.0, 0
    for s in said:
        z = logits(model, s.tokens[:-1].numpy(), np.arange(s.start - 1, len(s.tokens) - 1), given)
        q = torch.log_softmax(z.double(), -1).gather(1, s.ids)
        p = s.logp.double()
        rest = [torch.log((1 - t.exp().sum(-1)).clamp_min(1e-9)) for t in (p, q)]
        p, q = (torch.cat([t, r[:, None]], 1) for t, r in zip((p, q), rest))
        kl += float((p.exp() * (p - q)).sum())
        lost -= float(q[:, 0].sum())
        n += len(q)
    return {"kl": round(kl / n, 4), "perplexity": round(math.exp(lost / n), 3)}
