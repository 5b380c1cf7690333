"""Trains the adapter of methods/propose/early_exit.py: hidden states of an early layer -> what the whole model would say.

    loss = - sum_i p_i log softmax(head(adapter(h)))_i

p is the model's own distribution at its answer tokens, cut to its likeliest tokens. The head is frozen and large, so the
softmax runs over a part of the vocabulary: every token that p names anywhere in the batch, and random others. Hidden states
come from the engine itself, so the adapter learns on exactly what it will see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fewer.engine import Engine
from fewer.errors import BadRequest
from fewer.methods.propose.early_exit import KIND, EarlyExit, early
from fewer.models.layers import DenseHead
from fewer.models.rope import cos_sin
from fewer.models.spec import Spec
from fewer.parts import adapter
from fewer.parts.trained import write
from fewer.plan import PLAIN
from fewer.train.frozen import distil
from fewer.train.said import Spoken
from fewer.train.session import Session
from fewer.types import Group, Step, Told, chain

BATCH = 8  # texts a step
RATE = 2e-3


def train(session: Session, output: Path, layers: int, command: str) -> dict[str, object]:
    """Learn an adapter behind `layers` layers and write it; returns what it reaches on held-out texts."""
    eng = session.eng
    if layers >= eng.model.spec.n_layers:
        raise BadRequest(f"--layers {layers}: the model has {eng.model.spec.n_layers}, the draft must have fewer")
    learn, judge = session.spoken()
    spec, head = early(eng.model.spec, layers), session.head()
    session.say(f"{sum(len(s.ids) for s in learn)} tokens of {len(learn)} answers; hidden states of layer {layers}")
    states = list(hidden(eng, learn, layers))
    weights = {n: t.requires_grad_() for n, t in adapter.fresh(spec, session.seed).items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01)
    rng = np.random.default_rng(session.seed)

    def lessons(share: float) -> Iterator[torch.Tensor]:
        picked = rng.choice(len(learn), min(BATCH, len(learn)), replace=False)
        yield lesson([learn[i] for i in picked], [states[i] for i in picked], spec, weights, head, rng)

    reached = session.descend(optimizer, RATE, lessons, clip=1.0)
    final = {n: t.detach() for n, t in weights.items()}
    ahead = foresight(eng, judge, layers, spec, final)
    report: dict[str, object] = {
        "layers": layers,
        "steps": reached.steps,
        "answers": len(learn),
        "tokens": sum(len(s.ids) for s in learn),
        "loss": reached.loss,
        "agreement": _agreement(ahead),
        "agreement_untrained": _agreement(foresight(eng, judge, layers, spec, adapter.fresh(spec))),
    }
    forwards = sum(simulate(f, EarlyExit().length, EarlyExit().threshold) for f in ahead)
    report["tokens_per_forward"] = round(sum(len(f.right) for f in ahead) / forwards, 3)
    write(output, KIND, final, eng.model, {**session.about(command), **report})
    return report


def hidden(eng: Engine, said: Sequence[Spoken], layers: int) -> Iterator[torch.Tensor]:
    """Hidden states (n, D) after `layers` layers, in half precision, of each text as it stands."""
    store = eng.model.new_store()
    for s in said:
        seq, rows = store.new(), chain(s.tokens.numpy(), 0)
        group = Group(seq, rows, PLAIN, Told(len(rows)), None)
        (out,), _ = eng.model.forward(Step([group], stop=layers, taps=frozenset({"last"})), store)
        store.drop(seq)
        yield out.hidden["last"].half()


def forward(x: torch.Tensor, spec: Spec, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """The adapter over whole texts: x (B, n, D) -> (B, n, D) before the model's final norm. As the decoder runs it."""
    block, layer = adapter.Adapter(spec, weights), spec.n_layers - 1
    b, n, d = x.shape
    cos, sin = (t.repeat(b, 1) for t in cos_sin(spec.ropes[layer], torch.arange(n), x.dtype))
    flat = x.reshape(b * n, d)
    q, k, v = (t.view(b, n, -1, spec.head_dim).transpose(1, 2) for t in block.qkv(flat, cos, sin))
    group = spec.n_heads // spec.n_kv_heads
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    z = q @ k.transpose(2, 3) * spec.scale
    if spec.attn_softcap is not None:
        z = spec.attn_softcap * torch.tanh(z / spec.attn_softcap)
    age = torch.arange(n)[:, None] - torch.arange(n)
    hidden_from = (age < 0) | (age >= (spec.windows[layer] or n))
    o = torch.softmax(z.masked_fill(hidden_from, float("-inf")), -1) @ v
    return block.mlp(block.out(o.transpose(1, 2).reshape(b * n, -1), flat)).view(b, n, d)


def lesson(
    said: Sequence[Spoken],
    states: Sequence[torch.Tensor],
    spec: Spec,
    weights: dict[str, torch.Tensor],
    head: DenseHead,
    rng: np.random.Generator,
) -> torch.Tensor:
    """The loss on some texts."""
    longest = max(map(len, states))
    x = torch.zeros(len(said), longest, spec.d_model, dtype=head.norm.dtype)
    for i, h in enumerate(states):
        x[i, : len(h)] = h
    y = forward(x, spec, weights)
    # The state at place t - 1 foretells token t: answer tokens stand from `start` on.
    y = torch.cat([y[i, s.start - 1 : s.start - 1 + len(s.ids)] for i, s in enumerate(said)])
    return distil(y, torch.cat([s.ids for s in said]), torch.cat([s.logp for s in said]), head, rng)


@dataclass(frozen=True)
class Foresight:
    """At every answer token: was the draft right, and how sure was it? Both (A,)."""

    right: np.ndarray
    sure: np.ndarray


@torch.inference_mode()
def foresight(
    eng: Engine, said: Sequence[Spoken], layers: int, spec: Spec, weights: dict[str, torch.Tensor]
) -> list[Foresight]:
    """What the draft says along each answer, by the engine's own head."""
    out = []
    for s, h in zip(said, hidden(eng, said, layers)):
        y = forward(h[None].float(), spec, weights)[0, s.start - 1 : s.start - 1 + len(s.ids)]
        z = eng.model.head.logits(y.contiguous())
        best, token = z.max(-1)
        out.append(Foresight((token == s.ids[:, 0]).numpy(), (1 / (z - best[:, None]).exp().sum(-1)).numpy()))
    return out


def _agreement(seen: list[Foresight]) -> float:
    return round(float(np.concatenate([f.right for f in seen]).mean()), 4)


def simulate(f: Foresight, length: int, threshold: float) -> int:
    """Forwards of the model that drafting along one answer as EarlyExit does would take."""
    at = forwards = 0
    while at < len(f.right):
        forwards += 1
        for _ in range(min(length, len(f.right) - at - 1)):
            right, sure = f.right[at], f.sure[at]
            at += int(right)
            if not right or sure < threshold:
                break
        at += 1
    return forwards
