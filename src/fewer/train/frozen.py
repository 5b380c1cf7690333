"""What lessons ask of a frozen model: how far a state is from what it said, and what it holds of a text.

The head is large, so a softmax runs over a part of the vocabulary: every token that the distributions name, and random others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import linear, log_softmax

from fewer.kv.store import Store
from fewer.models.decoder import Decoder
from fewer.models.layers import DenseHead, rms_norm
from fewer.plan import PLAIN
from fewer.types import Group, Step, Told, chain

OTHERS = 2048  # random tokens beside those that were likely


def distil(
    y: torch.Tensor, ids: torch.Tensor, logp: torch.Tensor, head: DenseHead, rng: np.random.Generator
) -> torch.Tensor:
    """Cross-entropy of states y (A, D) before the final norm with the distributions ids, logp (A, TOP); mean over rows."""
    spec = head.spec
    others = torch.from_numpy(rng.integers(0, spec.vocab, min(OTHERS, spec.vocab)))
    candidates, place = torch.unique(torch.cat([ids.reshape(-1), others]), return_inverse=True)
    z = linear(rms_norm(y, head.norm + spec.norm_offset, spec.norm_eps), head.proj[candidates])
    if spec.final_softcap is not None:
        z = spec.final_softcap * torch.tanh(z / spec.final_softcap)
    said = log_softmax(z, -1).gather(1, place[: ids.numel()].view(ids.shape))
    return -(torch.softmax(logp, -1) * said).sum(-1).mean()


@dataclass(frozen=True)
class Past:
    """Rotated keys and values of a text of n tokens, a layer: (H, n, d), as the engine keeps them."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]


def entries(model: Decoder, store: Store, seq: int) -> Past:
    """What a sequence holds, its heads being alike."""
    views, heads = [store.view(seq, layer) for layer in range(model.spec.n_layers)], range(model.spec.n_kv_heads)
    return Past(
        [torch.stack([v.keys(h) for h in heads]) for v in views],
        [torch.stack([v.values(h) for h in heads]) for v in views],
    )


@torch.inference_mode()
def past(model: Decoder, tokens: torch.Tensor) -> Past:
    """What the engine holds of a text, in float32."""
    store = model.new_store()
    seq, rows = store.new(), chain(tokens.numpy(), 0)
    model.forward(Step([Group(seq, rows, PLAIN, Told(len(rows)), None)]), store)
    store.commit(seq, rows, np.arange(len(rows)))
    held = entries(model, store, seq)
    return Past([k.float() for k in held.keys], [v.float() for v in held.values])
