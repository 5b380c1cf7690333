"""Trains the prompt tokens of methods/propose/prompt_tokens.py: a few vectors behind a text that foretell its tokens after next.

    loss = sum_i 0.8^(i-1) * cross-entropy of (the frozen model at p_i, behind x_t) with what it said about x_t+1+i

Gradients run through the whole frozen model, but only through the prompt tokens' own rows: the keys and values of the text
come from the engine and are constants. Many places of a text are asked at once; each place's rows see the text up to there
and each other. Only the vectors are trained. Afterwards the guesses' ranks are measured on held-out texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from fewer.engine import Engine
from fewer.methods.propose.prompt_tokens import KIND, RANKS, fresh
from fewer.models.decoder import Decoder
from fewer.models.layers import DenseHead
from fewer.models.load import load
from fewer.models.rope import cos_sin
from fewer.models.spec import Spec
from fewer.parts.sparse_tree import dynamic, gain
from fewer.parts.trained import write
from fewer.plan import PLAIN
from fewer.train.frozen import Past, distil, past
from fewer.train.said import Spoken
from fewer.train.session import Session
from fewer.types import Group, Rows, Step, Told

TEXTS = 1  # a step: reading one costs as much as asking it
PLACES = 64  # asked in a text
DECAY = 0.8
RATE = 0.02  # of a vector's own typical size
BUDGETS = (3, 5, 7, 11, 15)


def train(session: Session, output: Path, prompts: int, command: str) -> dict[str, object]:
    """Learn `prompts` prompt tokens and write them; returns what they reach on held-out texts."""
    eng = session.eng
    learn, judge = session.spoken()
    learn = [s for s in learn if len(s.ids) > prompts + 2]
    session.say("dequantising the model")
    dense, head = load(session.source, "float32"), session.head()
    start = fresh(eng.model.head.embed, prompts)
    size = float(start.pow(2).mean().sqrt())
    vectors = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([vectors], betas=(0.9, 0.98))
    rng = np.random.default_rng(session.seed)

    def lessons(share: float) -> Iterator[torch.Tensor]:
        for i in rng.choice(len(learn), min(TEXTS, len(learn)), replace=False):
            yield lesson(eng, dense, learn[i], vectors, head, rng) / TEXTS

    reached = session.descend(optimizer, RATE * size, lessons)
    session.say("measuring the guesses")
    trained = vectors.detach()
    rates = measure(eng, judge, trained)
    report: dict[str, object] = {
        "prompts": prompts,
        "steps": reached.steps,
        "answers": len(learn),
        "tokens": sum(len(s.ids) for s in learn),
        "loss": reached.loss,
        "first_rank": [round(row[0], 4) for row in rates],
        "first_rank_untrained": [round(row[0], 4) for row in measure(eng, judge, start)],
        "accepted": {b: round(gain(dynamic(rates, b)), 3) for b in BUDGETS},
    }
    write(
        output,
        KIND,
        {"prompts": trained, "rates": torch.tensor(rates)},
        eng.model,
        {**session.about(command), **report},
    )
    return report


def lesson(
    eng: Engine, dense: Decoder, s: Spoken, vectors: torch.Tensor, head: DenseHead, rng: np.random.Generator
) -> torch.Tensor:
    """The loss of one text: its prompt tokens at some places of the answer, farther ones weighing less."""
    m = len(vectors)
    answer = len(s.ids)
    at = np.sort(rng.choice(answer - m - 1, min(PLACES, answer - m - 1), replace=False))
    y = ask(dense, past(eng.model, s.tokens), torch.from_numpy(at + s.start), vectors).view(len(at), m, -1)
    said = torch.from_numpy(at)[:, None] + 2 + torch.arange(m)  # rows of the answer that each place's guesses are about
    losses = [distil(y[:, i], s.ids[said[:, i]], s.logp[said[:, i]], head, rng) * DECAY**i for i in range(m)]
    return torch.stack(losses).sum() / sum(DECAY**i for i in range(m))


def ask(dense: Decoder, text: Past, at: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Final states (P * m, D) of m prompt tokens behind each of the P places `at` of a text."""
    spec, m, p = dense.spec, len(vectors), len(at)
    pos = (at[:, None] + 1 + torch.arange(m)).flatten()
    x = vectors.repeat(p, 1)
    for layer, block in enumerate(dense.blocks):
        q, k, v = block.qkv(x, *cos_sin(spec.ropes[layer], pos, x.dtype))
        # a copy: what inference mode made cannot be kept for a backward pass
        keys, values = (t[layer].to(x.dtype, copy=True) for t in (text.keys, text.values))
        x = block.mlp(block.out(attend(spec, layer, q, k, v, keys, values, at, pos, m), x))
    return x


def attend(
    spec: Spec,
    layer: int,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    at: torch.Tensor,
    pos: torch.Tensor,
    m: int,
) -> torch.Tensor:
    """q (P * m, Hq, d), k, v (P * m, H, d): each place's rows see the text (H, n, d) up to it, and each other in order."""
    rows, p, h = len(q), len(at), spec.n_kv_heads
    g, n, d = spec.n_heads // h, keys.shape[1], spec.head_dim
    qs = q.view(rows, h, g, d).transpose(0, 1)  # (H, R, g, d)
    far = torch.einsum("hrgd,hnd->hrgn", qs, keys)
    own_k, own_v = (t.view(p, m, h, d).permute(2, 0, 1, 3) for t in (k, v))  # (H, P, m, d)
    near = torch.einsum("hpigd,hpjd->hpigj", qs.reshape(h, p, m, g, d), own_k).reshape(h, rows, g, m)
    z = torch.cat([far, near], -1) * spec.scale
    if spec.attn_softcap is not None:
        z = spec.attn_softcap * torch.tanh(z / spec.attn_softcap)
    window = spec.windows[layer] or n + m
    of = torch.arange(n)
    place = at.repeat_interleave(m)[:, None]
    seen = (of <= place) & (pos[:, None] - of < window)
    i = torch.arange(m).repeat(p)[:, None]
    j = torch.arange(m)
    mask = torch.cat([seen, (j <= i) & (i - j < window)], -1)
    prob = torch.softmax(z.masked_fill(~mask[None, :, None], float("-inf")), -1)
    o = torch.einsum("hrgn,hnd->hrgd", prob[..., :n], values)
    own = torch.einsum("hpigj,hpjd->hpigd", prob[..., n:].reshape(h, p, m, g, m), own_v)
    return (o + own.reshape(h, rows, g, d)).transpose(0, 1).reshape(rows, h * g, d)


@torch.inference_mode()
def measure(eng: Engine, judge: Sequence[Spoken], vectors: torch.Tensor) -> tuple[tuple[float, ...], ...]:
    """rates[d][r]: how often the guess of rank r at depth d is right, where every shallower one was among the guesses.

    By the engine's own forward, at every fourth token of the answers.
    """
    m = len(vectors)
    hits, tried = torch.zeros(m, RANKS), torch.zeros(m, 1)
    for s in judge:
        at = torch.arange(0, len(s.ids) - m - 1, 4)
        if not len(at):
            continue
        guesses = guess(eng.model, s.tokens, at + s.start, vectors)
        truth = s.ids[at[:, None] + 2 + torch.arange(m), 0]
        right = guesses == truth[..., None]
        alive = torch.ones(len(at), dtype=torch.bool)
        for d in range(m):
            hits[d] += right[alive, d].sum(0)
            tried[d] += alive.sum()
            alive &= right[:, d].any(-1)
    return tuple(tuple(row) for row in (hits / tried.clamp_min(1)).tolist())


def guess(model: Decoder, tokens: torch.Tensor, at: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """The engine's guesses (P, m, RANKS) behind the places `at` of a text: the text as a chain, prompt tokens as branches."""
    n, m, p = len(tokens), len(vectors), len(at)
    parent = torch.cat([at[:, None], n + torch.arange(p)[:, None] * m + torch.arange(m - 1)], 1).flatten()
    rows = Rows(
        np.concatenate([np.arange(n), (at[:, None] + 1 + torch.arange(m)).flatten().numpy()]),
        np.concatenate([np.arange(-1, n - 1), parent.numpy()]),
        np.concatenate([tokens.numpy(), np.full(p * m, -1)]),
        vectors.repeat(p, 1),
        False,
    )
    store = model.new_store()
    seq = store.new()
    want = np.arange(n, n + p * m)
    (out,), _ = model.forward(Step([Group(seq, rows, PLAIN, Told(n), want)]), store)
    store.drop(seq)
    assert out.logits is not None
    return torch.topk(out.logits, min(RANKS, model.spec.vocab)).indices.view(p, m, -1)
